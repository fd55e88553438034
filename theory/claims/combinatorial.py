"""Combinatorial decision problems: routing, dispatch orders, populations of solvers."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.rng import Rng


def cities(rng: Rng, n: int) -> Problem:
    return dict(x=rng.uniform(n, 6, 2))


def _quotient(p: Problem, keep_set: bool = True) -> ClaimReport:
    """Path from city 0 to city 5 through all others: dynamic programming on (position, unvisited) against all tours."""
    distance = (p["x"][:, :, None] - p["x"][:, None]).norm(dim=-1)
    tours = torch.tensor([(0, *order, 5) for order in itertools.permutations(range(1, 5))])
    brute = distance[:, tours[:, :-1], tours[:, 1:]].sum(-1).amin(-1)
    value: dict[tuple[int, frozenset[int]], Tensor] = {(c, frozenset()): distance[:, c, 5] for c in range(1, 5)}
    for size in range(1, 5):
        for left in itertools.combinations(range(1, 5), size):
            for c in ({0} | set(range(1, 5))) - set(left):
                options = [
                    distance[:, c, k] + value[(k, frozenset(left) - {k} if keep_set else frozenset())] for k in left
                ]
                value[(c, frozenset(left))] = torch.stack(options).amin(0)
    return ClaimReport((value[(0, frozenset(range(1, 5)))] - brute).abs(), 1e-12)


QUOTIENT = Claim(
    paper=321,
    kind="theorem",
    statement="bisimulation quotient of routing: values depend only on (position, unvisited set), so the quotient's "
    "optimum "
    "is the optimal tour",
    problems=cities,
    check=_quotient,
    twin=Twin("the unvisited set in the state", check=lambda p: _quotient(p, False)),
    source="derived",
    n=64,
)


def orders(rng: Rng, n: int) -> Problem:
    return dict(p=rng.simplex(n, 5), r=rng.normal(n, 120))


def _plackett_luce(p: Problem, renormalise: bool = True) -> ClaimReport:
    """sum over all 5! orders of prod p_i / (1 - earlier p) = 1."""
    order = torch.tensor(list(itertools.permutations(range(5))))
    picked = p["p"][:, order]
    left = 1 - (picked.cumsum(-1) - picked) if renormalise else torch.ones_like(picked)
    return ClaimReport(((picked / left).prod(-1).sum(-1) - 1).abs(), 1e-10)


PLACKETT_LUCE = Claim(
    paper=30,
    kind="identity",
    statement="a dispatch order sampled without replacement has probability prod p_i / (1 - sum of earlier p), "
    "summing to 1",
    problems=orders,
    check=_plackett_luce,
    twin=Twin("renormalisation by what is left", check=lambda p: _plackett_luce(p, False)),
    source="derived",
    n=64,
)


def populations(rng: Rng, n: int) -> Problem:
    """Three policies over four arms; two arms tie."""
    r = rng.normal(n, 4)
    r[:, 3] = r[:, 2]
    return dict(z=rng.normal(n, 3, 4), r=r)


def _winner(p: Problem, own_mean: bool = False) -> ClaimReport:
    """E (R_(1) - R_(2)) grad log pi_k*(y_k*) over all 4^3 outcomes, against grad E max."""
    z = p["z"].clone().requires_grad_()
    logp = torch.log_softmax(z, -1)
    arms = torch.tensor(list(itertools.product(range(4), repeat=3)))
    chosen = torch.stack([logp[:, k, arms[:, k]] for k in range(3)], -1)
    joint = chosen.sum(-1).exp()
    returns = p["r"][:, arms]
    top, who = returns.topk(2, -1)
    true = torch.autograd.grad((joint * top[..., 0]).sum(), z, retain_graph=True)[0]
    second = (logp.exp() @ p["r"][..., None]).mean((1, 2))[:, None].detach() if own_mean else top[..., 1]
    weight = joint.detach() * (top[..., 0] - second)
    got = torch.autograd.grad((weight * chosen.gather(-1, who[..., :1])[..., 0]).sum(), z)[0]
    return ClaimReport((true - got).flatten(1).abs().amax(-1), 1e-12)


POPULATION_WINNER = Claim(
    paper=335,
    kind="theorem",
    statement="Poppy: (best - second best) grad log pi of the winner alone is an unbiased gradient of E max_k R(tau_k)",
    problems=populations,
    check=_winner,
    twin=Twin("the second best as the baseline (a mean)", check=lambda p: _winner(p, True)),
    source="derived",
)
