"""The one place where a per-element loss becomes a number per replica."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fenchel.errors import UserError


def reduce(
    loss: Tensor, mask: Tensor | None = None, mode: Literal["mean", "sum"] = "mean", denominator: Tensor | None = None
) -> Tensor:
    """(R, B, ...) -> (R,): masked mean or sum over all axes but the first.

    mask: broadcastable to `loss`, 1 where an element counts. A mean divides by the mask's sum per replica, or by
    `denominator` (R,) or () when given (a constant denominator makes any split into micro-batches add up).
    A masked element may be NaN or infinite: it reaches neither the value nor the gradient.
    """
    if mode not in ("mean", "sum"):
        raise UserError(f"mode={mode} is unknown; valid are mean, sum.")
    axes = tuple(range(1, loss.ndim))
    if mask is not None:
        mask = mask.expand_as(loss)
        loss = loss.where(mask.bool(), loss.new_zeros(())) * mask
    total = loss.sum(axes) if axes else loss
    if mode == "sum":
        return total
    if denominator is not None:
        return total / denominator
    count = mask.sum(axes).clamp(min=1) if mask is not None else max(1, loss[0].numel())
    return total / count
