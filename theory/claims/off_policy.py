"""Off-policy evaluation: what DualDICE and fitted Q evaluation estimate, on exact populations.

`ref` (n, S, A) is the data's law of pairs, e = r + gamma P Q(s', pi) - Q, and episodes may end: a pair's discount is
gamma times the probability of going on. d is the target's normalised occupancy, (1 - gamma) sum_t gamma^t Pr(s_t, a_t),
and w = d / ref. None of these papers is in the catalogue by itself: they stand under Dual RL [2], whose dual-Q without
a maximum over policies they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.occupancies import GAMMA, action_values, residual_q, total
from fenchel.theory.claims.tools import worst
from fenchel.theory.instances.generated import garnet
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.objectives import dual
from fenchel.theory.objectives.value import bellman_backup, td
from fenchel.theory.regularisers import power
from fenchel.theory.rng import Rng

S, A = 4, 2


def problems(rng: Rng, n: int) -> Problem:
    """Garnets some of whose pairs end the episode half of the time, a target policy, and data that cover every pair."""
    mdp = garnet(rng, n, S, A, 3, GAMMA)
    ends = 0.5 * (rng.uniform(n, S, A) < 0.3).to(mdp.P)
    return dict(
        mdp=TabularMDP(mdp.P, mdp.r, mdp.mu0, GAMMA * (1 - ends)),
        ref=(0.7 * rng.simplex(n, S * A) + 0.3 / (S * A)).unflatten(-1, (S, A)),
        policy=0.8 * rng.simplex(n, S, A) + 0.2 / A,
        Q=rng.normal(n, S, A),
        w=rng.uniform(n, S, A),
        lam=rng.normal(n),
    )


def begin(p: Problem) -> Tensor:
    """(1 - gamma) mu0(s) pi(a | s), (n, S, A)."""
    return (1 - GAMMA) * p["mdp"].mu0[..., None] * p["policy"]


def flow(p: Problem) -> Tensor:
    """(n, SA, SA): the matrix of d - (inflow of d), whose product with an occupancy is `begin`."""
    kernel = torch.einsum("nsat,ntb->nsatb", p["mdp"].kernel, p["policy"]).reshape(-1, S * A, S * A)
    return torch.eye(S * A).to(kernel) - kernel.mT


def ratio(p: Problem) -> Tensor:
    """w = d / ref, (n, S, A)."""
    return torch.linalg.solve(flow(p), begin(p).flatten(1)).unflatten(-1, (S, A)) / p["ref"]


def truth(p: Problem) -> Tensor:
    """(1 - gamma) E sum_t gamma^t r_t, (n,), from the values."""
    return total(begin(p) * action_values(p["mdp"], p["policy"], p["mdp"].r))


def span(p: Problem) -> Tensor:
    """c = E (1 - discount) / (1 - gamma), (n, S, A)."""
    return (1 - p["mdp"].discount) / (1 - GAMMA)


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    """(n,) the largest derivative of a loss (n,) by x (n, ...)."""
    return torch.autograd.grad(loss.sum(), x, retain_graph=True)[0].reshape(len(x), -1).abs().amax(-1)


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _minimiser(p: Problem, sampled: bool = False) -> ClaimReport:
    """The nu with f'(d / ref) = gamma P nu - nu: our convex loss is stationary there, and larger at rivals."""
    w, results = ratio(p), []
    zero = torch.zeros_like(p["ref"])
    for exponent in (1.5, 2.0, 3.0):
        f = power(exponent)

        def loss(nu: Tensor, f=f) -> Tensor:
            error = residual_q(p["mdp"], nu, p["policy"], zero)
            each = dual.residual_dual(error, divergence=f, nonneg=False)
            if sampled:
                after = p["mdp"].discount[..., None] * (p["policy"] * nu).sum(-1)[:, None, None] - nu[..., None]
                each = (p["mdp"].P * dual.residual_dual(after, divergence=f, nonneg=False)).sum(-1)
            return total(begin(p) * nu) + total(p["ref"] * each)

        nu = leaf(action_values(p["mdp"], p["policy"], -(w ** (exponent - 1))))
        error = leaf(residual_q(p["mdp"], nu, p["policy"], zero))
        (weight,) = torch.autograd.grad(dual.residual_dual(error, divergence=f, nonneg=False).sum(), error)
        rivals = [loss(nu) - loss(nu + step * p["Q"]) for step in (-1.0, -0.1, 0.1, 1.0)]
        results += [gradient(loss(nu), nu), (weight - w).abs().amax((1, 2)), *rivals]
    return ClaimReport(worst(*(r.detach() for r in results)), 1e-8)


MINIMISER = Claim(
    paper=2,
    kind="theorem",
    statement="DualDICE (Nachum 2019, a dual-Q of Dual RL): (1 - gamma) E nu(s0, pi) + E_D f*(gamma P nu - nu) is "
    "minimal where (f*)'(gamma P nu - nu) = d^pi / d_D, for f = |w|^p / p and p = 3/2, 2, 3",
    problems=problems,
    check=_minimiser,
    twin=Twin("the expectation over s' inside f* (one sampled s')", check=lambda p: _minimiser(p, sampled=True)),
    source="derived",
    n=64,
)


def _unbiased(p: Problem) -> ClaimReport:
    """The w >= 0 or not, on the data's support alone, that comes closest to the flow: its error, and its estimate's."""
    seen = (p["ref"] > 0).flatten(1)
    held = flow(p) * seen[:, None].to(p["ref"])
    d = (torch.linalg.pinv(held) @ begin(p).flatten(1)[..., None])[..., 0]
    w = torch.where(seen, d / p["ref"].flatten(1), 0.0).unflatten(-1, (S, A))
    nu = leaf(p["Q"])
    error = residual_q(p["mdp"], nu, p["policy"], torch.zeros_like(nu))
    loss = total(begin(p) * nu) + total(p["ref"] * dual.saddle_value(error, w))
    return ClaimReport(worst(gradient(loss, nu), (total(p["ref"] * w * p["mdp"].r) - truth(p)).abs()), 1e-9)


def _uncovered(rng: Rng, n: int) -> Problem:
    """The data never take action 1 in state 0, which the target does."""
    p = problems(rng, n)
    ref = p["ref"].clone()
    ref[:, 0, 1] = 0.0
    return p | dict(ref=ref / total(ref)[:, None, None])


UNBIASED = Claim(
    paper=2,
    kind="theorem",
    statement="DualDICE (Nachum 2019, a dual-Q of Dual RL) with data that cover the target: one w makes the loss "
    "stationary in nu, and E_D[w r] = (1 - gamma) E sum_t gamma^t r_t",
    problems=problems,
    check=_unbiased,
    twin=Twin("coverage of one pair", problems=_uncovered),
    source="derived",
    n=64,
)


def _mass(p: Problem, c: Tensor | None = None) -> ClaimReport:
    return ClaimReport((total(p["ref"] * ratio(p) * (span(p) if c is None else c)) - 1).abs(), 1e-9)


MASS = Claim(
    paper=2,
    kind="theorem",
    statement="where episodes end, E_D[w c] = 1 with c = (1 - discount) / (1 - gamma) for w = d^pi / d_D: the "
    "redundant constraint of BestDICE (Yang 2020, under Dual RL) that survives terminals",
    problems=problems,
    check=_mass,
    twin=Twin("c (E_D w = 1, as without terminals)", check=lambda p: _mass(p, torch.ones_like(p["ref"]))),
    source="derived",
    n=64,
)


def recorded(rng: Rng, n: int) -> Problem:
    """300 rows from random MDPs, every pair at least once; a tenth of the rows terminal, another tenth timed out."""
    rows = 300
    pair = torch.cat([torch.arange(S * A).expand(n, -1), rng.integers(S * A, n, rows - S * A)], 1)
    end = rng.uniform(n, rows)
    return dict(
        pair=pair, following=rng.integers(S, n, rows), reward=rng.normal(n, rows), start=rng.simplex(n, S),
        terminal=(end < 0.1).to(end), timeout=((end >= 0.1) & (end < 0.2)).to(end), policy=rng.simplex(n, S, A),
    )  # fmt: skip


def _fitted(p: Problem, stop_at_timeouts: bool = False) -> ClaimReport:
    """The squared Bellman error over rows is stationary at the empirical MDP's Q, against its own frozen backup."""
    visits = one_hot(p["pair"], S * A).to(p["reward"])
    counts = visits.sum(1)
    after = one_hot(p["following"], S).to(visits) * (GAMMA * (1 - p["terminal"]))[..., None]
    kernel = torch.einsum("nrk,nrt->nkt", visits, after) / counts[..., None]
    chain = torch.einsum("nkt,ntb->nktb", kernel, p["policy"]).reshape(-1, S * A, S * A)
    r = (visits * p["reward"][..., None]).sum(1) / counts
    Q = leaf(torch.linalg.solve(torch.eye(S * A).to(chain) - chain, r))
    ended = p["terminal"] + p["timeout"] * stop_at_timeouts
    following = (p["policy"] * Q.unflatten(-1, (S, A))).sum(-1).gather(1, p["following"])
    backup = bellman_backup(p["reward"], GAMMA * (1 - ended), following)
    return ClaimReport(gradient(td(Q.gather(1, p["pair"]), backup).sum(-1), Q), 1e-8)


FITTED = Claim(
    paper=2,
    kind="theorem",
    statement="fitted Q evaluation (Le 2019; under Dual RL's policy evaluation) on a table: its fixed point is the "
    "target's Q in the empirical MDP, where a terminal has value 0 after it and a time-out goes on",
    problems=recorded,
    check=_fitted,
    twin=Twin("that time-outs go on", check=lambda p: _fitted(p, stop_at_timeouts=True)),
    source="derived",
    n=64,
)
