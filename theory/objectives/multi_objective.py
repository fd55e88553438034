"""Losses and updates for vector rewards: scalarisations, the envelope operator, constraints on the other objectives.

Shapes: vectors are (..., K), a weight is a point of the simplex that broadcasts to them; all objectives are maximised.
Losses are per element, lower is better, nothing is reduced. Arguments named `*_target` are detached, nothing else is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.objectives.constraint import log_barrier

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Vectors = Float[Tensor, "*batch objectives"]
Choices = Float[Tensor, "*batch choices objectives"]


def linear(vector: Vectors, weight: Tensor) -> Values:
    """w . v. Over the vectors of a set its maximisers are the supported ones: the convex hull's."""
    return (weight * vector).sum(-1)


def chebyshev(vector: Vectors, weight: Tensor, ideal: Tensor) -> Values:
    """- max_k w_k (z_k - v_k), z beyond the best of every objective. Every Pareto point maximises it for some weight.

    Of returns, not of rewards: it is not linear, so a sum of per-step values is another function.
    """
    return -(weight * (ideal - vector)).amax(-1)


def chebyshev_gradient(vector: Vectors, weight: Tensor, ideal: Tensor) -> Vectors:
    """The gradient of `chebyshev` in the vector: w_k at the objective that is furthest behind, 0 elsewhere (the first
    of equals)."""
    behind = weight * (ideal - vector)
    worst = behind.argmax(-1, keepdim=True)
    return torch.zeros_like(behind).scatter(-1, worst, 1.0) * weight


def envelope_backup(
    reward: Tensor, discount: Tensor, next_q: Choices, weight: Tensor, judge: Choices | None = None
) -> Vectors:
    """r + discount Q(s', a*, w*), (a*, w*) = argmax over all choices of w . Q(s', a, w'). (Yang 2019.)

    next_q, judge (..., C, K): the vectors of C choices, pairs of an action and a preference. judge: those that choose,
    by default next_q itself; the online network's make it a double estimate.
    """
    by = next_q if judge is None else judge
    best = linear(by, weight.unsqueeze(-2)).argmax(-1)
    chosen = next_q.gather(-2, best[..., None, None].expand(*best.shape, 1, next_q.shape[-1])).squeeze(-2)
    return reward + discount.unsqueeze(-1) * chosen


def envelope_loss(q: Vectors, backup_target: Vectors, weight: Tensor, *, homotopy: Hyper) -> Values:
    """(1 - lam) |y - q|^2 / K + lam (w . y - w . q)^2: from the vectors, whose loss is smooth but blunt, to what
    counts.

    (Yang 2019, where the second term is an absolute value.) Minimiser: E[y] for lam < 1.
    """
    error = backup_target.detach() - q
    return (1 - homotopy) * error.square().mean(-1) + homotopy * linear(error, weight).square()


def barrier(gain: Vectors, slack_target: Vectors, free: Tensor, *, sharpness: Hyper) -> Values:
    """sum over objectives j that are not `free` of - log(slack_j + gain_j) / t, with `log_barrier`'s linear tail.

    gain_j: estimated change of the return of objective j; slack_j: how far it may fall. The gradient is never 0 and
    always asks for more of j, whatever the signs of returns: constraints are on differences. (IPO, Liu 2020; as
    the extension step of C-MORL [6].)
    """
    each = log_barrier(-gain, budget=slack_target.detach(), sharpness=sharpness)
    return torch.where(free, 0.0, each).sum(-1)


def projection_multipliers(gram: Tensor, need: Tensor, *, steps: int = 64) -> Tensor:
    """lam >= 0 of  min_d |d - g|^2 / 2  s.t.  b_j . d >= need_j:  d = g + sum_j lam_j b_j.

    gram (..., J, J): b_i . b_j; need (..., J): what a step along g alone lacks, need_j - b_j . g. Minimises the dual
    lam' gram lam / 2 - lam' need by cyclic coordinate descent, exact in each coordinate; J = 1 takes one pass.
    """
    lam = torch.zeros_like(need)
    scale = gram.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(gram.dtype).tiny)
    columns = list(range(need.shape[-1]))
    for _ in range(steps if len(columns) > 1 else 1):
        for j in columns:
            rest = (gram[..., j, :] * lam).sum(-1) - gram[..., j, j] * lam[..., j]
            best = ((need[..., j] - rest) / scale[..., j]).clamp(min=0.0)
            lam = torch.cat([lam[..., :j], best.unsqueeze(-1), lam[..., j + 1 :]], -1)
    return lam
