"""Weights of tokens, from data: (rollout, counted (R, N, G, L)) -> (R, N, G, L). They change no denominator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fenchel.llm.parts.part import Part, at
from fenchel.llm.rollout import Rollout
from fenchel.theory.objectives.policy_gradient import truncated_ratio


@dataclass(frozen=True)
class TruncatedImportance(Part):
    """min(pi_old / sampler, cap), for samples of another program or of older weights; 1 where the two agree."""

    NEEDS = ("old_logp", "sampler_logp")
    cap: float | list[float] = field(default=2.0, metadata={"range": (0, None)})
    """the weight's upper bound"""
    level: Literal["token", "sequence"] = "token"
    """the ratio of a token, or that of the whole answer at each of its tokens"""

    def __call__(self, rollout: Rollout, counted: Tensor) -> Tensor:
        assert rollout.old_logp is not None
        assert rollout.sampler_logp is not None
        log_ratio = (rollout.old_logp - rollout.sampler_logp) * rollout.mask
        if self.level == "sequence":
            log_ratio = log_ratio.sum(-1, keepdim=True).expand_as(log_ratio)
        return truncated_ratio(log_ratio, cap=at(self.cap, log_ratio))


@dataclass(frozen=True)
class RatioBand(Part):
    """1 where pi_old / sampler lies in [low, high], 0 elsewhere (IcePop)."""

    NEEDS = ("old_logp", "sampler_logp")
    low: float | list[float] = field(default=0.5, metadata={"range": (0, None)})
    """least ratio of a token that counts"""
    high: float | list[float] = field(default=5.0, metadata={"range": (0, None)})
    """largest ratio of a token that counts"""

    def __call__(self, rollout: Rollout, counted: Tensor) -> Tensor:
        assert rollout.old_logp is not None
        assert rollout.sampler_logp is not None
        ratio = ((rollout.old_logp - rollout.sampler_logp) * rollout.mask).exp()
        return ((ratio >= at(self.low, ratio)) & (ratio <= at(self.high, ratio))).to(ratio.dtype)


def top_share(x: Tensor, counted: Tensor, share: Any) -> Tensor:
    """bool: the `share` of the tokens that count with the largest x, ties included, over all axes but the first."""
    ranked = x.masked_fill(counted == 0, -torch.inf).flatten(1).sort(-1, descending=True).values
    last = (counted.flatten(1).sum(-1) * share).ceil().long().clamp(min=1) - 1
    threshold = ranked.gather(-1, last[:, None])
    return (x >= threshold.reshape(-1, *[1] * (x.ndim - 1))) & (counted > 0)


@dataclass(frozen=True)
class TopEntropy(Part):
    """Only the tokens at which the old policy hesitated most (TRL's top_entropy_quantile)."""

    NEEDS = ("entropy",)
    share: float | list[float] = field(default=0.2, metadata={"range": (0, 1)})
    """share of the batch's tokens that count"""

    def __call__(self, rollout: Rollout, counted: Tensor) -> Tensor:
        assert rollout.entropy is not None
        return top_share(rollout.entropy, counted, self.share).to(rollout.entropy.dtype)
