"""The data of one update: groups of answers to prompts, with what the recipe at hand needs to know about them.

Axes: R replicas, N prompts, G answers to each, L = prompt + answer tokens. `mask` is True on the tokens of the answer,
end token included; log-probabilities are 0 elsewhere. Preference data has the same form: G = 2, answer 0 was chosen and
answer 1 rejected.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


def sliced(data: Any, prompts: slice) -> dict[str, Any]:
    """Every tensor of two axes or more at these prompts, as keywords."""
    values = {field.name: getattr(data, field.name) for field in fields(data)}
    return {k: v[:, prompts] if isinstance(v, Tensor) and v.ndim > 1 else v for k, v in values.items()}


@dataclass(frozen=True, eq=False)
class Rollout:
    """What is None is not needed: `Recipe.needs` names the optional fields that a recipe reads."""

    tokens: Tensor
    """(R, N, G, L) int64, -1 where there is no token"""
    mask: Tensor
    """(R, N, G, L) bool"""
    old_logp: Tensor | None = None
    """(R, N, G, L) of the policy that is about to be updated, by its own forward pass"""
    reward: Tensor | None = None
    """(R, N, G), or (R, N, G, K) for several rewards"""
    max_answer: int = 0
    """the most tokens that an answer may have; 0: L"""
    truncated: Tensor | None = None
    """(R, N, G) bool: the answer was cut off before its end token"""
    ref_logp: Tensor | None = None
    """(R, N, G, L) of the reference policy"""
    sampler_logp: Tensor | None = None
    """(R, N, G, L) as the sampler reckoned them, where it is another program or older weights"""
    value: Tensor | None = None
    """(R, N, G, L) the critic's v(s_t), s_t the prefix before token t"""
    entropy: Tensor | None = None
    """(R, N, G, L) of the old policy at s_t"""
    mean_logp: Tensor | None = None
    """(R, N, G, L) mean over the vocabulary of log pi_old(. | s_t)"""
    score_norm: Tensor | None = None
    """(R, N, G) |grad log pi(y)|^2, or a stand-in for it"""
    greedy_reward: Tensor | None = None
    """(R, N) reward of the greedy answer"""
    baseline: Tensor | None = None
    """(R, N) tracked value of the prompt, from before this rollout"""
    reference_reward: Tensor | None = None
    """(R, N, M) rewards of answers that the reference gave"""
    win: Tensor | None = None
    """(R, N, G, M) probability that an answer beats the opponent's answer m, or a 0/1 verdict"""
    label: Tensor | None = None
    """(R, N, G) 1 for a desirable answer, 0 for an undesirable one"""
    margin: Tensor | None = None
    """(R, N, G) weighted sum of the other objectives' rewards"""
    kl_estimate: Tensor | None = None
    """(R, N) mean log-ratio of mismatched answers, the same for all prompts"""

    def __getitem__(self, prompts: slice) -> Self:
        return replace(self, **sliced(self, prompts))

    @property
    def dtype(self) -> torch.dtype:
        """Of its log-probabilities and rewards; torch's default where it has none."""
        known = (self.old_logp, self.ref_logp, self.reward)
        return next((x.dtype for x in known if x is not None), torch.get_default_dtype())

    @property
    def ratio_to_reference(self) -> Tensor:
        """(R, N, G, L) log pi_old - log ref."""
        assert self.old_logp is not None
        assert self.ref_logp is not None
        return self.old_logp - self.ref_logp


@dataclass(frozen=True, eq=False)
class Live:
    """What the policy says now, with its gradient: all (R, N, G, L)."""

    logp: Tensor
    entropy: Tensor | None = None
    mean_logp: Tensor | None = None
    value: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A rollout with everything that takes the whole batch to know. A slice of prompts has its share of the loss."""

    data: Rollout
    weight: Tensor
    """(R, N, G, L) of a token's surrogate: aggregation, masks and token weights in one number"""
    plain: Tensor
    """(R, N, G, L) the same without token weights, for regularisers of tokens"""
    each: Tensor
    """(R, N, G) 1 / number of answers that count, for terms of whole answers"""
    advantage: Tensor
    """(R, N, G) or (R, N, G, L)"""
    reward: Tensor
    """(R, N, G) an answer's reward in all"""
    returns: Tensor | None = None
    """(R, N, G, L) what the critic is regressed on"""
    penalties: tuple[Tensor, ...] = ()
    """weights of the regularisers' elements, in their order"""

    def __getitem__(self, prompts: slice) -> Self:
        parts = sliced(self, prompts) | {"data": self.data[prompts]}
        return replace(self, **parts | {"penalties": tuple(p[:, prompts] for p in self.penalties)})
