"""What the claims about distributions over finite sets share: expectations, KL, tilts, rivals, minimisers.

Everything here is written from definitions; nothing calls `theory.objectives` or `theory.divergences`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NEAR = (1.0, 0.1, 1e-3)


def expect(pi: Tensor, x: Tensor) -> Tensor:
    """E_pi x over the last axis."""
    return (pi * x).sum(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p, q) over the last axis, with 0 log 0 = 0."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


def tilt(ref: Tensor, r: Tensor, beta: Tensor | float) -> Tensor:
    """ref e^{r/beta} / Z; beta (n,) or a number."""
    return torch.softmax(ref.log() + r / column(beta, ref), -1)


def log_partition(ref: Tensor, r: Tensor, beta: Tensor | float) -> Tensor:
    """log E_ref e^{r/beta}."""
    return torch.logsumexp(ref.log() + r / column(beta, ref), -1)


def column(x: Tensor | float, like: Tensor) -> Tensor:
    """A number per problem as (n, 1), ready to meet (n, Y)."""
    return torch.as_tensor(x, dtype=like.dtype, device=like.device)[..., None]


def regularised(pi: Tensor, r: Tensor, ref: Tensor, beta: Tensor) -> Tensor:
    """J(pi) = E_pi r - beta KL(pi, ref)."""
    return expect(pi, r) - beta * kl(pi, ref)


def toward(best: Tensor, rivals: Tensor) -> Tensor:
    """(n, 3K, Y): rivals (n, K, Y) and points on the way to them, down to a step of 1e-3: near rivals and far ones.

    A concave function that is nowhere larger on the way to rivals in all directions has its maximum at `best` (n, Y).
    """
    return torch.cat([(1 - t) * best[:, None] + t * rivals for t in NEAR], 1)


def regret(value: Callable[[Tensor], Tensor], best: Tensor, rivals: Tensor) -> Tensor:
    """How much the best rival (see `toward`) beats `best`; value maps (n, K, Y) to (n, K)."""
    return value(toward(best, rivals)).amax(1) - value(best[:, None])[:, 0]


def misfit(loss: Callable[[Tensor], Tensor], best: Tensor, rivals: Tensor) -> Tensor:
    """How far `best` (n, Y) is from minimising `loss` over the simplex: the larger of its gradient in logits and of
    what a rival wins. loss maps log-policies (n, K, Y) to (n, K)."""
    logits = best.log()[:, None].detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(torch.log_softmax(logits, -1)).sum(), logits)
    with torch.no_grad():
        gain = regret(lambda pi: -loss(pi.log()), best, rivals)
    return torch.maximum(gradient.abs().amax((1, 2)), gain)


def bisect(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int = 100) -> Tensor:
    """The root of an increasing function, element by element."""
    for _ in range(steps):
        middle = (low + high) / 2
        below = function(middle) < 0
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def worst(*residuals: Tensor) -> Tensor:
    """The largest of several residuals per problem."""
    return torch.stack(torch.broadcast_tensors(*residuals)).amax(0)
