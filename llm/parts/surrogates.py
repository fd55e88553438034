"""Surrogates: (log-ratio, live, prepared) -> one loss per token (R, N, G, L) or per answer (R, N, G).

The policy-gradient ones take either; regressions take whole answers. `prepared.advantage` is data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm.parts.part import Part, at, over_others, pairs, per_answer
from fenchel.llm.rollout import Live, Prepared
from fenchel.theory.objectives import policy_gradient, preference, regression, value

Weight = float | list[float]


def advantage_like(x: Tensor, prepared: Prepared) -> Tensor:
    """The advantage, with a token axis of length 1 where the surrogate has tokens and the advantage has not."""
    if prepared.advantage.ndim > x.ndim:
        raise UserError("ratio is one number per answer, but the advantage is one per token; use a ratio per token.")
    return prepared.advantage if prepared.advantage.ndim == x.ndim else prepared.advantage[..., None]


@dataclass(frozen=True)
class Reinforce(Part):
    """- A log pi."""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        return policy_gradient.reinforce(log_ratio, advantage_like(log_ratio, prepared))


@dataclass(frozen=True)
class Importance(Part):
    """- rho A, unclipped."""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        ratio = log_ratio.clamp(max=policy_gradient.MAX_LOG_RATIO).exp()
        return policy_gradient.reinforce(ratio, advantage_like(log_ratio, prepared))


@dataclass(frozen=True)
class Clip(Part):
    """- min(rho A, clip(rho, 1 - clip, 1 + clip_high) A)."""

    clip: Weight = field(default=0.2, metadata={"range": (0, 1)})
    """how far below 1 a ratio may fall"""
    clip_high: float | list[float] | None = field(default=None, metadata={"range": (0, None)})
    """how far above 1 it may rise; null: as far (DAPO has 0.28)"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        high = None if self.clip_high is None else at(self.clip_high, log_ratio)
        a = advantage_like(log_ratio, prepared)
        return policy_gradient.ppo_clip(log_ratio, a, clip=at(self.clip, log_ratio), clip_high=high)


@dataclass(frozen=True)
class DualClip(Part):
    """`Clip`, and the loss of a bad answer is at most dual_clip |A|: no gradient once its ratio is beyond dual_clip."""

    clip: Weight = field(default=0.2, metadata={"range": (0, 1)})
    """how far below 1 a ratio may fall"""
    clip_high: float | list[float] | None = field(default=None, metadata={"range": (0, None)})
    """how far above 1 it may rise; null: as far"""
    dual_clip: Weight = field(default=3.0, metadata={"range": (1, None)})
    """largest ratio of a bad answer (verl has 3, INTELLECT-2 4)"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        clip, dual = at(self.clip, log_ratio), at(self.dual_clip, log_ratio)
        high = clip if self.clip_high is None else at(self.clip_high, log_ratio)
        a = advantage_like(log_ratio, prepared)
        return policy_gradient.ppo_clip(log_ratio, a, clip=clip, clip_high=high, dual_clip=dual)


@dataclass(frozen=True)
class ClippedWeight(Part):
    """- sg(clip(rho, low, high)) A log pi: CISPO; truncated importance sampling where low is 0."""

    high: Weight = field(default=5.0, metadata={"range": (0, None)})
    """the weight's upper bound"""
    low: Weight = field(default=0.0, metadata={"range": (0, None)})
    """the weight's lower bound"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        logp = live.logp if log_ratio.ndim == live.logp.ndim else per_answer(live.logp, prepared.data.mask)
        a = advantage_like(log_ratio, prepared)
        return policy_gradient.cispo(log_ratio, logp, a, high=at(self.high, log_ratio), low=at(self.low, log_ratio))


@dataclass(frozen=True)
class NegativeAware(Part):
    """NFT: right answers by maximum likelihood, wrong ones through the policy of the wrong answers that pi implies.

    q is the group's success rate, kept in [margin, 1 - margin]; the reward is binary.
    """

    floor: Weight = field(default=0.1, metadata={"range": (1e-6, 1)})
    """least value of the implicit ratio; the released script has 1.0"""
    margin: Weight = field(default=0.02, metadata={"range": (0, 0.5)})
    """how far the success rate keeps from 0 and 1"""
    weighting: Literal["none", "difficulty", "zscore"] = "zscore"
    """weight of a prompt: 1; 1 - q, on policy that of r - q; sqrt((1 - q) / q), on policy that of the z-score"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        r, low = prepared.reward[..., None], at(self.margin, log_ratio)
        q = prepared.reward.mean(-1)[..., None, None].clamp(min=low).clamp(max=1 - low)
        correct = (r > 0).to(log_ratio.dtype)
        loss = regression.negative_aware(log_ratio, correct, q, floor=at(self.floor, log_ratio))
        weight = {"none": torch.ones_like, "difficulty": lambda q: 1 - q, "zscore": lambda q: ((1 - q) / q).sqrt()}
        return weight[self.weighting](q) * loss


@dataclass(frozen=True)
class RandomPolicyValue(Part):
    """ROVER: Q(s_t, y_t) = scale (log pi - log pi_old) is regressed on A + mean over v of Q(s_{t+1}, v), the value of
    the uniformly random policy; after the last token on A alone."""

    NEEDS = ("old_logp", "mean_logp", "live_mean_logp")
    scale: Weight = field(default=1.0, metadata={"range": (1e-6, None)})
    """temperature rho of the policy that Q implies"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        assert live.mean_logp is not None
        assert prepared.data.mean_logp is not None
        scale = at(self.scale, log_ratio)
        mean_q = torch.where(prepared.data.mask, scale * (live.mean_logp - prepared.data.mean_logp), 0.0)
        following = torch.cat([mean_q[..., 1:], torch.zeros_like(mean_q[..., :1])], -1)
        return value.td(scale * log_ratio, advantage_like(log_ratio, prepared) + following)


@dataclass(frozen=True)
class GroupVariance(Part):
    """GVPO: half the group's variance of beta rho - r."""

    beta: Weight = field(default=0.1, metadata={"range": (0, None)})
    """temperature of the tilt that is its minimiser"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        return regression.group_variance(log_ratio, prepared.advantage, beta=at(self.beta, log_ratio))


@dataclass(frozen=True)
class OptimalAdvantage(Part):
    """A*-PO: (beta rho - A)^2."""

    beta: Weight = field(default=1e-3, metadata={"range": (0, None)})
    """temperature of the regression"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        return regression.optimal_advantage(log_ratio, prepared.advantage, beta=at(self.beta, log_ratio))


@dataclass(frozen=True)
class Contrastive(Part):
    """CoPG: every answer against each of its group's others, (A - A' - beta (rho - rho'))^2 / (2 beta)."""

    beta: Weight = field(default=0.1, metadata={"range": (1e-9, None)})
    """temperature of the tilt that is its minimiser"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        (first, second), (mine, other) = pairs(log_ratio), pairs(prepared.advantage)
        return over_others(regression.contrastive(first, second, mine - other, beta=at(self.beta, first)))


@dataclass(frozen=True)
class RelativeReward(Part):
    """REBEL: every answer against each of its group's others, ((rho - rho') / eta - (A - A'))^2."""

    eta: Weight = field(default=1.0, metadata={"range": (1e-9, None)})
    """step: the minimiser is base e^(eta r) / Z"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        (first, second), (mine, other) = pairs(log_ratio), pairs(prepared.advantage)
        return over_others(preference.rebel(first, second, mine - other, eta=at(self.eta, first)))


@dataclass(frozen=True)
class ImplicitCritic(Part):
    """PACS: cross-entropy of the verdict and sigmoid(beta (rho - mean of the others' rho)); the reward is in [0, 1]."""

    beta: Weight = field(default=1.0, metadata={"range": (0, None)})
    """scale of the implicit reward"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        return regression.implicit_critic(log_ratio, prepared.advantage, beta=at(self.beta, log_ratio))


@dataclass(frozen=True)
class SoftPreference(Part):
    """DNO: every answer against each of its group's others, cross-entropy of sigmoid(eta (rho - rho')) and
    sigmoid(A - A')."""

    eta: Weight = field(default=0.1, metadata={"range": (1e-9, None)})
    """inverse step: the minimiser is base e^(A / eta) / Z"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        (first, second), (mine, other) = pairs(log_ratio), pairs(prepared.advantage)
        loss = preference.dno(first, second, mine - other, eta=at(self.eta, first))
        return over_others(loss * (1 - torch.eye(loss.shape[-1], dtype=loss.dtype, device=loss.device)))


@dataclass(frozen=True)
class WinRateRegression(Part):
    """SPPO: (rho - eta (A - 1/2))^2, A being a win rate."""

    eta: Weight = field(default=1e3, metadata={"range": (0, None)})
    """step of multiplicative weights"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        return preference.sppo(log_ratio, prepared.advantage, eta=at(self.eta, log_ratio))


@dataclass(frozen=True)
class Discriminative(Part):
    """DisCO: the mean score of a prompt's right answers against tau log mean e^(s / tau) of its wrong ones; a prompt
    without both says nothing. Every answer has its prompt's loss."""

    tau: Weight = field(default=10.0, metadata={"range": (1e-6, None)})
    """how evenly wrong answers count: large for their mean, small for the likeliest alone"""

    def __call__(self, log_ratio: Tensor, live: Live, prepared: Prepared) -> Tensor:
        loss = regression.discriminative(log_ratio, prepared.reward, tau=at(self.tau, log_ratio))
        return loss.unsqueeze(-1).expand_as(log_ratio)
