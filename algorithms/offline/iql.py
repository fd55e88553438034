"""Implicit Q-learning: value learning that never asks for an action outside the data.

    V:   min E_D |expectile - 1(Q' - V < 0)| (Q'(s, a) - V(s))^2          Q' = min of two target critics     (eq. 5)
    Q:   min E_D (r + gamma V(s') - Q(s, a))^2                                                               (eq. 6)
    pi:  max E_D min(exp(temperature (Q'(s, a) - V(s))), 100) log pi(a|s)                                    (eq. 7)

Kostrikov, Nair, Levine 2021, "Offline reinforcement learning with implicit Q-learning" (arXiv 2110.06169).

Departures: the three losses are evaluated at the same parameters (one backward), where the authors' code updates V
first; the actor's step size is constant, where they let it fall along a cosine to the last step; rewards are taken as
the data has them, where they divide by the range of returns on locomotion; no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class IQLConfig(Config):
    expectile: float | list[float] = field(default=0.7, metadata={"range": (0, 1)})
    """which expectile of Q the value is: 0.5 is the mean, towards 1 the best action in the data"""
    temperature: float | list[float] = field(default=3.0, metadata={"range": (0, None)})
    """inverse temperature of the weights exp(temperature * advantage); 0 is behaviour cloning"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the weights' upper bound"""


class IQL(Learner):
    Config = IQLConfig
    TITLE = "Implicit Q-learning"
    FAMILY = "offline"
    DEMO = "pointmaze-umaze"
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*antmaze*": {"expectile": 0.9, "temperature": 10.0},
        "*pointmaze*": {"temperature": 10.0, "lr": 1e-3, "tau": 0.01},
        "*kitchen*": {"temperature": 0.5},
        "*pen-*": {"temperature": 0.5},
    }

    def setup(self) -> None:
        options = {"layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, self.config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, self.config.hidden, **options)
        self.critic = Critic(self.rng, "critic", self.spec, self.config.hidden, **options)
        self.target = self.critic.target()
        self.optimiser = Adam(self.policy, self.value, self.critic, lr=self.config.lr, clip=self.config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs = self.h, batch["obs"]
        q_target = self.target(batch).amin(1)
        v = self.value(obs)
        backup = value.bellman_backup(batch["reward"], batch["discount"], self.value.frozen(batch["next_obs"]))
        log_prob = self.policy.log_prob(obs, batch["action"])
        losses = {
            "value_loss": reduce(value.expectile(v, q_target, expectile=h.expectile)),
            "critic_loss": reduce(value.td(self.critic(batch), backup.unsqueeze(1)).sum(1)),
            "policy_loss": reduce(
                policy.awr(log_prob, q_target - v, inverse_temperature=h.temperature, clip=h.max_weight)
            ),
        }
        self.optimiser.step(*losses.values())
        self.target.track(self.critic, h.tau)
        return {name: loss.detach() for name, loss in losses.items()}
