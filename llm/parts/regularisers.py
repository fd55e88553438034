"""Terms added to the surrogate: (live, prepared) -> elements, times `weigh(prepared, counted)`, their weights.

A term of tokens is aggregated as the surrogate is, one of whole answers is averaged over answers. KL terms are named by
their value and by what their gradient is on average (theory/objectives/kl.py; measured in docs/llm.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fenchel.llm.parts.part import Part, at, per_answer
from fenchel.llm.parts.ratios import token_log_ratio
from fenchel.llm.parts.token_weights import top_share
from fenchel.llm.rollout import Live, Prepared
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import constraint, kl
from fenchel.theory.objectives.policy_gradient import MAX_LOG_RATIO

Weight = float | list[float]


@dataclass(frozen=True)
class TokenKL(Part):
    """beta KL(pi, ref) token by token. The prefixes are data: not the gradient of the KL of whole answers."""

    NEEDS = ("ref_logp",)
    beta: Weight = field(default=0.04, metadata={"range": (0, None)})
    """weight of the KL term"""
    estimate: Literal["k1", "k2", "k3"] = "k3"
    """which estimator its number is"""
    gradient: Literal["reverse", "forward", "none"] = "forward"
    """what its gradient is: of KL(pi, ref) (k2), of KL(ref, pi) (k3, as released code has it), or none (k1)"""
    importance: bool = False
    """multiply by pi / pi_old, whose gradient adds k1 or k3 as a cost of the token itself"""

    def weigh(self, prepared: Prepared, counted: Tensor) -> Tensor:
        return prepared.plain

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        assert prepared.data.ref_logp is not None
        ratio = (live.logp - prepared.data.ref_logp) * prepared.data.mask
        term = kl.kl(ratio, value=self.estimate, gradient=self.gradient)
        if self.importance:
            term = term * token_log_ratio(live, prepared).clamp(max=MAX_LOG_RATIO).exp()
        return at(self.beta, term) * term


@dataclass(frozen=True)
class SequenceKL(Part):
    """beta KL(pi, ref) of whole answers, their log-ratio being the sum over tokens: exact with gradient=reverse."""

    NEEDS = ("ref_logp",)
    beta: Weight = field(default=0.04, metadata={"range": (0, None)})
    """weight of the KL term"""
    estimate: Literal["k1", "k2", "k3"] = "k1"
    """which estimator its number is"""
    gradient: Literal["reverse", "forward", "none"] = "reverse"
    """what its gradient is: of KL(pi, ref), of KL(ref, pi), or none"""

    def weigh(self, prepared: Prepared, counted: Tensor) -> Tensor:
        return prepared.each

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        assert prepared.data.ref_logp is not None
        ratio = per_answer(live.logp - prepared.data.ref_logp, prepared.data.mask)
        return at(self.beta, ratio) * kl.kl(ratio, value=self.estimate, gradient=self.gradient)


@dataclass(frozen=True)
class Proximity(Part):
    """KL(pi, pi_old) / eta of whole answers, by k2: the pull of a proximal step towards where it began."""

    NEEDS = ("old_logp",)
    eta: Weight = field(default=2.0, metadata={"range": (1e-6, None)})
    """step size of the proximal step"""

    def weigh(self, prepared: Prepared, counted: Tensor) -> Tensor:
        return prepared.each

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        ratio = token_log_ratio(live, prepared).sum(-1)
        return kl.k2(ratio) / at(self.eta, ratio)


@dataclass(frozen=True)
class TrustRegion(Part):
    """beta / 2 (KL(pi_old, pi) - delta)_+^2, the KL of a prompt by its answers' tokens: no pull within the region."""

    NEEDS = ("old_logp",)
    beta: Weight = field(default=1e3, metadata={"range": (0, None)})
    """weight of the squared excess"""
    delta: Weight = field(default=1e-4, metadata={"range": (0, None)})
    """largest KL per token that costs nothing"""

    def weigh(self, prepared: Prepared, counted: Tensor) -> Tensor:
        return prepared.each

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        ratio, mask = token_log_ratio(live, prepared), prepared.data.mask
        divergence = -ratio.flatten(2).sum(-1) / mask.flatten(2).sum(-1).clamp(min=1).to(ratio.dtype)
        beta, delta = at(self.beta, divergence), at(self.delta, divergence)
        excess = beta * constraint.squared_hinge(divergence, budget=delta)
        return excess.unsqueeze(-1).expand(mask.shape[:3])


@dataclass(frozen=True)
class FDivergence(Part):
    """beta D_f(pi || ref) of whole answers, by (f'(pi / ref) - f'(1)) log pi: its gradient, not its value. [29]"""

    NEEDS = ("ref_logp",)
    beta: Weight = field(default=0.04, metadata={"range": (0, None)})
    """weight of the divergence"""
    divergence: str = "js"
    """a name of theory/divergences.py"""

    def weigh(self, prepared: Prepared, counted: Tensor) -> Tensor:
        return prepared.each

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        assert prepared.data.ref_logp is not None
        mask = prepared.data.mask
        logp = per_answer(live.logp, mask)
        ratio = logp - per_answer(prepared.data.ref_logp, mask)
        return at(self.beta, logp) * kl.f_policy_gradient(logp, ratio, divergence=get_divergence(self.divergence))


@dataclass(frozen=True)
class Entropy(Part):
    """- coefficient H(pi(. | s_t)), at the tokens where the old policy hesitated most if share < 1."""

    NEEDS = ("live_entropy", "entropy")
    coefficient: Weight = field(default=1e-3, metadata={"range": (0, None)})
    """weight of the bonus"""
    entropy_share: Weight = field(default=1.0, metadata={"range": (0, 1)})
    """share of the batch's tokens that get it, those of largest entropy"""

    def weigh(self, prepared: Prepared, counted: Tensor) -> Tensor:
        assert prepared.data.entropy is not None
        return prepared.plain * top_share(prepared.data.entropy, counted, self.entropy_share)

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        assert live.entropy is not None
        return -at(self.coefficient, live.entropy) * live.entropy
