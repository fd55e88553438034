"""Verifiable rewards in {0, 1}: what a prompt's accuracy p = E_ref r says, and how groups are weighted.

A problem is `p` (n,) and `beta` (n,). The KL-regularised optimum depends on the reference only through p:
pi* multiplies correct responses by e^{1/b} / Z and wrong ones by 1 / Z, with Z = 1 - p + p e^{1/b}.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import expect, kl, log_partition, regret, tilt, worst
from fenchel.theory.rng import Rng


def prompts(rng: Rng, n: int) -> Problem:
    return dict(p=rng.uniform(n, low=0.02, high=0.98), beta=rng.uniform(n, low=0.1, high=2.0))


def _two_point(p: Tensor) -> tuple[Tensor, Tensor]:
    """Reference over (wrong, correct) and its reward."""
    return torch.stack([1 - p, p], -1), torch.tensor([0.0, 1.0], dtype=p.dtype, device=p.device).expand(*p.shape, 2)


def change(p: Tensor, beta: Tensor) -> Tensor:
    """KL(ref, pi*)."""
    ref, r = _two_point(p)
    return kl(ref, tilt(ref, r, beta))


def _variance_bound(problem: Problem) -> ClaimReport:
    p, beta = problem["p"], problem["beta"]
    return ClaimReport(p * (1 - p) / (2 * beta.square()) - change(p, beta), 1e-12)


VARIANCE_BOUND = Claim(
    paper=25,
    kind="theorem",
    statement="KL(ref, pi*) >= p (1 - p) / (2 b^2) for a prompt of accuracy p",
    problems=prompts,
    check=_variance_bound,
    expected=False,
    counterexample=dict(p=torch.tensor([0.5], dtype=torch.float64), beta=torch.tensor([1.0], dtype=torch.float64)),
)


def _improvement(problem: Problem, linear: bool = False) -> ClaimReport:
    p, beta = problem["p"], problem["beta"]
    ref, r = _two_point(p)
    gain = expect(tilt(ref, r, beta), r) - p
    factor = 1 / beta if linear else -torch.expm1(-1 / beta)
    return ClaimReport(p * (1 - p) * factor - gain, 1e-12)


IMPROVEMENT = Claim(
    paper=25,
    kind="theorem",
    statement="E_pi* r - p >= p (1 - p) (1 - e^{-1/b}): what a prompt teaches is bounded below by its variance",
    problems=prompts,
    check=_improvement,
    twin=Twin("the saturating factor (1/b instead of 1 - e^{-1/b})", check=lambda p: _improvement(p, True)),
)


def _peak(problem: Problem, half: bool = False) -> ClaimReport:
    p, beta = problem["p"], problem["beta"]
    best = torch.full_like(p, 0.5) if half else beta - 1 / torch.expm1(1 / beta)
    return ClaimReport(change(p, beta) - change(best, beta), 1e-12)


PEAK = Claim(
    paper=25,
    kind="theorem",
    statement="KL(ref, pi*) is largest at accuracy p = b - 1 / (e^{1/b} - 1), which is below 1/2",
    problems=prompts,
    check=_peak,
    source="derived",
    twin=Twin("the shift away from 1/2", check=lambda p: _peak(p, True)),
)


def _groups(rng: Rng, n: int) -> Problem:
    """8 rollouts with scores and lengths; at least two correct, one wrong; rivals on the simplex of all rollouts."""
    correct = rng.uniform(n, 8) < 0.5
    correct[:, :2], correct[:, 2] = True, False
    draw = dict(score=rng.normal(n, 8), length=rng.uniform(n, 8), correct=correct, rivals=rng.simplex(n, 64, 8))
    return draw | dict(tau=rng.uniform(n, low=0.1, high=2.0))


def _restricted(rivals: Tensor, allowed: Tensor) -> Tensor:
    inside = rivals * allowed[:, None].to(rivals.dtype)
    return inside / inside.sum(-1, keepdim=True)


def _hard_negatives(p: Problem, sign: float = 1.0) -> ClaimReport:
    """tau log mean over wrong rollouts of e^{s/tau} as a worst case over reweightings of them."""
    wrong = (~p["correct"]).to(p["score"].dtype)
    uniform = wrong / wrong.sum(-1, keepdim=True)
    worst_case = torch.softmax(uniform.log() + p["score"] / p["tau"][:, None], -1)

    def value(q: Tensor) -> Tensor:
        return sign * expect(q, p["score"][:, None]) - p["tau"][:, None] * kl(q, uniform[:, None])

    smooth_max = p["tau"] * torch.logsumexp(uniform.log() + p["score"] / p["tau"][:, None], -1)
    gain = regret(value, worst_case, _restricted(p["rivals"], ~p["correct"]))
    return ClaimReport(worst(gain, (smooth_max - value(worst_case[:, None])[:, 0]).abs()), 1e-11)


HARD_NEGATIVES = Claim(
    paper=1,
    kind="theorem",
    statement="tau log mean_wrong e^{s/tau} = max_q E_q s - tau KL(q, uniform), q a reweighting of the wrong rollouts",
    problems=_groups,
    check=_hard_negatives,
    source="derived",
    assume=lambda p: p["correct"].any(-1) & ~p["correct"].all(-1),
    twin=Twin("the sign of the scores", check=lambda p: _hard_negatives(p, -1.0)),
)


def _positive_weights(p: Problem, decoupled: bool = True) -> ClaimReport:
    """The weight of every correct rollout, and whether the reweighting solves its problem."""
    correct, tau = p["correct"].to(p["length"].dtype), p["tau"]
    brevity = 1 - p["length"]
    uniform = correct / correct.sum(-1, keepdim=True)
    if decoupled:
        weight = torch.softmax(uniform.log() + brevity / tau[:, None], -1)
    else:
        shaped = correct * (1 + brevity)
        weight = (shaped - shaped.mean(-1, keepdim=True)) / shaped.std(-1, keepdim=True, unbiased=False)
    lowest = torch.where(p["correct"], weight, torch.inf).amin(-1)
    if not decoupled:
        return ClaimReport(-lowest, 0.0)

    def value(q: Tensor) -> Tensor:
        return expect(q, brevity[:, None]) - tau[:, None] * kl(q, uniform[:, None])

    gain = regret(value, weight, _restricted(p["rivals"], p["correct"]))
    best = tau * log_partition(uniform, brevity, tau)
    return ClaimReport(worst(gain - 1e-11, (value(weight[:, None])[:, 0] - best).abs() - 1e-11, -lowest), 0.0)


POSITIVE_WEIGHTS = Claim(
    paper=21,
    kind="theorem",
    statement="P* = pi_+ e^{r_l/l} / Z maximises E_P r_l - l KL(P, pi_+) over correct rollouts: none of them ever "
    "gets a negative weight, however long",
    problems=_groups,
    check=_positive_weights,
    assume=lambda p: p["correct"].any(-1) & ~p["correct"].all(-1),
    twin=Twin("the decoupling (z-scores of correct + brevity)", check=lambda p: _positive_weights(p, False)),
)
