"""What constrained learners estimate: COptiDICE's bound and its threshold, CAL's Lagrangian and its ensemble."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.budgets import convert
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import worst
from fenchel.theory.rng import Rng


def _flows(rng: Rng, n: int) -> Problem:
    """Deterministic moves of five states and two actions, all pairs equally frequent in the data; any chi and tau."""
    draw = dict(step=rng.integers(5, n, 5, 2), cost=rng.uniform(n, 5, 2), start=rng.simplex(n, 5))
    draw |= dict(policy=rng.simplex(n, 5, 2), gamma=rng.uniform(n, low=0.5, high=0.95), chi=5 * rng.normal(n, 5))
    return draw | dict(tau=rng.uniform(n, low=0.05, high=20.0), radius=rng.uniform(n), wrong=rng.uniform(n, 5, 2))


def _cost_bound(p: Problem, flow: bool = True) -> ClaimReport:
    """(1 - g) J_c by a linear solve, against tau log E exp(x / tau) + tau eps."""
    move = torch.nn.functional.one_hot(p["step"], 5).to(p["cost"])  # (n, S, A, S)
    kernel = torch.einsum("nsa,nsat->nst", p["policy"], move)
    gamma = p["gamma"][:, None]
    visits = torch.linalg.solve(
        torch.eye(5).to(kernel) - gamma[..., None] * kernel.mT, (1 - gamma) * p["start"]
    )  # normalised
    occupancy = visits[..., None] * p["policy"]
    exact = (occupancy * p["cost"]).sum((-1, -2))
    weight = 10 * (occupancy if flow else p["wrong"] / p["wrong"].sum((-1, -2), keepdim=True))
    following = torch.einsum("nsat,nt->nsa", move, p["chi"])
    residual = p["cost"] + gamma[..., None] * following - p["chi"][..., None]
    x = (1 - gamma) * (p["start"] * p["chi"]).sum(-1, keepdim=True) + (weight * residual).flatten(1)
    scaled = torch.logsumexp(x / p["tau"][:, None], -1) - torch.log(torch.tensor(10.0).to(x))
    return ClaimReport(exact - p["tau"] * (scaled + p["radius"]), 1e-9)


COST_BOUND = Claim(
    paper=108,
    kind="theorem",
    statement="COptiDICE: if w is the ratio of an occupancy, tau log E_D exp(((1 - g) E chi(s0) + w (c + g chi(s') - "
    "chi(s))) / tau) + tau eps is at least (1 - g) J_c for every chi, tau and eps",
    problems=_flows,
    check=_cost_bound,
    twin=Twin("the flow equations (any weights of mean 1)", check=lambda p: _cost_bound(p, False)),
    source="derived",
)


def _episodes(rng: Rng, n: int) -> Problem:
    horizon = 100 + rng.integers(300, n)
    return dict(
        horizon=horizon, share=rng.uniform(n, low=0.04, high=0.5), gamma=torch.full((n,), 0.99).to(torch.float64)
    )


def _threshold(p: Problem, normalised: bool = False) -> ClaimReport:
    """Every step costs 1, so that E_w c = 1 for any weights of mean 1; the limit is a share of the episode's steps."""
    limits = (p["share"] * p["horizon"]).tolist()
    options = [dict(gamma=g, horizon=T) for g, T in zip(p["gamma"].tolist(), p["horizon"].tolist(), strict=True)]
    pairs = list(zip(limits, options, strict=True))
    right = torch.tensor([convert(x, "episode", "normalised", **o) for x, o in pairs]).to(p["share"])
    wrong = torch.tensor([convert(x, "episode", "discounted", **o, ends=True) for x, o in pairs]).to(p["share"])
    used = right if normalised else wrong
    return ClaimReport(worst(1 - used, right - 1), 0.0)


COST_THRESHOLD = Claim(
    paper=108,
    kind="counterexample",
    statement="COptiDICE held to the discounted limit L (1 - g^T) / ((1 - g) T): E_w c <= 1 never exceeds it once it "
    "is 1 or more (L >= 0.04 T at g = 0.99, T >= 100), though an episode costs T > L",
    problems=_episodes,
    check=_threshold,
    twin=Twin("the unit (the normalised limit L / T)", check=lambda p: _threshold(p, True)),
    source="derived",
)


def _quadratic(rng: Rng, n: int) -> Problem:
    """min x'Hx/2 - b'x  s.t.  g'x <= d, with a limit that binds in about half of the problems."""
    root = rng.normal(n, 4, 4)
    H = root @ root.mT + 0.5 * torch.eye(4).to(root)
    return dict(H=H, b=rng.normal(n, 4), g=rng.normal(n, 4), d=rng.normal(n), c=rng.uniform(n, low=0.1, high=50.0))


def _kkt(p: Problem) -> tuple[Tensor, Tensor]:
    """(x, lam) in closed form: unconstrained, or on the boundary."""
    free, pull = torch.linalg.solve(p["H"], p["b"]), torch.linalg.solve(p["H"], p["g"])
    lam = (((p["g"] * free).sum(-1) - p["d"]) / (p["g"] * pull).sum(-1)).clamp(min=0)
    return free - lam[:, None] * pull, lam


def _penalised(p: Problem, lam: Tensor) -> Tensor:
    """argmin over x of the augmented Lagrangian at lam: its penalty is on, or off."""
    free, c = torch.linalg.solve(p["H"], p["b"]), p["c"]
    stiff = p["H"] + c[:, None, None] * p["g"][:, :, None] * p["g"][:, None]
    on = torch.linalg.solve(stiff, p["b"] - ((lam - c * p["d"])[:, None] * p["g"]))
    active = lam + c * ((p["g"] * free).sum(-1) - p["d"]) > 0
    return torch.where(active[:, None], on, free)


def _shared_kkt(p: Problem, multiplier: bool = True) -> ClaimReport:
    """At the KKT point the augmented gradient and the change of lam vanish; and its own iteration ends there."""
    x, lam = _kkt(p)
    shifted = (lam + p["c"] * ((p["g"] * x).sum(-1) - p["d"])).clamp(min=0)
    gradient = (p["H"] @ x[..., None])[..., 0] - p["b"] + shifted[:, None] * p["g"]
    found, price = _penalised(p, torch.zeros_like(lam)), torch.zeros_like(lam)
    for _ in range(2000 if multiplier else 0):
        price = (price + p["c"] * ((p["g"] * found).sum(-1) - p["d"])).clamp(min=0)
        found = _penalised(p, price)
    apart = worst((found - x).norm(dim=-1), (price - lam).abs() if multiplier else torch.zeros_like(lam))
    return ClaimReport(worst(gradient.norm(dim=-1), (shifted - lam).abs(), apart) / (1 + lam), 1e-6)


SHARED_KKT = Claim(
    paper=272,
    kind="theorem",
    statement="CAL: for every c > 0 the augmented Lagrangian, whose multiplier is (lam + c (J_c - d))_+, has the KKT "
    "points of the plain one, and its own iteration ends there (checked: convex quadratic programs)",
    problems=_quadratic,
    check=_shared_kkt,
    twin=Twin("the multiplier (the penalty c alone)", check=lambda p: _shared_kkt(p, False)),
    source="derived",
)


def _ensemble(rng: Rng, n: int) -> Problem:
    """Estimates of a cost without bias: each member is off by one of three numbers of mean 0, independently."""
    law, error = rng.simplex(n, 3), rng.normal(n, 3)
    error = error - (law * error).sum(-1, keepdim=True)
    return dict(law=law, error=error, cost=rng.uniform(n, high=10.0), k=rng.uniform(n, high=2.0))


def _conservative(p: Problem, sign: float = 1.0) -> ClaimReport:
    """Exact expectations over all 3^4 outcomes of four members; std with the divisor E - 1, as released."""
    outcomes = torch.tensor(list(itertools.product(range(3), repeat=4)))
    law, error = p["law"][:, outcomes].prod(-1), p["error"][:, outcomes]  # (n, 81), (n, 81, 4)
    members = p["cost"][:, None, None] + error
    bounds = members.mean(-1) + sign * p["k"][:, None] * members.std(-1), (sign * members).amax(-1) * sign
    expected = torch.stack([(law * bound).sum(-1) for bound in bounds], -1)
    return ClaimReport(p["cost"] - expected.amin(-1), 1e-9)


CONSERVATIVE = Claim(
    paper=272,
    kind="theorem",
    statement="CAL: of unbiased cost estimates, the largest and mean + k std (k >= 0) are at least the true cost in "
    "expectation",
    problems=_ensemble,
    check=_conservative,
    twin=Twin("the sign (the smallest, mean - k std)", check=lambda p: _conservative(p, -1.0)),
    source="derived",
)
