"""Weights of pairs and terms beside the link of a preference recipe: (live, prepared) -> (R, N)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fenchel.llm.parts.part import Part, at, lengths, per_answer
from fenchel.llm.rollout import Live, Prepared
from fenchel.theory.objectives.preference import wpo_weight


@dataclass(frozen=True)
class PolicyWeight(Part):
    """WPO: the product over a prompt's answers of exp(mean log pi per token), detached."""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        mask = prepared.data.mask.to(live.logp.dtype)
        return wpo_weight(live.logp.detach(), mask).prod(-1)


@dataclass(frozen=True)
class ChosenLikelihood(Part):
    """- sft_weight log pi(y_w): keeps the chosen answers likely."""

    sft_weight: float | list[float] = field(default=0.005, metadata={"range": (0, None)})
    """weight of the term: eta beta of RPO"""
    sft_per_token: bool = False
    """divide by the number of tokens, as TRL does"""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        logp = per_answer(live.logp, prepared.data.mask)[..., 0]
        if self.sft_per_token:
            logp = logp / lengths(prepared.data.mask, logp.dtype)[..., 0]
        return -at(self.sft_weight, logp) * logp
