"""IQ-Learn: a soft Q-function whose implied rewards tell demonstrations from everything else.

    x(s, a) = Q(s, a) - gamma V(s'),   V(s) = T log sum_a exp(Q(s, a) / T),   pi = exp((Q - V) / T)
    Q:   max E_E phi(x) - value,   phi(x) = - alpha f*(- x / alpha),   for chi2  phi(x) = x - x^2 / (4 alpha)
         value = E_E V(s) - gamma V(s')  (expert)   or   (1 - gamma) E V(s0)  (initial)   or   the same as `expert`
         over demonstrations and other rows alike  (both)

At the optimum of `initial`, pi's occupancy d minimises alpha D_f(d || d_E) - T H(d), H the discounted entropy. The
other two are equal to it where the rows' states are an occupancy from the start. Box: V(s) = Q(s, a) - T log pi(a|s) at
a ~ pi, and the actor maximises it at the demonstrations' states (and at all rows' with value=both).

Garg, Chakraborty, Cundy, Song, Ermon 2021, "IQ-Learn: inverse soft-Q learning for imitation" (arXiv 2106.12142). There
is no discriminator, and with `expert` no other data than demonstrations is used.

Departures from Div99/IQ-Learn: V(s') always has its gradient and no target network, as in the objective; `initial`
takes first states, where theirs takes all states of demonstrations (docs/errata.md); one critic, as on their robots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.imitation import flow
from fenchel.algorithms.imitation.source import ImitationSampler, expert_part
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Categorical, Critic, Gaussian
from fenchel.algorithms.sampler import Batch
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import dual, policy
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset


@dataclass
class IQLearnConfig(Config):
    divergence: str = "chi2"
    """f: chi2, kl, soft_chi2, or alpha:<order of at least 1>"""
    alpha: float | list[float] = field(default=0.5, metadata={"range": (0, None)})
    """weight of the divergence from the demonstrations; 0 is excluded"""
    temperature: float | list[float] = field(default=0.01, metadata={"range": (0, None)})
    """T, the weight of the policy's entropy, in units of the implied reward; 0 is excluded"""
    value: Literal["expert", "initial", "both"] = "expert"
    """at which states the policy's own value is taken; only `both` uses other rows than demonstrations"""


class IQLearn(Learner):
    Config = IQLearnConfig
    TITLE = "IQ-Learn"
    FAMILY = "imitation"
    DEMO = "fourrooms-imitation"
    NEEDS = ("expert",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*fourrooms*": {"gamma": 0.95, "lr": 1e-3, "value": "both"},
        "*stitchmaze*": {"gamma": 0.95, "lr": 1e-3, "value": "both"},
        "*pendulum*": {"lr": 1e-3},
    }

    def setup(self) -> None:
        config = self.config
        for weight in (config.alpha, config.temperature):
            dual.check_temperature(weight)
        dual.check_unbounded(config.divergence)
        if config.value == "initial":
            flow.check_gamma(config.gamma)
        self.divergence = get_divergence(config.divergence)
        self.expand("gamma", "alpha", "temperature")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.critic = Critic(self.rng, "critic", self.spec, config.hidden, members=1, **options)
        self.optimiser = Adam(self.critic, lr=config.lr, clip=config.clip_grad)
        if self.spec.discrete:
            self.policy = Soft(self.critic, self.h.temperature)
        else:
            self.policy = Gaussian(
                self.rng, "policy", self.spec, config.hidden, squash="sample", std="state", **options
            )
            self.policy_optimiser = Adam(self.policy, lr=config.lr, clip=config.clip_grad)

    def sampler(self, data: OfflineDataset) -> ImitationSampler:
        return ImitationSampler(data, self, union=self.config.value != "both")

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, expert = self.h, expert_part(batch)
        next_value = expert["discount"] * self.value(expert["next_obs"], "expert_next")
        reward = self.critic(expert).squeeze(1) - next_value
        form = {"divergence": self.divergence, "temperature": h.alpha, "nonneg": False}
        loss = reduce(dual.residual_dual(-reward, **form))
        if h.value == "initial":
            loss = loss + reduce((1 - h.gamma) * self.value(batch["start_obs"], "start"))
        else:
            own = reduce(self.value(expert["obs"], "expert") - next_value)
            loss = loss + (own if h.value == "expert" else (own + self.elsewhere(batch)) / 2)
        self.optimiser.step(loss)
        losses = {"critic_loss": loss.detach(), "expert_reward": reduce(reward.detach())}
        return losses if self.spec.discrete else losses | self.improve_policy(batch)

    def elsewhere(self, batch: Batch) -> Tensor:
        """E V(s) - gamma V(s') over the offline rows, (R,)."""
        next_value = batch["discount"] * self.value(batch["next_obs"], "next")
        return reduce(self.value(batch["obs"], "obs") - next_value)

    def value(self, obs: Tensor, name: str) -> Tensor:
        """V, (R, B), whose gradient goes to the critic alone; `name` of the stream that a Box's action comes from."""
        if self.spec.discrete:
            return self.policy.value(self.critic.table(obs).squeeze(1))
        with torch.no_grad():
            action, log_prob = self.policy.sample(obs, self.noise(name, (obs.shape[1], self.spec.action.dim)))
        return self.critic.of(obs, action).squeeze(1) - self.h.temperature * log_prob

    def improve_policy(self, batch: Batch) -> dict[str, Tensor]:
        loss = self.policy_loss(batch["expert_obs"], "expert_policy")
        if self.h.value == "both":
            loss = (loss + self.policy_loss(batch["obs"], "policy")) / 2
        self.policy_optimiser.step(loss)
        return {"policy_loss": loss.detach()}

    def policy_loss(self, obs: Tensor, name: str) -> Tensor:
        action, log_prob = self.policy.sample(obs, self.noise(name, (obs.shape[1], self.spec.action.dim)))
        q = self.critic.frozen.of(obs, action).squeeze(1)
        return reduce(policy.sac_actor(log_prob, q, temperature=self.h.temperature))


class Soft:
    """softmax(Q / T) of a Discrete critic; T (R, 1)."""

    NOISE = "uniform"
    sample, log_prob = Categorical.sample, Categorical.log_prob  # which ask `log_probs`

    def __init__(self, critic: Critic, temperature: Tensor):
        self.critic, self.temperature = critic, temperature

    def value(self, q: Tensor) -> Tensor:
        """T log sum_a exp(q / T), (R, B, n) -> (R, B)."""
        return self.temperature * (q / self.temperature.unsqueeze(-1)).logsumexp(-1)

    def log_probs(self, obs: Tensor) -> Tensor:
        """(R, B, n), of all actions."""
        q = self.critic.frozen.table(obs).squeeze(1)
        return (q / self.temperature.unsqueeze(-1)).log_softmax(-1)

    def mode(self, obs: Tensor) -> Tensor:
        return self.log_probs(obs).argmax(-1)
