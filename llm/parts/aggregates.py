"""How tokens become one number: (counted (R, N, G, L) of 0 and 1, rollout) -> weights of the same shape.

Every denominator is over the whole batch, so that the weights, once known, make any split into micro-batches add up. A
loss per answer weighs as much as its tokens together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fenchel.llm.parts.part import Part
from fenchel.llm.rollout import Rollout


def answers(counted: Tensor) -> Tensor:
    """(R, 1, 1, 1): the number of answers that count, at least 1."""
    return counted.amax(-1).sum((1, 2)).clamp(min=1).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class TokenMean(Part):
    """sum over tokens / number of tokens: long answers weigh more. verl token-mean, TRL dapo and bnpo."""

    def __call__(self, counted: Tensor, rollout: Rollout) -> Tensor:
        return counted / counted.sum((1, 2, 3), keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class SequenceMean(Part):
    """mean over answers of the mean over their tokens: a token of a long answer weighs less. verl seq-mean-token-mean,
    TRL grpo."""

    def __call__(self, counted: Tensor, rollout: Rollout) -> Tensor:
        return counted / counted.sum(-1, keepdim=True).clamp(min=1) / answers(counted)


@dataclass(frozen=True)
class SequenceSum(Part):
    """mean over answers of the sum over their tokens: log pi of whole answers. verl seq-mean-token-sum."""

    def __call__(self, counted: Tensor, rollout: Rollout) -> Tensor:
        return counted / answers(counted)


@dataclass(frozen=True)
class ConstantLength(Part):
    """mean over answers of the sum over their tokens / a constant. verl seq-mean-token-sum-norm, TRL dr_grpo."""

    length: int = field(default=0, metadata={"range": (0, None)})
    """the constant; 0: the most tokens that an answer may have"""

    def __call__(self, counted: Tensor, rollout: Rollout) -> Tensor:
        length = self.length or rollout.max_answer or counted.shape[-1]
        return counted / answers(counted) / length


@dataclass(frozen=True)
class TokenSum(Part):
    """sum over all tokens. verl token-sum."""

    def __call__(self, counted: Tensor, rollout: Rollout) -> Tensor:
        return counted


@dataclass(frozen=True)
class PromptMean(Part):
    """mean over prompts of the mean over all tokens of their answers."""

    def __call__(self, counted: Tensor, rollout: Rollout) -> Tensor:
        tokens = counted.flatten(2).sum(-1)
        prompts = (tokens > 0).to(counted.dtype).sum(-1).clamp(min=1)
        return counted / tokens.clamp(min=1)[..., None, None] / prompts.reshape(-1, 1, 1, 1)
