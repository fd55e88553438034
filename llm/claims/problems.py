"""Random token problems and what the claims about recipes share. Nothing here calls a recipe's loss but `slope`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fenchel.llm import exact, get_recipe
from fenchel.llm.exact import Enumerated
from fenchel.llm.options import with_options
from fenchel.theory.claims.claim import Problem
from fenchel.theory.rng import Rng
from fenchel.theory.tokens import TokenTree

RAGGED = TokenTree(3, 3, eos=0)  # 15 answers of 1 to 3 tokens, 7 prefixes
EVEN = TokenTree(3, 2)  # 9 answers of 2 tokens, 4 prefixes
SINGLE = TokenTree(5, 1)  # 5 answers of one token: a bandit


def draw(tree: TokenTree) -> Callable[[Rng, int], Problem]:
    """Policies old, pi, ref (n, N, V), rewards r, other (n, Y), a sampler mu and a preference P, a temperature b."""

    def problems(rng: Rng, n: int) -> Problem:
        shape, Y = (n, tree.num_nodes, tree.vocabulary), tree.num_completions
        policies = {name: rng.normal(*shape).log_softmax(-1) for name in ("old", "pi", "ref")}
        noise = rng.normal(n, Y, Y)
        more = dict(r=rng.normal(n, Y), other=rng.normal(n, Y), mu=rng.simplex(n, Y) * 0.9 + 0.1 / Y)
        return policies | more | dict(P=torch.sigmoid(noise - noise.mT), b=rng.uniform(n, low=0.4, high=2.0))

    return problems


def binary(tree: TokenTree) -> Callable[[Rng, int], Problem]:
    """The same with verdicts r in {0, 1}, both present."""

    def problems(rng: Rng, n: int) -> Problem:
        p = draw(tree)(rng, n)
        r = (rng.uniform(n, tree.num_completions) < 0.5).to(torch.float64)
        r[:, 0], r[:, 1] = 1.0, 0.0
        return p | dict(r=r)

    return problems


def enumerated(p: Problem, tree: TokenTree, **columns: Any) -> Enumerated:
    """Old policy, reference and reward of a problem; `columns` replaces or adds."""
    given = dict(tree=tree, old=p["old"], reference=p["ref"], reward=p["r"]) | columns
    return Enumerated(**given)


def recipe(key: str, **options: Any) -> Any:
    return with_options(get_recipe(key), **options)


def slope(loss: Callable[[Tensor], Tensor], policy: Tensor) -> Tensor:
    """The gradient of an expected loss, flat: (n, N V)."""
    return exact.gradient(loss, policy).flatten(1)


def mean_slope(method: Any, problem: Enumerated, size: int, policy: Tensor | None = None) -> Tensor:
    """E over groups of the recipe's gradient, on policy unless a policy is given."""
    at = problem.old if policy is None else policy
    return slope(lambda x: exact.expected_loss(method, problem, x, size), at)


def pair_slope(method: Any, problem: Enumerated, policy: Tensor) -> Tensor:
    return slope(lambda x: exact.expected_pair_loss(method, problem, x), policy)


def value_slope(tree: TokenTree, policy: Tensor, reward: Tensor) -> Tensor:
    """grad E_pi reward in logits, by autograd on the definition."""
    logits = policy.clone().requires_grad_()
    probs = tree.sequence_log_probs(logits.log_softmax(-1)).exp()
    return torch.autograd.grad((probs * reward).sum(), logits)[0].flatten(1)


def kl_slope(tree: TokenTree, policy: Tensor, ref: Tensor, forward: bool = False) -> Tensor:
    """grad KL(pi, ref), or grad KL(ref, pi), of whole answers, by autograd on the definition."""
    logits = policy.clone().requires_grad_()
    log_pi, log_ref = tree.sequence_log_probs(logits.log_softmax(-1)), tree.sequence_log_probs(ref)
    kl = (log_ref.exp() * (log_ref - log_pi)) if forward else (log_pi.exp() * (log_pi - log_ref))
    return torch.autograd.grad(kl.sum(), logits)[0].flatten(1)


def success(p: Problem, tree: TokenTree) -> Tensor:
    """(n,) the old policy's chance of a right answer."""
    return (tree.sequence_log_probs(p["old"]).exp() * p["r"]).sum(-1)


def tilted(tree: TokenTree, base: Tensor, exponent: Tensor) -> Tensor:
    """The token policy of base e^exponent / Z."""
    return tree.conditionals(tree.sequence_log_probs(base) + exponent)


def zscore_factor(p: Tensor, size: int) -> Tensor:
    """c_G(p) = E sqrt(k (G - k)) / (G p (1 - p)), k ~ Bin(G, p)."""
    k = torch.arange(size + 1).to(p)
    choose = torch.tensor([math.comb(size, int(i)) for i in range(size + 1)]).to(p)
    law = choose * p[:, None] ** k * (1 - p[:, None]) ** (size - k)
    return (law * (k * (size - k)).sqrt()).sum(-1) / (size * p * (1 - p))


def gap(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().amax(-1)


def column(x: Tensor) -> Tensor:
    return x[:, None]


def minimum(loss: Callable[[Tensor], Tensor], best: Tensor, p: Problem) -> Tensor:
    """How far `best` is from minimising `loss`: the larger of its gradient and of what a rival, far or near, wins."""
    with torch.no_grad():
        far = torch.stack([loss(p[name]) for name in ("old", "pi", "ref")])
        near = torch.stack([loss((best + s * (p["pi"] - best)).log_softmax(-1)) for s in (0.1, 1e-3)])
        won = loss(best) - torch.cat([far, near]).amin(0)
    return torch.maximum(slope(loss, best).abs().amax(-1), won)


def bradley_terry(tree: TokenTree) -> Callable[[Rng, int], Problem]:
    """`draw` with preferences sigmoid(r(y) - r(z))."""

    def problems(rng: Rng, n: int) -> Problem:
        p = draw(tree)(rng, n)
        return p | dict(P=torch.sigmoid(p["r"][:, :, None] - p["r"][:, None, :]))

    return problems
