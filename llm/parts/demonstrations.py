"""Mixing supervised learning in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fenchel.llm.parts.part import Part, at


@dataclass(frozen=True)
class Demonstrations(Part):
    """weight * - mean over the demonstrations' tokens of log pi; the weight falls linearly to `sft_end` if asked."""

    NEEDS = ("demonstrations",)
    sft: float | list[float] = field(default=0.1, metadata={"range": (0, None)})
    """weight of the likelihood of demonstrations"""
    sft_end: float | list[float] | None = field(default=None, metadata={"range": (0, None)})
    """weight at the end of training; null: constant"""

    def weight(self, progress: float) -> Any:
        """progress in [0, 1]: the share of training that is over."""
        first: Any = self.sft
        last: Any = self.sft_end
        return first if last is None else (1 - progress) * first + progress * last

    def loss(self, logp: Tensor, mask: Tensor, count: Tensor, progress: float = 0.0) -> Tensor:
        """(R,): of a slice (R, B, L) of a batch of demonstrations with `count` (R,) tokens in all."""
        nll = -(logp * mask.to(logp.dtype)).flatten(1).sum(-1) / count.clamp(min=1)
        return at(self.weight(progress), nll) * nll
