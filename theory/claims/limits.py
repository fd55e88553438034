"""Limits: constrained MDPs and their multipliers, sets of states that can be kept safe."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import worst
from fenchel.theory.instances.generated import garnet
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value

GAMMA = 0.8


def constrained(rng: Rng, n: int) -> Problem:
    """Reward and cost channels; a budget between the least cost and the cost of the reward's optimum."""
    mdp = garnet(rng, n, 4, 3, 3, GAMMA, channels=2)
    actions = torch.tensor(list(itertools.product(range(3), repeat=4)))
    policies = torch.nn.functional.one_hot(actions, 3).to(mdp.r)
    wide = mdp.map(lambda t: t[:, None].expand(n, len(policies), *t.shape[1:]))
    returns = (wide.mu0[..., None, :] * policy_value(wide, policies.expand(n, -1, -1, -1))).sum(-1)  # (n, 81, 2)
    reward, cost = returns[..., 0], returns[..., 1]
    free = cost.gather(1, reward.argmax(1, keepdim=True))[:, 0]
    budget = cost.amin(1) + rng.uniform(n, low=0.2, high=0.8) * (free - cost.amin(1)) + 1e-3
    return dict(mdp=mdp, reward=reward, cost=cost, budget=budget)


def _linear_program(p: Problem) -> tuple[Tensor, Tensor]:
    answers = [
        solve(p["mdp"][i], "cmdp", budgets=p["budget"][i : i + 1], unit="discounted", method="lp")
        for i in range(len(p["budget"]))
    ]
    return torch.stack([a.lower for a in answers]), torch.stack([a.multipliers[0] for a in answers])


def _cmdp_duality(p: Problem, deterministic: bool = False) -> ClaimReport:
    """The LP's value against min over lambda of the best deterministic policy of J_r - lambda (J_c - d): the dual
    function is piecewise linear, so its minimum lies where two policies cross."""
    value, _ = _linear_program(p)
    slack = p["cost"] - p["budget"][:, None]
    if deterministic:
        feasible = torch.where(slack <= 0, p["reward"], -torch.inf).amax(-1)
        return ClaimReport((value - feasible).abs(), 1e-7)
    pairs = (p["reward"][:, :, None] - p["reward"][:, None]) / (slack[:, :, None] - slack[:, None])
    lam = torch.nan_to_num(pairs, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0).flatten(1)
    dual = (p["reward"][:, None] - lam[..., None] * slack[:, None]).amax(-1).amin(-1)
    return ClaimReport((value - dual).abs(), 1e-7)


CMDP_DUALITY = Claim(
    paper=108,
    kind="theorem",
    statement="constrained MDP: the linear program's value equals min over lambda >= 0 of max over pi of J_r - "
    "lambda (J_c - d)",
    problems=constrained,
    check=_cmdp_duality,
    twin=Twin("randomised policies (the best feasible deterministic one)", check=lambda p: _cmdp_duality(p, True)),
    source="derived",
    n=16,
)


def _envelope(p: Problem, sign: float = 1.0, step: float = 1e-6) -> ClaimReport:
    _, lam = _linear_program(p)
    up, down = (_linear_program(p | dict(budget=p["budget"] + s * step))[0] for s in (1, -1))
    return ClaimReport(((up - down) / (2 * step) - sign * lam).abs(), 1e-4)


ENVELOPE = Claim(
    paper=301,
    kind="theorem",
    statement="the optimal multiplier is the price of the limit: d value / d budget = lambda*",
    problems=constrained,
    check=_envelope,
    twin=Twin("the sign of the price", check=lambda p: _envelope(p, -1.0)),
    source="derived",
    n=8,
)


def graphs(rng: Rng, n: int) -> Problem:
    """Deterministic graphs of six states and two actions; some states violate (h = 25, others -1)."""
    step = rng.integers(6, n, 6, 2)
    bad = rng.uniform(n, 6) < 0.35
    bad[:, 0] = False
    return dict(step=step, h=torch.where(bad, 25.0, -1.0).to(torch.float64))


def _violation(p: Problem, gamma: float, rounds: int) -> Tensor:
    """Fixed point of V = (1 - g) h + g max(h, min_a V(s')), (n, 6)."""
    V = p["h"].clone()
    for _ in range(rounds):
        following = V.gather(1, p["step"].flatten(1)).reshape(*p["step"].shape).amin(-1)
        V = (1 - gamma) * p["h"] + gamma * torch.maximum(p["h"], following)
    return V


def _invariant(p: Problem) -> Tensor:
    """States from which some of all 2^6 stationary policies never meets a violation, (n, 6)."""
    safe = torch.zeros_like(p["h"], dtype=torch.bool)
    for actions in itertools.product((0, 1), repeat=6):
        follow = p["step"].gather(-1, torch.tensor(actions).expand(len(safe), 6)[..., None])[..., 0]
        where, clean = torch.arange(6).expand(len(safe), 6), torch.ones_like(safe)
        for _ in range(7):
            clean &= p["h"].gather(1, where) <= 0
            where = follow.gather(1, where)
        safe |= clean
    return safe


def _feasible_region(p: Problem, gamma: float = 1.0) -> ClaimReport:
    region = _violation(p, gamma, 12 if gamma == 1.0 else 400) <= 0
    return ClaimReport((region != _invariant(p)).any(-1).to(torch.float64), 0.0)


FEASIBLE_REGION = Claim(
    paper=10,
    kind="theorem",
    statement="FISOR, undiscounted: {V_h <= 0} is the largest set of states from which some policy never violates",
    problems=graphs,
    check=_feasible_region,
    twin=Twin("gamma = 1 (0.1 misses violations two steps ahead)", check=lambda p: _feasible_region(p, 0.1)),
    source="derived",
    n=64,
)


def _blind_spot(p: Problem, gamma: float = 0.99) -> ClaimReport:
    """A corridor forced into a violation k steps ahead: V_h = 25 g^k - (1 - g^k) is negative for k = 325 only."""
    V, values = p["h"], []
    for _ in range(326):
        values.append(V)
        V = (1 - gamma) * -1.0 + gamma * torch.maximum(-torch.ones_like(V), V)
    near, far = values[324], values[325]
    return ClaimReport(worst(-near, far), 0.0)


BLIND_SPOT = Claim(
    paper=10,
    kind="counterexample",
    statement="FISOR with gamma = 0.99 calls a state feasible that is forced into a violation 325 steps ahead (not "
    "324)",
    problems=lambda rng, n: dict(h=torch.full((1,), 25.0, dtype=torch.float64)),
    check=_blind_spot,
    source="derived",
    twin=Twin("the discount (gamma = 1 sees any distance)", check=lambda p: _blind_spot(p, 1.0)),
)


def bilinear(rng: Rng, n: int) -> Problem:
    return dict(a=rng.uniform(n, low=0.3, high=3.0), c=rng.uniform(n, low=0.5, high=3.0))


def _oscillation(p: Problem, augmented: bool = True, step: float = 0.05) -> ClaimReport:
    """Gradient descent-ascent on lam a x + (c/2)(a x)^2: the spectral radius of one step is below 1 only for c > 0."""
    a, c = p["a"], p["c"] if augmented else torch.zeros_like(p["c"])
    step_matrix = torch.stack(
        [torch.stack([1 - step * c * a**2, -step * a], -1), torch.stack([step * a, torch.ones_like(a)], -1)], -2
    )
    return ClaimReport(torch.linalg.eigvals(step_matrix).abs().amax(-1) - 1, -1e-6)


OSCILLATION = Claim(
    paper=272,
    kind="theorem",
    statement="primal-dual steps on a bilinear Lagrangian spiral out; the augmented term c > 0 makes them contract",
    problems=bilinear,
    check=_oscillation,
    twin=Twin("the augmented term", check=lambda p: _oscillation(p, False)),
    source="derived",
)
