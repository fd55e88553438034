"""Which answers count. A mask of data, (rollout, reward (R, N, G)) -> bool (R, N, G), takes answers out of the loss and
of its denominators; a LIVE one, (live, prepared) -> bool (R, N, G), only out of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from fenchel.llm.parts.part import Part, at, lengths
from fenchel.llm.parts.ratios import token_log_ratio
from fenchel.llm.rollout import Live, Prepared, Rollout


@dataclass(frozen=True)
class DropTruncated(Part):
    """Without answers that were cut off before their end token (DAPO's overlong filter)."""

    NEEDS = ("truncated",)
    LIVE: ClassVar[bool] = False

    def __call__(self, rollout: Rollout, reward: Tensor) -> Tensor:
        assert rollout.truncated is not None
        return ~rollout.truncated


@dataclass(frozen=True)
class DropUniform(Part):
    """Without groups whose answers all have one reward (dynamic sampling without sampling anew; GPG's alpha)."""

    LIVE: ClassVar[bool] = False

    def __call__(self, rollout: Rollout, reward: Tensor) -> Tensor:
        return (reward.amax(-1, keepdim=True) > reward.amin(-1, keepdim=True)).expand_as(reward)


@dataclass(frozen=True)
class DifficultyBand(Part):
    """Without prompts whose mean reward lies outside [low, high]. [25]"""

    LIVE: ClassVar[bool] = False
    low: float | list[float] = 0.25
    """least mean reward of a group"""
    high: float | list[float] = 0.75
    """largest mean reward of a group"""

    def __call__(self, rollout: Rollout, reward: Tensor) -> Tensor:
        mean = reward.mean(-1, keepdim=True)
        return ((mean >= at(self.low, mean)) & (mean <= at(self.high, mean))).expand_as(reward)


@dataclass(frozen=True)
class AboveGate(Part):
    """Without prompts whose mean reward is at most the gate: HPT leaves them to their worked solutions. [48]"""

    LIVE: ClassVar[bool] = False
    gate: float | list[float] = 0.0
    """the largest mean reward of a group from which nothing is learned"""

    def __call__(self, rollout: Rollout, reward: Tensor) -> Tensor:
        mean = reward.mean(-1, keepdim=True)
        return (mean > at(self.gate, mean)).expand_as(reward)


@dataclass(frozen=True)
class OnlyRight(Part):
    """Only answers whose reward is above the threshold: rejection sampling."""

    LIVE: ClassVar[bool] = False
    above: float | list[float] = 0.0
    """an answer is right if its reward is larger"""

    def __call__(self, rollout: Rollout, reward: Tensor) -> Tensor:
        return reward > at(self.above, reward)


@dataclass(frozen=True)
class OffPolicySequences(Part):
    """Without bad answers that the policy has left: A < 0 and mean over tokens of log pi_old - log pi > threshold.

    (DeepSeek-V3.2, 2025; TRL's off_policy_mask_threshold.)
    """

    NEEDS = ("old_logp",)
    LIVE: ClassVar[bool] = True
    off_policy_threshold: float | list[float] = field(default=0.5, metadata={"range": (0, None)})
    """largest mean log-ratio per token of a bad answer"""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        ratio = token_log_ratio(live, prepared).detach()
        drift = -ratio.sum(-1) / lengths(prepared.data.mask, ratio.dtype)
        a = prepared.advantage
        worst = a if a.ndim == drift.ndim else a.amin(-1)
        return (worst >= 0) | (drift <= at(self.off_policy_threshold, drift))
