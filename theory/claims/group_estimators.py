"""Group policy-gradient estimators on a softmax bandit, by enumeration of all Y^G groups.

A problem is a policy `pi` (n, Y) = softmax of its logits, rewards `r` (n, Y). The score of response y with respect to
the logits is e_y - pi, so grad J = pi (r - E_pi r) exactly; an estimator's mean is a sum over every group.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.objectives.policy_gradient import group_advantage
from fenchel.theory.rng import Rng

RESPONSES = 4
LOO, MEAN_CENTRED, ZSCORE = (partial(group_advantage, baseline=b) for b in ("loo", "mean", "zscore"))


def problems(rng: Rng, n: int) -> Problem:
    return dict(pi=torch.softmax(rng.normal(n, RESPONSES), -1), r=rng.normal(n, RESPONSES))


def binary(rng: Rng, n: int) -> Problem:
    """Rewards in {0, 1} with both values present."""
    r = (rng.uniform(n, RESPONSES) < 0.5).to(torch.float64)
    r[:, 0], r[:, 1] = 1.0, 0.0
    return problems(rng, n) | dict(r=r)


def gradient(pi: Tensor, r: Tensor) -> Tensor:
    """grad J in the logits, (n, Y)."""
    return pi * (r - (pi * r).sum(-1, keepdim=True))


def scores(pi: Tensor) -> Tensor:
    """grad log pi(y), (n, Y, Y): row y is e_y - pi."""
    return torch.eye(pi.shape[-1]).to(pi) - pi[:, None, :]


def mean_gradient(pi: Tensor, r: Tensor, advantage: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """E over groups of (1/G) sum_i A_i grad log pi(y_i), (n, Y)."""
    index = torch.tensor(list(itertools.product(range(pi.shape[-1]), repeat=size)), device=pi.device)
    weight = pi[:, index].prod(-1)
    a = advantage(r[:, index])
    return torch.einsum("nt,ntg,ntgy->ny", weight, a, scores(pi)[:, index]) / size


def gap(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().amax(-1)


def _centred(p: Problem, advantage=MEAN_CENTRED) -> ClaimReport:
    worst = [
        gap(mean_gradient(p["pi"], p["r"], advantage, g), (g - 1) / g * gradient(p["pi"], p["r"])) for g in (2, 3, 4)
    ]
    return ClaimReport(torch.stack(worst).amax(0), 1e-12)


MEAN = Claim(
    paper=193,
    kind="identity",
    statement="E (1/G) sum_i (r_i - mean r) grad log pi(y_i) = (G-1)/G grad J for every reward and G (Dr. GRPO)",
    problems=problems,
    check=_centred,
    twin=Twin("no division by the group's standard deviation", check=lambda p: _centred(p, ZSCORE)),
    n=64,
    source="derived",
)


def _leave_one_out(p: Problem, advantage=LOO) -> ClaimReport:
    worst = [gap(mean_gradient(p["pi"], p["r"], advantage, g), gradient(p["pi"], p["r"])) for g in (2, 3, 4)]
    return ClaimReport(torch.stack(worst).amax(0), 1e-12)


LEAVE_ONE_OUT = Claim(
    paper=294,
    kind="theorem",
    statement="with the baseline mean_{j != i} r_j the group estimator is unbiased: E g = grad J for every G >= 2",
    problems=problems,
    check=_leave_one_out,
    twin=Twin("a baseline independent of the own sample", check=lambda p: _leave_one_out(p, MEAN_CENTRED)),
    n=64,
    source="derived",
)


def _zscore_weight(p: Problem, unbiased_std: bool = False, size: int = 4) -> ClaimReport:
    def advantage(r: Tensor) -> Tensor:
        std = r.std(-1, keepdim=True, correction=int(unbiased_std))
        return torch.where(std > 0, (r - r.mean(-1, keepdim=True)) / std.clamp(min=1e-12), 0.0)

    success = (p["pi"] * p["r"]).sum(-1)
    k = torch.arange(size + 1).to(success)
    law = torch.tensor([math.comb(size, i) for i in range(size + 1)]).to(success)
    law = law * success[:, None] ** k * (1 - success[:, None]) ** (size - k)
    weight = (law * (k * (size - k)).sqrt()).sum(-1) / (size * success * (1 - success))
    return ClaimReport(
        gap(mean_gradient(p["pi"], p["r"], advantage, size), weight[:, None] * gradient(p["pi"], p["r"])), 1e-11
    )


ZSCORE_WEIGHT = Claim(
    paper=189,
    kind="identity",
    statement="binary reward, population std: E g = c_G(p) grad p, c_G(p) = E_k sqrt(k(G-k)) / (G p(1-p)), k ~ "
    "Bin(G, p)",
    problems=binary,
    check=_zscore_weight,
    twin=Twin("the population (not the sample) standard deviation", check=lambda p: _zscore_weight(p, True)),
    source="derived",
    n=64,
)


def _zscore_bias(p: Problem) -> ClaimReport:
    """1 - cos of the angle between E g and grad J must exceed the margin."""
    mean, true = mean_gradient(p["pi"], p["r"], ZSCORE, 4), gradient(p["pi"], p["r"])
    return ClaimReport(1e-3 - (1 - torch.cosine_similarity(mean, true, dim=-1)), 0.0)


ZSCORE_BIAS = Claim(
    paper=193,
    kind="counterexample",
    statement="with real-valued rewards, GRPO's division by the group std changes the direction of E g, not its length",
    problems=lambda rng, n: dict(
        pi=torch.tensor([[0.55, 0.3, 0.1, 0.05]], dtype=torch.float64),
        r=torch.tensor([[0.0, 0.1, 1.0, 5.0]], dtype=torch.float64),
    ),
    check=_zscore_bias,
    source="derived",
)


def groups(rng: Rng, n: int) -> Problem:
    """Sampled groups of eight binary rewards, both values present, with arbitrary scores s."""
    r = (rng.uniform(n, 8) < rng.uniform(n, 1, low=0.1, high=0.9)).to(torch.float64)
    r[:, 0], r[:, 1] = 1.0, 0.0
    return dict(r=r, s=rng.normal(n, 8))


def _discriminative(p: Problem, advantage=ZSCORE) -> ClaimReport:
    rate = p["r"].mean(-1)
    positive = (p["r"] * p["s"]).sum(-1) / p["r"].sum(-1)
    negative = ((1 - p["r"]) * p["s"]).sum(-1) / (1 - p["r"]).sum(-1)
    right = (rate * (1 - rate)).sqrt() * (positive - negative)
    return ClaimReport(((advantage(p["r"]) * p["s"]).mean(-1) - right).abs(), 1e-5)


DISCRIMINATIVE = Claim(
    paper=1,
    kind="identity",
    statement="binary reward: (1/G) sum_i A_i s_i = sqrt(p(1-p)) (mean_pos s - mean_neg s): GRPO weighs a question by "
    "sqrt(p(1-p)), its difficulty bias",
    problems=groups,
    check=_discriminative,
    twin=Twin(
        "division by the group's std (centred only: weight p(1-p))", check=lambda p: _discriminative(p, MEAN_CENTRED)
    ),
    source="derived",
)


def negative_aware(rng: Rng, n: int) -> Problem:
    """An old policy, correctness probabilities r in (0, 1), and another policy close enough that q pi / old < 1."""
    old, r = rng.simplex(n, RESPONSES), rng.uniform(n, RESPONSES, low=0.05, high=0.95)
    rate = (old * r).sum(-1, keepdim=True)
    best = old * r / rate
    return dict(old=old, r=r, rate=rate, pi=0.8 * best + 0.2 * old)


def _negative_aware(p: Problem, rate_error: float = 0.0) -> ClaimReport:
    """L(pi+) <= L(pi), L = E_old[-r log R - (1 - r) log((1 - q R) / (1 - q))], R = pi / old."""
    q = p["rate"] + rate_error * (1 - p["rate"])

    def loss(pi: Tensor) -> Tensor:
        ratio = pi / p["old"]
        return -(p["old"] * (p["r"] * ratio.log() + (1 - p["r"]) * (1 - q * ratio).clamp(min=1e-300).log())).sum(-1)

    return ClaimReport(loss(p["old"] * p["r"] / p["rate"]) - loss(p["pi"]), 1e-12)


NEGATIVE_AWARE = Claim(
    paper=117,
    kind="theorem",
    statement="NFT's loss over correct and wrong samples is minimised by pi+ = old r / p, the policy of the correct "
    "ones",
    problems=negative_aware,
    check=_negative_aware,
    twin=Twin("the true success rate in the negative term", check=lambda p: _negative_aware(p, 0.3)),
    source="derived",
)


def baselines(rng: Rng, n: int) -> Problem:
    return problems(rng, n) | dict(b=rng.normal(n))


def trace_variance(p: Problem, b: Tensor) -> Tensor:
    """trace Cov of (r - b) grad log pi(y), (n,)."""
    g = (p["r"] - b[:, None])[..., None] * scores(p["pi"])
    return (p["pi"] * g.square().sum(-1)).sum(-1) - gradient(p["pi"], p["r"]).square().sum(-1)


def _optimal_baseline(p: Problem, plain: bool = False) -> ClaimReport:
    weight = p["pi"] if plain else p["pi"] * scores(p["pi"]).square().sum(-1)
    best = (weight * p["r"]).sum(-1) / weight.sum(-1)
    return ClaimReport(trace_variance(p, best) - trace_variance(p, p["b"] * 0.1 + best), 1e-12)


OPTIMAL_BASELINE = Claim(
    paper=334,
    kind="theorem",
    statement="b* = E[|grad log pi|^2 r] / E|grad log pi|^2 minimises the trace of the estimator's covariance over b",
    problems=baselines,
    check=_optimal_baseline,
    twin=Twin("the weights |grad log pi|^2 (b = E r instead)", check=lambda p: _optimal_baseline(p, True)),
    source="derived",
)


def _greedy_baseline(p: Problem, dependent: bool = False) -> ClaimReport:
    b = p["r"].gather(-1, p["pi"].argmax(-1, keepdim=True))
    b = torch.minimum(b, p["r"]) if dependent else b
    mean = (p["pi"][..., None] * (p["r"] - b)[..., None] * scores(p["pi"])).sum(-2)
    return ClaimReport(gap(mean, gradient(p["pi"], p["r"])), 1e-12)


GREEDY_BASELINE = Claim(
    paper=307,
    kind="theorem",
    statement="ReMax: with the greedy response's reward as baseline the estimator is unbiased",
    problems=problems,
    check=_greedy_baseline,
    twin=Twin("a baseline independent of the sampled response", check=lambda p: _greedy_baseline(p, True)),
    source="derived",
)

GREEDY_VARIANCE = Claim(
    paper=307,
    kind="counterexample",
    statement="the greedy baseline does not always reduce variance: it helps iff |r(greedy) - b*| < |b*|",
    problems=lambda rng, n: dict(
        pi=torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64),
        r=torch.tensor([[2.0, 0.0, -0.5, 0.0]], dtype=torch.float64),
    ),
    check=lambda p: ClaimReport(
        1e-2 + trace_variance(p, torch.zeros_like(p["r"][:, 0])) - trace_variance(p, p["r"][:, 0]), 0.0
    ),
    source="derived",
)
