"""What a token earns, (R, N, G, L): the verdict on an answer stands at its last token."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.parts.part import Part, at
from fenchel.llm.rollout import Rollout
from fenchel.theory.objectives.kl import reward_with_kl


def at_the_end(reward: Tensor, mask: Tensor) -> Tensor:
    """(R, N, G) -> (R, N, G, L), at the last token of each answer."""
    after = mask.flip(-1).cumsum(-1).flip(-1)
    return (mask & (after == 1)).to(reward.dtype) * reward[..., None]


def scalar(reward: Tensor | None, weights: tuple[float, ...] | None) -> Tensor:
    """(R, N, G): the weighted sum of (R, N, G, K), or what has no axis of rewards times its weight."""
    assert reward is not None
    several = reward if reward.ndim == 4 else reward[..., None]
    if weights is not None and len(weights) != several.shape[-1]:
        raise UserError(f"weights has {len(weights)} numbers for {several.shape[-1]} rewards; valid is one for each.")
    if weights is None:
        return several.sum(-1)
    return sum((w * r for w, r in zip(weights, several.unbind(-1), strict=True)), torch.zeros_like(several[..., 0]))


@dataclass(frozen=True)
class Outcome(Part):
    """r(x, y); of several rewards the weighted sum."""

    NEEDS = ("reward",)
    weights: tuple[float, ...] | None = None
    """one weight per reward; null: all 1"""

    def __call__(self, rollout: Rollout) -> Tensor:
        return at_the_end(scalar(rollout.reward, self.weights), rollout.mask)


@dataclass(frozen=True)
class OutcomeWithKL(Part):
    """r(x, y) at the end, minus beta (log pi_old - log ref) at every token: k1 in the reward, whose policy gradient is
    that of E r - beta KL(pi, ref) over whole answers."""

    NEEDS = ("reward", "old_logp", "ref_logp")
    beta: float | list[float] = field(default=0.05, metadata={"range": (0, None)})
    """weight of the KL term in the reward"""
    weights: tuple[float, ...] | None = None
    """one weight per reward; null: all 1"""

    def __call__(self, rollout: Rollout) -> Tensor:
        outcome = Outcome(self.weights)(rollout)
        ratio = rollout.ratio_to_reference * rollout.mask
        return reward_with_kl(outcome, ratio, beta=at(self.beta, ratio))


@dataclass(frozen=True)
class WinRate(Part):
    """Mean over the opponent's answers m of P(y beats y_m). An own group may play opponent: P(y beats y) = 1/2."""

    NEEDS = ("win",)

    def __call__(self, rollout: Rollout) -> Tensor:
        assert rollout.win is not None
        return at_the_end(rollout.win.mean(-1), rollout.mask)


@dataclass(frozen=True)
class NoReward(Part):
    """0: of recipes that read no reward."""

    def __call__(self, rollout: Rollout) -> Tensor:
        return torch.zeros(rollout.mask.shape, dtype=rollout.dtype, device=rollout.mask.device)
