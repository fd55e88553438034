"""Importance weights, masks, sub-sampling and allocation in policy-gradient estimators."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.group_estimators import gap, gradient, groups, scores
from fenchel.theory.rng import Rng

RESPONSES = 5


def behaviour(rng: Rng, n: int) -> Problem:
    """A policy, two behaviour policies a and b, rewards: all with full support."""
    draw = {name: rng.simplex(n, RESPONSES) for name in ("pi", "a", "b")}
    return draw | dict(r=rng.normal(n, RESPONSES))


def _importance(p: Problem, clip: float = math.inf) -> ClaimReport:
    ratio = (p["pi"] / p["a"]).clamp(1 - clip, 1 + clip)
    advantage = p["r"] - (p["a"] * p["r"]).sum(-1, keepdim=True)
    mean = ((p["a"] * advantage * ratio)[..., None] * scores(p["pi"])).sum(-2)
    return ClaimReport(gap(mean, gradient(p["pi"], p["r"])), 1e-11)


IMPORTANCE = Claim(
    paper=101,
    kind="theorem",
    statement="A-LoL: E_ref[A (pi/ref) grad log pi] = grad E_pi A when neither ratio nor advantage is cut",
    problems=behaviour,
    check=_importance,
    twin=Twin("the unclipped ratio", check=lambda p: _importance(p, 0.9)),
    source="derived",
)


def _balance(p: Problem, single: bool = False) -> ClaimReport:
    mixture = (p["a"] + p["b"]) / 2
    weight = p["pi"] / (p["a"] if single else mixture)
    return ClaimReport(((mixture * weight * p["r"]).sum(-1) - (p["pi"] * p["r"]).sum(-1)).abs(), 1e-11)


BALANCE = Claim(
    paper=37,
    kind="theorem",
    statement="RL-PLUS: samples of the mixture (a+b)/2 with weight 2 pi/(a+b) estimate E_pi without bias",
    problems=behaviour,
    check=_balance,
    twin=Twin("the mixture in the denominator", check=lambda p: _balance(p, True)),
    source="derived",
)


def _rejection(p: Problem, keep_all: bool = False) -> ClaimReport:
    """r is turned into acceptance probabilities in (0, 1)."""
    accept = torch.sigmoid(p["r"])
    success = (p["pi"] * accept).sum(-1, keepdim=True)
    law = p["pi"] if keep_all else p["pi"] * accept / success
    mean = (law[..., None] * scores(p["pi"])).sum(-2)
    return ClaimReport(gap(mean, gradient(p["pi"], accept) / success), 1e-11)


REJECTION = Claim(
    paper=234,
    kind="identity",
    statement="RAFT: E[grad log pi | accepted] = grad log p, so a prompt of success rate p weighs 1/p times grad p",
    problems=behaviour,
    check=_rejection,
    twin=Twin("rejection (all samples kept)", check=lambda p: _rejection(p, True)),
    source="derived",
)


def token_losses(rng: Rng, n: int) -> Problem:
    """Six token losses, and the law of a cut C in {2, ..., 6}."""
    return dict(loss=rng.normal(n, 6), cut=rng.simplex(n, 5), p=rng.uniform(n, low=0.2, high=0.9))


def _horvitz_thompson(p: Problem, weighted: bool = True) -> ClaimReport:
    """Both designs: independent masks over all 2^6 subsets, and a random prefix."""
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6))).to(p["loss"])
    keep = p["p"][:, None]
    law = (keep[..., None] * masks + (1 - keep[..., None]) * (1 - masks)).prod(-1)
    inclusion = keep if weighted else torch.ones_like(keep)
    bernoulli = (law * torch.einsum("mt,nt->nm", masks, p["loss"] / inclusion)).sum(-1) / 6
    prefix = torch.ones(6, 6).to(p["loss"]).tril()[1:]  # row c keeps the first c + 2 tokens
    survive = p["cut"] @ prefix if weighted else torch.ones_like(p["loss"])
    prefix_mean = (p["cut"] * torch.einsum("ct,nt->nc", prefix, p["loss"] / survive)).sum(-1) / 6
    truth = p["loss"].mean(-1)
    return ClaimReport(torch.maximum((bernoulli - truth).abs(), (prefix_mean - truth).abs()), 1e-12)


HORVITZ_THOMPSON = Claim(
    paper=70,
    kind="theorem",
    statement="NAT: (1/L) sum_t (m_t/p_t) l_t has mean (1/L) sum_t l_t for Bernoulli masks and for random prefixes",
    problems=token_losses,
    check=_horvitz_thompson,
    twin=Twin("the weights 1/p_t", check=lambda p: _horvitz_thompson(p, False)),
    source="derived",
)


def stratified(rng: Rng, n: int) -> Problem:
    """Twelve rewards in three strata of four."""
    return dict(r=rng.normal(n, 3, 4) + 2 * rng.normal(n, 3, 1))


def _strata(p: Problem, per_stratum: bool = True) -> ClaimReport:
    axes = (-1,) if per_stratum else (-2, -1)
    a = p["r"] - p["r"].mean(axes, keepdim=True)
    a = a / a.square().mean(axes, keepdim=True).sqrt()
    local = torch.maximum(a.mean(-1).abs(), (a.square().mean(-1) - 1).abs()).amax(-1)
    whole = torch.maximum(a.mean((-2, -1)).abs(), (a.square().mean((-2, -1)) - 1).abs())
    return ClaimReport(torch.maximum(local, whole), 1e-12)


STRATA = Claim(
    paper=67,
    kind="theorem",
    statement="stratified normalisation has mean 0 and variance 1 in every stratum and over the whole group",
    problems=stratified,
    check=_strata,
    twin=Twin("normalisation inside each stratum", check=lambda p: _strata(p, False)),
    source="derived",
)


def distinct(advantages: Tensor) -> int:
    """How many different multisets of advantages the rows hold."""
    return len({tuple(sorted(round(float(x), 6) for x in row)) for row in advantages})


def zscore(r: Tensor) -> Tensor:
    centred = r - r.mean(-1, keepdim=True)
    return centred / r.std(-1, keepdim=True, correction=0).clamp(min=1e-9)


def _decoupled(p: Problem, swapped: bool = False) -> ClaimReport:
    """All multisets of four pairs of binary rewards: GRPO on the sum against a normalisation per reward."""
    pairs = list(itertools.product((0.0, 1.0), repeat=2))
    table = torch.tensor(list(itertools.combinations_with_replacement(pairs, 4)), dtype=torch.float64)
    summed, apart = zscore(table.sum(-1)), zscore(table[..., 0]) + zscore(table[..., 1])
    fewer, more = (apart, summed) if swapped else (summed, apart)
    return ClaimReport((p["size"] * 0 + distinct(fewer) + 1 - distinct(more)).to(torch.float64), 0.0)


DECOUPLED = Claim(
    paper=76,
    kind="theorem",
    statement="two binary rewards, G = 4: normalising each reward gives more distinct advantage groups than GRPO's sum",
    problems=lambda rng, n: dict(size=torch.tensor([4])),
    check=_decoupled,
    twin=Twin("the order (sum against parts)", check=lambda p: _decoupled(p, True)),
    source="derived",
)


def pool(rng: Rng, n: int) -> Problem:
    return dict(a=rng.normal(n, 8))


def _extremes(p: Problem, from_both_ends: bool = True, m: int = 4) -> ClaimReport:
    subsets = torch.tensor(list(itertools.combinations(range(8), m)))
    brute = p["a"][:, subsets].var(-1, correction=0).amax(-1)
    ordered = p["a"].sort(-1).values
    cuts = range(m + 1) if from_both_ends else (0,)
    ends = [torch.cat([ordered[:, :k], ordered[:, 8 - (m - k) :]], -1).var(-1, correction=0) for k in cuts]
    return ClaimReport(brute - torch.stack(ends).amax(0), 1e-12)


EXTREMES = Claim(
    paper=50,
    kind="theorem",
    statement="the subset of m advantages with the largest variance is the k smallest and the m - k largest, some k",
    problems=pool,
    check=_extremes,
    twin=Twin("both ends (the m largest only)", check=lambda p: _extremes(p, False)),
    source="derived",
)


def prompts(rng: Rng, n: int) -> Problem:
    """Accept rates p and gradient norms G of six prompts, and a rival allocation."""
    return dict(p=rng.uniform(n, 6, low=0.05, high=1.0), g=rng.uniform(n, 6, low=0.1, high=3.0), w=rng.simplex(n, 6))


def _allocation(p: Problem, root: float = 0.5) -> ClaimReport:
    def variance(share: Tensor) -> Tensor:
        return (p["g"].square() / (p["p"] * share)).sum(-1)

    share = p["g"] / p["p"] ** root
    share = share / share.sum(-1, keepdim=True)
    rival = 0.05 * p["w"] + 0.95 * share
    return ClaimReport(torch.maximum(variance(share) / variance(rival), variance(share) / variance(p["w"])) - 1, 1e-12)


ALLOCATION = Claim(
    paper=305,
    kind="theorem",
    statement="sum_i G_i^2 / (p_i n_i) at a fixed budget is least for n_i proportional to G_i / sqrt(p_i)",
    problems=prompts,
    check=_allocation,
    twin=Twin("the square root of p", check=lambda p: _allocation(p, 1.0)),
    source="derived",
)


def _pass_at_k(p: Problem, with_replacement: bool = False, k: int = 3) -> ClaimReport:
    n = p["r"].shape[-1]
    correct = p["r"].sum(-1)
    chosen = torch.tensor(list(itertools.combinations(range(n), k)))
    brute = p["r"][:, chosen].amax(-1).mean(-1)
    if with_replacement:
        return ClaimReport((1 - (1 - correct / n) ** k - brute).abs(), 1e-12)
    miss = torch.tensor([math.comb(n - int(c), k) / math.comb(n, k) for c in correct], dtype=brute.dtype)
    return ClaimReport((1 - miss - brute).abs(), 1e-12)


PASS_AT_K = Claim(
    paper=97,
    kind="identity",
    statement="1 - C(n-c, k)/C(n, k) is the mean of max r over all k-subsets, hence an unbiased estimate of pass@k",
    problems=groups,
    check=_pass_at_k,
    twin=Twin("sampling without replacement: 1 - (1 - c/n)^k", check=lambda p: _pass_at_k(p, True)),
    source="derived",
)


def _mean_size(p: Problem, centred_only: bool = False) -> ClaimReport:
    rate = p["r"].mean(-1)
    advantage = p["r"] - rate[:, None] if centred_only else zscore(p["r"])
    return ClaimReport((advantage.abs().mean(-1) - 2 * (rate * (1 - rate)).sqrt()).abs(), 1e-12)


MEAN_SIZE = Claim(
    paper=313,
    kind="identity",
    statement="0/1 rewards divided by the population std: mean |A| = 2 sqrt(m(1-m)) at success rate m",
    problems=groups,
    check=_mean_size,
    twin=Twin("the division by the std: 2 m(1-m)", check=lambda p: _mean_size(p, True)),
    source="derived",
)


def cells(rng: Rng, n: int) -> Problem:
    """The value of every (time, mask) cell of a nested Monte Carlo estimate: four times, three masks each."""
    return dict(x=rng.normal(n, 4, 3))


def _nested(p: Problem, shared_mask: bool = False) -> ClaimReport:
    """Four times, three masks each (enumerated): Var of the mean of n_t times x n_m masks against the formula."""
    x = p["x"]
    cell = x.mean(-1)
    v_t, v_m = cell.var(-1, correction=0), x.var(-1, correction=0).mean(-1)
    variances = []
    for n_t, n_m in ((1, 2), (2, 1)):
        times = torch.tensor(list(itertools.product(range(4), repeat=n_t)))
        masks = torch.tensor(list(itertools.product(range(3), repeat=n_t * n_m))).reshape(-1, n_t, n_m)
        if shared_mask:
            masks = masks[..., :1].expand(-1, -1, n_m)
        draws = x[:, times[:, None, :, None], masks[None]].mean((-2, -1))
        variances.append(draws.flatten(1).var(-1, correction=0) - (v_t / n_t + v_m / (n_t * n_m)))
    return ClaimReport(torch.stack(variances).abs().amax(0), 1e-11)


NESTED = Claim(
    paper=251,
    kind="theorem",
    statement="Var of an ELBO estimate with n_t times and n_m masks each is V_t/n_t + V_m/(n_t n_m): n_m = 1 is best",
    problems=cells,
    check=_nested,
    twin=Twin("independent masks", check=lambda p: _nested(p, True)),
    source="derived",
    n=32,
)
