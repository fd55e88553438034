"""What all parts share. A part's fields are options of the recipes that hold it; `float | list[float]` is sweepable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    NEEDS: ClassVar[tuple[str, ...]] = ()
    """optional fields of a rollout, or live statistics, that it reads"""


def at(hyper: Any, like: Tensor) -> Any:
    """A hyper-parameter, bound as (R,), ready to meet a tensor (R, ...)."""
    return hyper.reshape(-1, *[1] * (like.ndim - 1)) if isinstance(hyper, Tensor) else hyper


def per_answer(x: Tensor, mask: Tensor) -> Tensor:
    """(R, N, G): the sum over an answer's tokens."""
    return (x * mask.to(x.dtype)).sum(-1)


def lengths(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, N, G): tokens of each answer, at least 1."""
    return mask.sum(-1).clamp(min=1).to(dtype)


def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """(R, N, G) -> two (R, N, G, G): entry [i, j] of the first is x_i, of the second x_j."""
    return tuple(torch.broadcast_tensors(x[..., :, None], x[..., None, :]))  # type: ignore[return-value]


def over_others(x: Tensor) -> Tensor:
    """(R, N, G, G) -> (R, N, G): the mean over j != i; x[i, i] is taken to be 0."""
    return x.sum(-1) / max(1, x.shape[-1] - 1)
