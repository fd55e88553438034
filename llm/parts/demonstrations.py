"""Mixing supervised learning in: of any problems' solutions, or (OWN) of those of a rollout's prompts that none of its
answers counts of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from fenchel.llm.parts.part import Part, at


@dataclass(frozen=True)
class Demonstrations(Part):
    """weight * - mean over the demonstrations' tokens of log pi; the weight falls linearly to `sft_end` if asked."""

    NEEDS = ("demonstrations",)
    OWN: ClassVar[bool] = False
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


@dataclass(frozen=True)
class Balanced(Part):
    """mu / (1 - mu) * - mean over the demonstrations' tokens of phi log pi: CHORD's (1 - mu) RL + mu SFT over 1 - mu.

    mu goes linearly from `mu` to `mu_end` over `sft_horizon` updates. phi is 1, or p (1 - p) of each token, detached:
    what the policy is sure of, either way, it does not imitate.
    """

    NEEDS = ("demonstrations",)
    OWN: ClassVar[bool] = False
    mu: float | list[float] = field(default=0.9, metadata={"range": (0, 0.999)})
    """share of the likelihood of demonstrations at the start"""
    mu_end: float | list[float] = field(default=0.05, metadata={"range": (0, 0.999)})
    """share at the end"""
    phi: bool = False
    """weigh tokens by p (1 - p)"""

    def weight(self, progress: float) -> Any:
        first: Any = self.mu
        last: Any = self.mu_end
        mu = (1 - progress) * first + progress * last
        return mu / (1 - mu)

    def loss(self, logp: Tensor, mask: Tensor, count: Tensor, progress: float = 0.0) -> Tensor:
        """(R,): of a slice (R, B, L) of a batch of demonstrations with `count` (R,) tokens in all."""
        p = logp.detach().exp()
        weight = mask.to(logp.dtype) * (p * (1 - p) if self.phi else 1.0)
        nll = -(logp * weight).flatten(1).sum(-1) / count.clamp(min=1)
        return at(self.weight(progress), nll) * nll


@dataclass(frozen=True)
class OwnSolutions(Part):
    """sft * - mean over tokens of log pi, of the solutions to those prompts of a rollout all of whose answers a mask
    takes out: what reward does not teach is imitated."""

    NEEDS = ("demonstrations",)
    OWN: ClassVar[bool] = True
    sft: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """weight of the likelihood of these solutions"""

    def loss(self, logp: Tensor, mask: Tensor, count: Tensor, progress: float = 0.0) -> Tensor:
        """(R,): of a slice (R, B, L) of a batch of demonstrations with `count` (R,) tokens in all."""
        nll = -(logp * mask.to(logp.dtype)).flatten(1).sum(-1) / count.clamp(min=1)
        return at(self.sft, nll) * nll
