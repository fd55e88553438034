"""Actions chosen by a critic: CFPI's step, PRDC's neighbour, PA-RL's ascent, guidance, and zero-shot policies."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.occupancies import problems
from fenchel.theory.claims.tools import expect, worst
from fenchel.theory.mdp import replace_reward
from fenchel.theory.objectives.policy import ascend, cfpi_action, nearest_action
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import policy_iteration, q_values


def gaussians(rng: Rng, n: int) -> Problem:
    draw = dict(mean=rng.normal(n, 1, 4), gradient=rng.normal(n, 1, 4), radius=rng.uniform(n, 1, low=0.01, high=2.0))
    return draw | dict(std=rng.uniform(n, 1, 4, low=0.1, high=2.0))


def _closed_form(p: Problem, power: float = 1.0) -> ClaimReport:
    """Karush, Kuhn and Tucker: on the ellipsoid, with g = lambda S^-1 (a - mean), lambda >= 0."""
    g, std, radius = p["gradient"], p["std"], p["radius"]
    move = cfpi_action(p["mean"], std**power, g, radius=radius) - p["mean"]
    outward = move / std.square()
    length = (move * outward).sum(-1) / 2
    multiplier = (g * move).sum(-1) / (2 * radius)
    stationary = (g - multiplier[..., None] * outward).abs().amax(-1)
    still = cfpi_action(p["mean"], std, g, radius=0.0) - p["mean"]
    return ClaimReport(worst((length - radius).abs(), stationary, -multiplier, still.abs().amax(-1)).amax(-1), 1e-10)


CLOSED_FORM = Claim(
    paper=267,
    kind="theorem",
    statement="CFPI: a = mean + sqrt(2 delta) S g / sqrt(g'Sg) satisfies the KKT conditions of max g'a, (a - mean)' "
    "S^-1 (a - mean) <= 2 delta: g = lambda S^-1 (a - mean), lambda >= 0",
    problems=gaussians,
    check=_closed_form,
    twin=Twin("the variance S (a standard deviation instead)", check=lambda p: _closed_form(p, 0.5)),
    source="derived",
)


def neighbours(rng: Rng, n: int) -> Problem:
    """Six states with four recorded actions each, and queries (s, a)."""
    states = rng.normal(n, 6, 3).repeat_interleave(4, 1)
    return dict(
        states=states,
        actions=rng.normal(n, 24, 2),
        obs=rng.normal(n, 5, 3),
        action=rng.normal(n, 5, 2),
        other=rng.normal(n, 5, 5),
    )


def nearest(p: Problem, obs: Tensor, action: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Squared distances of states and of actions to the row that ours picks, each (n, 5)."""
    rows = torch.func.vmap(lambda *x: nearest_action(*x, scale=scale))(obs, action, p["states"], p["actions"])
    index = torch.arange(len(rows), device=rows.device)[:, None]
    return (obs - p["states"][index, rows]).square().sum(-1), (action - p["actions"][index, rows]).square().sum(-1)


def _neighbour(p: Problem, far: float = 1e3, expected: float | None = None) -> ClaimReport:
    """scale = 0, a large scale, and the distance at scale 2 with its Lipschitz constant, by enumeration of all rows."""
    scale, far_squared = 2.0, (expected or far) ** 2
    states = (p["obs"][:, :, None] - p["states"][:, None]).square().sum(-1)
    actions = (p["action"][:, :, None] - p["actions"][:, None]).square().sum(-1)
    closest = states.amin(-1, keepdim=True)
    there = actions.masked_fill(states > closest, torch.inf).amin(-1)  # the nearest action at the nearest state
    free = nearest(p, p["obs"], p["action"], 0.0)[1] - actions.amin(-1)
    state, action = nearest(p, p["obs"], p["action"], far)
    move = torch.cat([scale * p["other"][..., :3], p["other"][..., 3:]], -1).norm(dim=-1)
    distances = []
    for shift in (0.0, 1.0):
        obs, act = p["obs"] + shift * p["other"][..., :3], p["action"] + shift * p["other"][..., 3:]
        found = nearest(p, obs, act, scale)
        distances.append((scale**2 * found[0] + found[1]).sqrt())
    longer = distances[0] - (scale**2 * states + actions).amin(-1).sqrt()
    change = (distances[1] - distances[0]).abs() - move
    far_off = worst(state - closest[..., 0] - there / far_squared, action - there)
    return ClaimReport(worst(free, far_off, longer, change).amax(-1), 1e-9)


NEIGHBOUR = Claim(
    paper=73,
    kind="theorem",
    statement="PRDC's row nearest to [c s, a]: for c = 0 it has the data's nearest action, as c grows the nearest "
    "state and an action as near as the nearest one there, to within |a - a'|^2/c^2; the distance is 1-Lipschitz",
    problems=neighbours,
    check=_neighbour,
    twin=Twin("a large scale (1, judged as 1000)", check=lambda p: _neighbour(p, 1.0, 1e3)),
    source="derived",
    n=64,
)


def critics(rng: Rng, n: int) -> Problem:
    """Sums of eight plane waves over actions (n, 5, 3) in [-1, 1]^3, and steps up to many times a wave length."""
    waves = dict(wave=4 * rng.normal(n, 8, 3), phase=6.3 * rng.uniform(n, 8), height=rng.normal(n, 8))
    return waves | dict(action=rng.uniform(n, 5, 3, low=-1.0), step=10 ** rng.uniform(n, 1, low=-3.0, high=0.5))


def _ascent(p: Problem, keep_best: bool = True) -> ClaimReport:
    """Q and bounds of what ours returns, and of the softmax of Q over the five results against the five starts."""

    def q(a: Tensor) -> Tensor:
        angle = torch.einsum("nka,nba->nbk", p["wave"], a) + p["phase"][:, None]
        return (p["height"][:, None] * torch.sin(angle)).sum(-1)

    if keep_best:
        found = ascend(p["action"], q, step=p["step"], rounds=6)
    else:
        found = p["action"]
        for _ in range(6):
            found = found.detach().requires_grad_()
            found = (found + p["step"][..., None] * torch.autograd.grad(q(found).sum(), found)[0]).clamp(-1, 1).detach()
    before, after = q(p["action"]), q(found)
    chosen = expect(torch.softmax(after, -1), after)
    fall = worst((before - after).amax(-1), before.amax(-1) - after.amax(-1), before.mean(-1) - chosen)
    return ClaimReport(worst(fall, found.abs().amax((-2, -1)) - 1), 1e-12)


ASCENT = Claim(
    paper=56,
    kind="theorem",
    statement="PA-RL: keeping the best action of the ascent's path gives Q(s, a_out) >= Q(s, a_in) at any step size; "
    "the softmax of Q over the results has at least the mean Q of the starts",
    problems=critics,
    check=_ascent,
    twin=Twin("that the best action of the path is kept", check=lambda p: _ascent(p, False)),
    source="derived",
)


def arms(rng: Rng, n: int) -> Problem:
    return dict(pi=rng.simplex(n, 5), a=2 * rng.normal(n, 5), slope=rng.uniform(n, 1, low=0.2, high=4.0))


def _selectivity(p: Problem, sign: float = 1.0) -> ClaimReport:
    """E A under pi f(A)^w, f = 1 / (1 + e^{-c A}), along w: its derivative in w against the covariance."""
    log_f = -torch.log1p(torch.exp(-sign * p["slope"] * p["a"]))
    results = []
    for at in (0.0, 1.0, 3.0, 10.0, 30.0):
        w = torch.full_like(p["slope"], at, requires_grad=True)
        pi = torch.softmax(p["pi"].log() + w * log_f, -1)
        slope = torch.autograd.grad(expect(pi, p["a"]).sum(), w)[0][:, 0]
        pi = pi.detach()
        covariance = expect(pi, (p["a"] - expect(pi, p["a"])[:, None]) * log_f)
        results += [(slope - covariance).abs(), -slope]
    return ClaimReport(worst(*results), 1e-11)


SELECTIVITY = Claim(
    paper=280,
    kind="theorem",
    statement="CFGRL: under pi_w = pi f(A)^w / Z the mean advantage has the derivative Cov(A, log f(A)) in w, so that "
    "it never falls with w for a non-decreasing f (J itself may: policy_improvement.guidance_weight)",
    problems=arms,
    check=_selectivity,
    twin=Twin("a non-decreasing f", check=lambda p: _selectivity(p, -1.0)),
    source="derived",
)


def representations(rng: Rng, n: int) -> Problem:
    """Garnets with the reward of a task, another reward, and any invertible matrix B of one row per pair."""
    p = problems(rng, n)
    return dict(
        mdp=p["mdp"], ref=p["ref"], other=rng.normal(n, 4, 2), B=rng.normal(n, 8, 8) + 4 * torch.eye(8).to(p["V"])
    )


def _zero_shot(p: Problem, same_task: bool = True) -> ClaimReport:
    """F of the task's optimal policy with F B' ref = its successor measure; F z, z = E_ref[r B], against optimal Q."""
    mdp = p["mdp"]
    greedy = policy_iteration(mdp if same_task else replace_reward(mdp, p["other"]))[1]
    policy = torch.nn.functional.one_hot(greedy, mdp.num_actions).to(mdp.r)
    moves = torch.einsum("nsat,ntb->nsatb", mdp.kernel, policy).flatten(3).flatten(1, 2)
    measure = torch.linalg.inv(torch.eye(moves.shape[-1]).to(moves) - moves)
    ref = p["ref"].flatten(1)
    F = torch.linalg.solve((p["B"] * ref[..., None]).mT, measure, left=False)
    z = torch.einsum("nx,nx,nxd->nd", ref, mdp.r.flatten(1), p["B"])
    Q = torch.einsum("npd,nd->np", F, z).view_as(mdp.r)
    return ClaimReport((Q - q_values(mdp, policy_iteration(mdp)[0])).abs().amax((-2, -1)), 1e-7)


ZERO_SHOT = Claim(
    paper=15,
    kind="theorem",
    statement="forward-backward: if F(s, a)' B(x) ref(x) is the successor measure of pi_z and z = E_ref[r B], F z is "
    "the Q of pi_z for r: with pi_z optimal it is Q*, for every reward",
    problems=representations,
    check=_zero_shot,
    twin=Twin("the policy of that z (of another reward)", check=lambda p: _zero_shot(p, False)),
    source="derived",
    n=64,
)
