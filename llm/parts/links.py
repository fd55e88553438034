"""How scores become a loss: (scores (R, N, G), prepared) -> one loss per prompt (R, N) or per answer (R, N, G)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.llm.parts.part import Part, at, lengths
from fenchel.llm.rollout import Prepared
from fenchel.theory.objectives import preference

Weight = float | list[float]


def chosen_rejected(x: Tensor) -> tuple[Tensor, Tensor]:
    """(R, N, 2) -> two (R, N)."""
    return x[..., 0], x[..., 1]


@dataclass(frozen=True)
class Logistic(Part):
    """- log sigmoid(beta (s_w - s_l)), the label being wrong with probability label_smoothing."""

    beta: Weight = field(default=0.1, metadata={"range": (0, None)})
    """inverse temperature of scores"""
    label_smoothing: Weight = field(default=0.0, metadata={"range": (0, 0.5)})
    """cDPO: weight of the opposite label"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        w, l = chosen_rejected(scores)  # noqa: E741
        return preference.dpo(w, l, beta=at(self.beta, w), label_smoothing=at(self.label_smoothing, w))


@dataclass(frozen=True)
class FlippedLogistic(Part):
    """The logistic loss, freed from the bias of labels that are flipped at a known rate."""

    beta: Weight = field(default=0.1, metadata={"range": (0, None)})
    """inverse temperature of scores"""
    flip_rate: Weight = field(default=0.1, metadata={"range": (0, 0.499)})
    """share of labels that are wrong"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        w, l = chosen_rejected(scores)  # noqa: E741
        return preference.robust_dpo(w, l, beta=at(self.beta, w), flip_rate=at(self.flip_rate, w))


@dataclass(frozen=True)
class Square(Part):
    """(s_w - s_l - 1 / (2 tau))^2."""

    tau: Weight = field(default=0.1, metadata={"range": (1e-9, None)})
    """half the inverse of the margin"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        w, l = chosen_rejected(scores)  # noqa: E741
        return preference.ipo(w, l, tau=at(self.tau, w))


@dataclass(frozen=True)
class Margin(Part):
    """- log sigmoid(beta (s_w - s_l) - margin)."""

    beta: Weight = field(default=2.0, metadata={"range": (0, None)})
    """inverse temperature of scores"""
    margin: Weight = field(default=1.0, metadata={"range": (0, None)})
    """by how much the chosen answer should lead"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        w, l = chosen_rejected(scores)  # noqa: E741
        return preference.simpo(w, l, beta=at(self.beta, w), margin=at(self.margin, w))


@dataclass(frozen=True)
class LengthMargin(Part):
    """- log sigmoid(beta (s_w - s_l) + penalty (|y_w| - |y_l|)): the policy need not learn what length explains."""

    beta: Weight = field(default=0.1, metadata={"range": (0, None)})
    """inverse temperature of scores"""
    penalty: Weight = field(default=0.01, metadata={"range": (0, None)})
    """what a token costs, in units of the reward"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        long = chosen_rejected(lengths(prepared.data.mask, scores.dtype))
        w, l = chosen_rejected(scores)  # noqa: E741
        return preference.length_dpo(w, l, *long, beta=at(self.beta, w), penalty=at(self.penalty, w))


@dataclass(frozen=True)
class DivergenceLogistic(Part):
    """- log sigmoid(beta (f'(e^s_w) - f'(e^s_l)))."""

    beta: Weight = field(default=0.1, metadata={"range": (0, None)})
    """weight of the divergence"""
    divergence: str = "js"
    """kl is DPO; reverse_kl is the paper's forward KL; js; alpha:<order below 1>"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        w, l = chosen_rejected(scores)  # noqa: E741
        return preference.f_dpo(w, l, beta=at(self.beta, w), divergence=self.divergence)


@dataclass(frozen=True)
class RewardMargin(Part):
    """- log sigmoid((beta (s_w - s_l) - m) / weight), m the difference of the other objectives' weighted rewards."""

    NEEDS = ("margin",)
    beta: Weight = field(default=0.1, metadata={"range": (0, None)})
    """temperature"""
    preference_weight: Weight = field(default=0.5, metadata={"range": (1e-6, 1)})
    """weight of the objective that the labels are of"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        assert prepared.data.margin is not None
        w, l = chosen_rejected(scores)  # noqa: E741
        first, second = chosen_rejected(prepared.data.margin)
        return preference.modpo(w, l, first - second, beta=at(self.beta, w), weight=at(self.preference_weight, w))


@dataclass(frozen=True)
class Conservative(Part):
    """- log sigmoid(alpha (s_w - conservative s_l))."""

    alpha: Weight = field(default=0.1, metadata={"range": (0, None)})
    """temperature of the maximum-entropy policy"""
    conservative: Weight = field(default=0.5, metadata={"range": (0, 1)})
    """below 1 the likelihood of the data itself counts; 1 is plain"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        w, l = chosen_rejected(scores)  # noqa: E741
        return preference.cpl(w, l, alpha=at(self.alpha, w), conservative=at(self.conservative, w))


@dataclass(frozen=True)
class PairSoftmax(Part):
    """KL(q || p), q the softmax of policy_beta s over the pair, p = (1 - smoothing, smoothing)."""

    policy_beta: Weight = field(default=0.5, metadata={"range": (0, None)})
    """temperature of the policy's side"""
    smoothing: Weight = field(default=4.54e-5, metadata={"range": (1e-30, 0.5)})
    """probability of the rejected answer; released code has e^-10"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        low = torch.zeros_like(scores[..., 0]) + at(self.smoothing, scores[..., 0])
        labels = torch.stack([1 - low, low], -1).log()
        return preference.exo(scores, labels, policy_beta=at(self.policy_beta, scores[..., 0]))


@dataclass(frozen=True)
class GroupSoftmax(Part):
    """KL(q || p), q and p the softmax of policy_beta s and of r / reward_beta over the group's answers."""

    NEEDS = ("reward",)
    policy_beta: Weight = field(default=0.5, metadata={"range": (0, None)})
    """temperature of the policy's side"""
    reward_beta: Weight = field(default=0.5, metadata={"range": (1e-9, None)})
    """temperature of the reward's side"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        assert prepared.data.reward is not None
        policy, reward = (at(h, scores[..., 0]) for h in (self.policy_beta, self.reward_beta))
        return preference.exo(scores, prepared.data.reward, policy_beta=policy, reward_beta=reward)


@dataclass(frozen=True)
class Prospect(Part):
    """w (1 - sigmoid(+- (beta s - z0))): every answer by itself, desirable or not."""

    NEEDS = ("label",)
    beta: Weight = field(default=0.1, metadata={"range": (0, None)})
    """inverse temperature of scores"""
    desirable_weight: Weight = field(default=1.0, metadata={"range": (0, None)})
    """weight of a desirable answer"""
    undesirable_weight: Weight = field(default=1.0, metadata={"range": (0, None)})
    """weight of an undesirable one"""

    def __call__(self, scores: Tensor, prepared: Prepared) -> Tensor:
        label, drift = prepared.data.label, prepared.data.kl_estimate
        assert label is not None
        beta = at(self.beta, scores)
        baseline = torch.zeros_like(scores) if drift is None else beta * drift.clamp(min=0)[..., None]
        return preference.kto(
            scores,
            label.to(scores.dtype),
            baseline,
            beta=beta,
            desirable_weight=at(self.desirable_weight, scores),
            undesirable_weight=at(self.undesirable_weight, scores),
        )
