"""Best-of-N: draw N responses from p, keep the one with the largest reward.

With F the distribution function of the reward under p, its law is F(r(y))^N - F(r(y)-)^N.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import bisect, expect, kl, worst
from fenchel.theory.rng import Rng


def law(p: Tensor, r: Tensor, n: float) -> Tensor:
    """The law of best-of-n for distinct rewards, (..., Y)."""
    not_above = (r[..., None, :] <= r[..., :, None]).to(p.dtype)
    below = (r[..., None, :] < r[..., :, None]).to(p.dtype)
    return expect(p[..., None, :], not_above).pow(n) - expect(p[..., None, :], below).pow(n)


def _small(rng: Rng, n: int) -> Problem:
    return dict(p=rng.simplex(n, 4), r=rng.normal(n, 4))


def _with_ties(rng: Rng, n: int) -> Problem:
    return dict(p=rng.simplex(n, 4), r=rng.integers(3, n, 4).to(rng.dtype))


def _law(problem: Problem, n: int = 4) -> ClaimReport:
    """Against all |Y|^n tuples."""
    p, r = problem["p"], problem["r"]
    tuples = torch.cartesian_prod(*[torch.arange(p.shape[-1], device=p.device)] * n)
    chance = p[:, tuples].prod(-1)
    winner = tuples.expand(len(p), -1, -1).gather(-1, r[:, tuples].argmax(-1, keepdim=True))[..., 0]
    counted = torch.zeros_like(p).scatter_add(-1, winner, chance)
    return ClaimReport((counted - law(p, r, n)).abs().amax(-1), 1e-12)


LAW = Claim(
    paper=3,
    kind="theorem",
    statement="best-of-N has the law F(r(y))^N - F(r(y)-)^N when rewards are distinct",
    problems=_small,
    check=_law,
    source="derived",
    twin=Twin("that rewards are distinct", problems=_with_ties),
)


def _larger(rng: Rng, n: int) -> Problem:
    return dict(p=rng.simplex(n, 8), other=rng.simplex(n, 8), r=rng.normal(n, 8))


def _kl_bound(problem: Problem, source: str = "p") -> ClaimReport:
    gaps = []
    for n in (2, 4, 16, 64):
        chosen = law(problem[source], problem["r"], n)
        gaps.append(kl(chosen, problem["p"]) - (math.log(n) - (n - 1) / n))
    return ClaimReport(worst(*gaps), 1e-12)


KL_BOUND = Claim(
    paper=20,
    kind="theorem",
    statement="KL(best-of-N, p) <= log N - (N - 1) / N",
    problems=_larger,
    check=_kl_bound,
    source="derived",
    twin=Twin("that the N samples come from p itself", check=lambda p: _kl_bound(p, "other")),
)


def _scored(rng: Rng, n: int) -> Problem:
    """Proxy and gold scores of 7 samples."""
    return dict(proxy=rng.normal(n, 7), gold=rng.normal(n, 7))


def _estimator(problem: Problem, shift: int = 1) -> ClaimReport:
    """The curve n = 1..N from one batch of N samples, against the mean over all n-subsets."""
    order = problem["proxy"].argsort(-1)
    gold, total = problem["gold"].gather(-1, order), order.shape[-1]  # ascending in the proxy
    errors = []
    for n in range(1, total + 1):
        weights = [math.comb(i - shift, n - 1) / math.comb(total, n) for i in range(1, total + 1)]
        curve = expect(gold, gold.new_tensor(weights))
        subsets = torch.tensor(list(combinations(range(total), n)), device=gold.device)
        errors.append((curve - gold[:, subsets.amax(-1)].mean(-1)).abs())
    return ClaimReport(worst(*errors), 1e-12)


ESTIMATOR = Claim(
    paper=20,
    kind="identity",
    statement="sum_i C(i-1, n-1) / C(N, n) g_(i), samples sorted by proxy, is the mean gold score of the best "
    "by proxy over all n-subsets",
    problems=_scored,
    check=_estimator,
    source="derived",
    twin=Twin("the exact count (C(i, n-1) subsets instead of C(i-1, n-1))", check=lambda p: _estimator(p, 0)),
)


def _memoryless(rng: Rng, n: int) -> Problem:
    """Sequences of i.i.d. bits, Pr(1) = p; the reward is the number of ones; delta nats of KL per symbol."""
    n = min(n, 16)
    return dict(p=rng.uniform(n, low=0.25, high=0.5), delta=rng.uniform(n, low=0.05, high=0.2))


def _bernoulli_kl(q: Tensor, p: Tensor) -> Tensor:
    return q * torch.log(q / p) + (1 - q) * torch.log((1 - q) / (1 - p))


def _log_binomial(length: int, p: Tensor) -> Tensor:
    """(n, length + 1) log Pr(k ones)."""
    k = torch.arange(length + 1, dtype=p.dtype, device=p.device)
    choose = math.lgamma(length + 1) - torch.lgamma(k + 1) - torch.lgamma(length - k + 1)
    return choose + k * p.log()[:, None] + (length - k) * torch.log1p(-p)[:, None]


def _asymptotics(problem: Problem, mismatch: float = 1.0) -> ClaimReport:
    """Lengths 10, 40, 160 with N = e^{length delta}; sequences with the same number of ones share their mass."""
    p, delta = problem["p"], problem["delta"]
    q = bisect(lambda x: _bernoulli_kl(x, p) - mismatch * delta, p, torch.full_like(p, 1 - 1e-12))
    distances, gaps = [], []
    for length in (10, 40, 160):
        base, tilted = _log_binomial(length, p), _log_binomial(length, q)
        tail = base.exp().flip(-1).cumsum(-1).flip(-1)  # Pr(at least k ones), accurate where it is tiny
        tail = torch.cat([tail, torch.zeros_like(tail[:, :1])], -1).clamp(max=1.0)
        powers = torch.exp(torch.exp(length * delta)[:, None] * torch.log1p(-tail))  # Pr(all samples have fewer)
        best = powers[:, 1:] - powers[:, :-1]
        distances.append((torch.special.xlogy(best, best) - best * tilted).sum(-1) / length)
        ones = torch.arange(length + 1, dtype=p.dtype, device=p.device)
        gaps.append((expect(best, ones) / length - q).abs())
    halves = [x[2] - x[0] / 2 for x in (distances, gaps)]
    falls = [x[i + 1] - x[i] for x in (distances, gaps) for i in (0, 1)]
    return ClaimReport(worst(*halves, *falls), 0.0)


ASYMPTOTICS = Claim(
    paper=3,
    kind="theorem",
    statement="memoryless p, linear r: best-of-e^{n d} approaches the tilt with KL d per symbol: its KL to the "
    "tilt per symbol and the reward gap fall along n = 10, 40, 160, by half at least",
    problems=_memoryless,
    check=_asymptotics,
    n=16,
    twin=Twin("that the tilt has the same KL per symbol (twice d)", check=lambda p: _asymptotics(p, 2.0)),
)
