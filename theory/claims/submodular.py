"""Submodular objectives: greedy choice, optimal designs, marginal gains along a path."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.rng import Rng


def coverage(rng: Rng, n: int) -> Problem:
    """Eight items that cover twelve weighted elements."""
    return dict(covers=(rng.uniform(n, 8, 12) < 0.3).to(torch.float64), w=rng.exponential(n, 12))


def covered(p: Problem, chosen: Tensor) -> Tensor:
    """Weight covered by a set of items, chosen (..., n?, 8) in {0, 1}."""
    return ((chosen @ p["covers"]).clamp(max=1) * p["w"][:, None]).sum(-1)


def _greedy(p: Problem, ratio: float = 1 - 1 / math.e, size: int = 3, complements: bool = False) -> ClaimReport:
    sets = torch.zeros(math.comb(8, size), 8).to(p["w"])
    index = torch.tensor(list(itertools.combinations(range(8), size)))
    sets.scatter_(1, index, 1.0)

    def value(chosen: Tensor) -> Tensor:
        together = 100 * chosen[..., :3].prod(-1) if complements else 0
        return covered(p, chosen) + together

    best = value(sets.expand(len(p["w"]), -1, -1)).amax(-1)
    chosen = torch.zeros(len(p["w"]), 1, 8).to(p["w"])
    for _ in range(size):
        trial = (chosen + torch.eye(8).to(chosen)).clamp(max=1)
        chosen = trial.gather(1, value(trial).argmax(-1)[:, None, None].expand(-1, 1, 8))
    return ClaimReport(ratio * best - value(chosen)[:, 0], 1e-12)


GREEDY = Claim(
    paper=156,
    kind="theorem",
    statement="greedy choice of K sources reaches (1 - 1/e) of the best set, the objective being monotone submodular",
    problems=coverage,
    check=_greedy,
    twin=Twin("submodularity (three items worth 100 together)", check=lambda p: _greedy(p, complements=True)),
    source="derived",
)


def designs(rng: Rng, n: int) -> Problem:
    return dict(d=rng.normal(n, 8, 3))


def _d_optimal(p: Problem, ratio: float = 1 - 1 / math.e, size: int = 3, inverted: bool = False) -> ClaimReport:
    """Greedy log det(I + sum d d') by brute force over all triples, each step chosen by d' H^-1 d."""
    index = torch.tensor(list(itertools.combinations(range(8), size)))
    outer = p["d"][..., None] * p["d"][..., None, :]
    eye = torch.eye(3).to(p["d"])
    best = torch.linalg.slogdet(eye + outer[:, index].sum(2)).logabsdet.amax(-1)
    h, taken = eye.expand(len(best), 3, 3), torch.zeros(len(best), 8).to(best)
    for _ in range(size):
        gain = torch.einsum("nki,nij,nkj->nk", p["d"], torch.linalg.inv(h), p["d"])
        pick = (-gain - 1e9 * taken if inverted else gain - 1e9 * taken).argmax(-1)
        taken = taken.scatter(1, pick[:, None], 1.0)
        h = h + outer[torch.arange(len(best)), pick]
    return ClaimReport(ratio * best - torch.linalg.slogdet(h).logabsdet, 1e-12)


D_OPTIMAL = Claim(
    paper=328,
    kind="theorem",
    statement="ADPO: picking the pair of largest d' H^-1 d is greedy for log det H, hence within (1 - 1/e) of the "
    "best set",
    problems=designs,
    check=_d_optimal,
    twin=Twin("the largest (the smallest instead)", check=lambda p: _d_optimal(p, inverted=True)),
    source="derived",
)


def walks(rng: Rng, n: int) -> Problem:
    """A three-step two-action tree whose visited items (one per node) earn a coverage function of the whole path."""
    return dict(z=rng.normal(n, 7, 2), covers=(rng.uniform(n, 15, 6) < 0.4).to(torch.float64))


def _marginal_gains(p: Problem, gains: bool = True) -> ClaimReport:
    """grad E F(path) = E sum_i grad log pi(a_i) (gains from step i on), over all eight paths."""
    paths = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    nodes = torch.stack(
        [2**d - 1 + (paths[:, :d] * 2 ** torch.arange(d - 1, -1, -1)).sum(-1).long() for d in range(4)], -1
    )
    union = p["covers"][:, nodes].cumsum(-2).clamp(max=1).sum(-1)  # F of every prefix, (n, T, 4)
    z = p["z"].detach().requires_grad_()
    logp = torch.log_softmax(z, -1)[:, nodes[:, :3], paths]
    true = torch.autograd.grad((logp.sum(-1).exp() * union[..., -1]).sum(), z, retain_graph=True)[0]
    later = union[..., -1:] - union[..., :3] if gains else union.diff(dim=-1)
    weight = logp.sum(-1).exp().detach()[..., None] * later
    got = torch.autograd.grad((weight * logp).sum(), z)[0]
    return ClaimReport((true - got).abs().amax((-2, -1)), 1e-12)


MARGINAL_GAINS = Claim(
    paper=40,
    kind="theorem",
    statement="SubPO: grad E F(tau) = E sum_i grad log pi(a_i|s_i) sum_{j>=i} F(s_{j+1} | tau_{0:j}), marginal gains "
    "as rewards",
    problems=walks,
    check=_marginal_gains,
    twin=Twin("the later gains (own gain only)", check=lambda p: _marginal_gains(p, False)),
    source="derived",
)
