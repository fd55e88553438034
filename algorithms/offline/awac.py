"""AWAC: an actor-critic whose actor is weighted regression to the data's actions.

    Q_i:  min E_D (r + gamma min_j Q'_j(s', a') - Q_i(s, a))^2,   a' ~ pi(s')
    pi:   max E_D min(exp(inverse_temperature A(s, a)), max_weight) log pi(a|s)                                 (eq. 9)
          A(s, a) = min_i Q_i(s, a) - min_i Q_i(s, a_pi),   a_pi ~ pi(s)

Nair, Gupta, Dalal, Levine 2020, "AWAC: accelerating online reinforcement learning with offline datasets" (arXiv
2006.09359); inverse_temperature is 1 / lambda there. Sizes and the weights' bound are those of CORL's version.

Box: one action of pi stands for the expectation, clamped to the box. Discrete: both expectations over pi are exact.
Departure: critics and policy are updated at the same parameters (one backward).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class AWACConfig(Config):
    hidden: tuple[int, ...] = field(default=(256, 256, 256), metadata={"range": (1, None)})
    """widths of the hidden layers of every network"""
    inverse_temperature: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """of the weights exp(inverse_temperature * advantage); 0 is behaviour cloning"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the weights' upper bound"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""


class AWAC(Learner):
    Config = AWACConfig
    TITLE = "Advantage-weighted actor-critic"
    FAMILY = "offline"
    DEMO = "hopper-medium-replay"
    PRESETS = {"small": {"hidden": [64, 64], "batch_size": 64}}  # noqa: RUF012

    def setup(self) -> None:
        options = {"layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, self.config.hidden, **options)
        self.critic = Critic(self.rng, "critic", self.spec, self.config.hidden, **options)
        self.target = self.critic.target()
        self.optimiser = Adam(self.policy, self.critic, lr=self.config.lr, clip=self.config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs = self.h, batch["obs"]
        next_value = self.expected(self.target, batch["next_obs"], "backup")
        backup = value.bellman_backup(batch["reward"], batch["discount"], next_value)
        q = self.critic(batch)
        advantage = q.amin(1) - self.expected(self.critic.frozen, obs, "policy")
        log_prob = self.policy.log_prob(obs, batch["action"])
        policy_loss = policy.awr(log_prob, advantage, inverse_temperature=h.inverse_temperature, clip=h.max_weight)
        losses = {
            "critic_loss": reduce(value.td(q, backup.unsqueeze(1)).sum(1)),
            "policy_loss": reduce(policy_loss),
        }
        self.optimiser.step(*losses.values())
        self.target.track(self.critic, h.tau)
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def expected(self, critic: Critic, obs: Tensor, stream: str) -> Tensor:
        """(R, B): the smaller critic's mean under the policy; of one sample of it in a Box."""
        if self.spec.discrete:
            return (self.policy.log_probs(obs).exp() * critic.table(obs).amin(1)).sum(-1)
        action, _ = self.policy.sample(obs, self.noise(stream, (obs.shape[1], self.spec.action.dim)))
        return critic.of(obs, action.clamp(-1, 1)).amin(1)
