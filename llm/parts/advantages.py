"""Advantages: (rollout, token rewards (R, N, G, L), counted (R, N, G, L)) -> (R, N, G), or (R, N, G, L) per token."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.llm.parts.part import Part, at, lengths
from fenchel.llm.rollout import Rollout
from fenchel.theory.objectives import advantage
from fenchel.theory.objectives.policy_gradient import group_advantage
from fenchel.theory.objectives.returns import gae


@dataclass(frozen=True)
class Raw(Part):
    """The reward itself."""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        return reward.sum(-1)


@dataclass(frozen=True)
class One(Part):
    """1 for every answer: maximum likelihood on those that count."""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        return torch.ones_like(reward[..., 0])


@dataclass(frozen=True)
class LeaveOneOut(Part):
    """r_i minus the mean of the group's others: unbiased. [294]"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        return group_advantage(reward.sum(-1), baseline="loo")


@dataclass(frozen=True)
class GroupMean(Part):
    """r_i minus the group's mean: (G - 1) / G of leave-one-out. [193]"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        return group_advantage(reward.sum(-1), baseline="mean")


@dataclass(frozen=True)
class GroupZScore(Part):
    """(r_i - mean) / (std + epsilon) in the group: prompts are weighted by about 1 / std. [189]"""

    epsilon: float = field(default=1e-6, metadata={"range": (0, None)})
    """added to the standard deviation; TRL has 1e-4, OpenRLHF 1e-9"""
    unbiased_std: bool = False
    """divide the variance by G - 1, as TRL and verl do"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        return group_advantage(reward.sum(-1), baseline="zscore", epsilon=self.epsilon, unbiased_std=self.unbiased_std)


@dataclass(frozen=True)
class LengthWeighted(Part):
    """r_i minus the group's mean weighted by length, which stands in for the baseline of least variance. [334]"""

    leave_one_out: bool = False
    """the mean over the others: unbiased"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        r = reward.sum(-1)
        weight = lengths(rollout.mask, r.dtype)
        return r - advantage.weighted_baseline(r, weight, leave_one_out=self.leave_one_out)


@dataclass(frozen=True)
class OptimalBaseline(Part):
    """r_i minus the group's mean weighted by |grad log pi(y)|^2, the baseline of least variance. [49]"""

    NEEDS = ("score_norm",)
    leave_one_out: bool = True
    """the mean over the others: unbiased"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        assert rollout.score_norm is not None
        r = reward.sum(-1)
        return r - advantage.weighted_baseline(r, rollout.score_norm, leave_one_out=self.leave_one_out)


@dataclass(frozen=True)
class Greedy(Part):
    """Return to go of every token minus the reward of the prompt's greedy answer: unbiased. [307]"""

    NEEDS = ("greedy_reward",)

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        assert rollout.greedy_reward is not None
        return advantage.return_to_go(reward) - rollout.greedy_reward[..., None, None]


@dataclass(frozen=True)
class Tracked(Part):
    """r_i minus the prompt's tracked value from before this rollout, whitened over the batch. [81]"""

    NEEDS = ("baseline",)
    whiten: bool = True
    """mean 0 and variance 1 over the batch's answers; without it the estimator is unbiased"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        assert rollout.baseline is not None
        a = reward.sum(-1) - rollout.baseline[..., None]
        return advantage.whiten(a, counted.any(-1).to(a.dtype)) if self.whiten else a


@dataclass(frozen=True)
class BatchWhitened(Part):
    """Returns to go of every token, whitened over all tokens of the batch. [216]"""

    gamma: float | list[float] = field(default=1.0, metadata={"range": (0, 1)})
    """discount per token"""
    group_mean: bool = False
    """take off the group's mean reward first (REINFORCE++-baseline)"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        returns = advantage.return_to_go(reward, gamma=at(self.gamma, reward[..., 0]))
        if self.group_mean:
            returns = returns - reward.sum(-1).mean(-1)[..., None, None]
        return advantage.whiten(returns, counted.to(reward.dtype))


@dataclass(frozen=True)
class GAE(Part):
    """Generalised advantages of a critic. Answers end where they end: a cut-off answer is not bootstrapped. [232, 293]

    The critic is regressed on returns with its own lam (decoupled: VC-PPO [311] has 1 there).
    """

    NEEDS = ("value",)
    gamma: float | list[float] = field(default=1.0, metadata={"range": (0, 1)})
    """discount per token"""
    lam: float | list[float] = field(default=0.95, metadata={"range": (0, 1)})
    """the actor's lambda"""
    lam_critic: float | list[float] = field(default=0.95, metadata={"range": (0, 1)})
    """the critic's lambda; 1 regresses on Monte Carlo returns"""
    length_alpha: float | None = field(default=None, metadata={"range": (0, None)})
    """VAPO: the actor's lambda is 1 - 1 / (alpha length) per answer; null: lam"""
    whiten: bool = True
    """advantages of mean 0 and variance 1 over the batch's tokens"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        lam = at(self.lam, reward)
        if self.length_alpha is not None:
            length = lengths(rollout.mask, reward.dtype)
            lam = advantage.length_adaptive_lambda(length, alpha=self.length_alpha)[..., None]
        a = self._estimate(rollout, reward, lam)
        return advantage.whiten(a, counted.to(a.dtype)) if self.whiten else a

    def targets(self, rollout: Rollout, reward: Tensor) -> Tensor:
        """(R, N, G, L): what the critic is regressed on."""
        assert rollout.value is not None
        return self._estimate(rollout, reward, at(self.lam_critic, reward)) + rollout.value

    def _estimate(self, rollout: Rollout, reward: Tensor, lam: Tensor | float) -> Tensor:
        assert rollout.value is not None
        mask = rollout.mask.to(reward.dtype)
        value = torch.where(rollout.mask, rollout.value, 0.0)  # after its last token an answer is worth 0
        following = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], -1)
        discount = torch.ones_like(reward) * at(self.gamma, reward)
        return gae(reward, discount, value, following, torch.zeros_like(reward), lam=lam) * mask


@dataclass(frozen=True)
class Signed(Part):
    """+ positive for a right answer, - negative for a wrong one, without a baseline. [47]"""

    positive: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """advantage of a right answer"""
    negative: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """minus the advantage of a wrong one"""
    threshold: float | list[float] = 0.0
    """an answer is right if its reward is larger"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        r = reward.sum(-1)
        options = dict(positive=self.positive, negative=self.negative, threshold=self.threshold)
        return advantage.signed(r, **{name: at(value, r) for name, value in options.items()})


@dataclass(frozen=True)
class ReferenceValue(Part):
    """r - V*, V* = beta log mean exp(r / beta) over answers that the reference gave. [242]"""

    NEEDS = ("reference_reward",)
    value_beta: float | list[float] = field(default=0.5, metadata={"range": (1e-6, None)})
    """temperature of the value"""

    def __call__(self, rollout: Rollout, reward: Tensor, counted: Tensor) -> Tensor:
        samples = rollout.reference_reward
        assert samples is not None
        return reward.sum(-1) - advantage.soft_value(samples, beta=at(self.value_beta, samples[..., 0]))[..., None]
