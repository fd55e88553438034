"""Implicit Q-learning: value learning that never asks for an action outside the data.

    V:   min E_D |expectile - 1(Q' - V < 0)| (Q'(s, a) - V(s))^2          Q' = min of two target critics     (eq. 5)
    Q:   min E_D (r + gamma V(s') - Q(s, a))^2                                                               (eq. 6)
    pi:  max E_D w log pi(a|s),   w = min(exp(temperature (Q'(s, a) - V(s))), 100)                     (awr, eq. 7)
                             or   w = |expectile - 1(Q'(s, a) < V(s))|                                           (w)

Kostrikov, Nair, Levine 2021, "Offline reinforcement learning with implicit Q-learning" (arXiv 2110.06169).

`w` is the policy whose own mean of Q the expectile V is, so that Q is the value of what acts; it prefers good actions
by the factor expectile / (1 - expectile): Hansen-Estruch, Kostrikov, Janner, Kuba, Levine 2023, "IDQL: implicit
Q-learning as an actor-critic method with diffusion policies" (arXiv 2304.10573).

Departures: the three losses are evaluated at the same parameters (one backward), where the authors' code updates V
first; step sizes are constant, and lr_schedule=cosine lets all of them fall, where theirs falls for the actor alone;
rewards are taken as the data has them, where they divide by the range of returns on locomotion; no dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Value, critic_bins, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class IQLConfig(Config):
    expectile: float | list[float] = field(default=0.7, metadata={"range": (0, 1)})
    """which expectile of Q the value is: 0.5 is the mean, towards 1 the best action in the data"""
    extraction: Literal["awr", "w"] = "awr"
    """the policy's weights: exponentials of the advantage, or those that the expectile itself implies"""
    temperature: float | list[float] = field(default=3.0, metadata={"range": (0, None)})
    """of extraction=awr: inverse temperature of the weights exp(temperature * advantage); 0 is behaviour cloning"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the weights' upper bound"""
    value_loss: Literal["mse", "hl_gauss", "two_hot"] = "mse"
    """the critics' loss: squared, or the cross-entropy of a law over 101 bins of value_range [124]"""
    value_range: tuple[float, ...] | None = None
    """of value_loss=hl_gauss and two_hot: the lowest and the highest return"""


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
        bins = critic_bins(self.config.value_loss, self.config.value_range, device=self.device, dtype=self.dtype)
        self.critic = Critic(self.rng, "critic", self.spec, self.config.hidden, bins=bins, **options)
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
            "critic_loss": reduce(self.critic.error(self.critic.raw(batch), backup.unsqueeze(1)).sum(1)),
            "policy_loss": reduce(policy.weighted_nll(log_prob, self.weight(q_target - v))),
        }
        self.optimiser.step(*losses.values())
        self.target.track(self.critic, h.tau)
        return {name: loss.detach() for name, loss in losses.items()}

    def weight(self, advantage: Tensor) -> Tensor:
        """What a transition counts in the policy's likelihood, (R, B)."""
        h = self.h
        if h.extraction == "w":
            return value.expectile_weight(advantage, expectile=h.expectile)
        return policy.awr_weight(advantage, inverse_temperature=h.temperature, clip=h.max_weight)
