"""What a preference recipe scores an answer by: (live, prepared) -> (R, N, G)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.llm.parts.part import Part, at, lengths, per_answer
from fenchel.llm.rollout import Live, Prepared

Weight = float | list[float]


def _per_token(total: Tensor, prepared: Prepared) -> Tensor:
    return total / lengths(prepared.data.mask, total.dtype)


def reference(prepared: Prepared) -> Tensor:
    """(R, N, G): log ref(y)."""
    assert prepared.data.ref_logp is not None
    return per_answer(prepared.data.ref_logp, prepared.data.mask)


@dataclass(frozen=True)
class LogRatio(Part):
    """rho = log pi(y) - log ref(y)."""

    NEEDS = ("ref_logp",)
    per_token: bool = False
    """divide by the number of tokens, as TRL's ipo does: another optimum"""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        rho = per_answer(live.logp, prepared.data.mask) - reference(prepared)
        return _per_token(rho, prepared) if self.per_token else rho


@dataclass(frozen=True)
class SplitRatio(Part):
    """alpha log pi(y) - log ref(y)."""

    NEEDS = ("ref_logp",)
    alpha: Weight = field(default=0.9, metadata={"range": (0, None)})
    """weight of the policy's entropy; below 1 sharpens, 1 is DPO"""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        logp = per_answer(live.logp, prepared.data.mask)
        return at(self.alpha, logp) * logp - reference(prepared)


@dataclass(frozen=True)
class MirrorRatio(Part):
    """log pi - share log ref - (1 - share) log pi_old: the exponent of a mirror-descent step that is drawn to ref."""

    NEEDS = ("ref_logp", "old_logp")
    share: Weight = field(default=1 / 3, metadata={"range": (0, 1)})
    """tau / eta: how far a step is drawn to the reference"""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        assert prepared.data.old_logp is not None
        logp, old = (per_answer(x, prepared.data.mask) for x in (live.logp, prepared.data.old_logp))
        share = at(self.share, logp)
        return logp - share * reference(prepared) - (1 - share) * old


@dataclass(frozen=True)
class MeanLogp(Part):
    """log pi(y) / |y|, without a reference."""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        return _per_token(per_answer(live.logp, prepared.data.mask), prepared)


@dataclass(frozen=True)
class DiscountedLogp(Part):
    """sum over t of gamma^t log pi(y_t | s_t), without a reference."""

    gamma: Weight = field(default=1.0, metadata={"range": (0, 1)})
    """discount per token"""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        mask = prepared.data.mask
        age = (mask.cumsum(-1) - 1).clamp(min=0).to(live.logp.dtype)
        discount = torch.ones_like(age) * at(self.gamma, age)
        return per_answer(discount**age * live.logp, mask)
