"""The log-ratio that a surrogate sees: (live, prepared) -> (R, N, G, L) per token, or (R, N, G) per answer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fenchel.llm.parts.part import Part, lengths, per_answer
from fenchel.llm.rollout import Live, Prepared
from fenchel.theory.objectives.policy_gradient import sequence_log_ratio


def token_log_ratio(live: Live, prepared: Prepared) -> Tensor:
    """log pi - log pi_old, 0 outside the answers."""
    assert prepared.data.old_logp is not None
    return (live.logp - prepared.data.old_logp) * prepared.data.mask


def _whole(live: Live, prepared: Prepared, mode: str) -> Tensor:
    ratio = token_log_ratio(live, prepared)
    return sequence_log_ratio(ratio, prepared.data.mask.to(ratio.dtype), mode=mode)  # type: ignore[arg-type]


@dataclass(frozen=True)
class NoRatio(Part):
    """log pi itself: right on the policy's own samples, once per rollout."""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        return live.logp


@dataclass(frozen=True)
class MeanLikelihood(Part):
    """The mean over an answer's tokens of log pi: no ratio, but a score of whole answers (DisCO's log-L)."""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        mask = prepared.data.mask
        return per_answer(live.logp, mask) / lengths(mask, live.logp.dtype)


@dataclass(frozen=True)
class TokenRatio(Part):
    """log pi(y_t | s_t) - log pi_old(y_t | s_t): prefixes are weighted as the old policy drew them."""

    NEEDS = ("old_logp",)

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        return token_log_ratio(live, prepared)


@dataclass(frozen=True)
class SequenceRatio(Part):
    """log pi(y) - log pi_old(y), the sum over tokens: the true importance weight of an answer."""

    NEEDS = ("old_logp",)

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        return _whole(live, prepared, "sequence")


@dataclass(frozen=True)
class GeometricRatio(Part):
    """The mean over an answer's tokens, whose exp is a geometric mean: the ratio of GSPO (Zheng 2025, eq. 7)."""

    NEEDS = ("old_logp",)

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        return _whole(live, prepared, "gspo")


@dataclass(frozen=True)
class GeometricTokenRatio(Part):
    """GSPO-token: the value of `GeometricRatio` at every token, with the gradient of the token's own log-probability
    (Zheng 2025, eq. 14)."""

    NEEDS = ("old_logp",)

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        return _whole(live, prepared, "gspo_token")


@dataclass(frozen=True)
class ReferenceRatio(Part):
    """log pi(y) - log ref(y), the sum over tokens."""

    NEEDS = ("ref_logp",)

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        assert prepared.data.ref_logp is not None
        return per_answer(live.logp - prepared.data.ref_logp, prepared.data.mask)
