"""Implicit V-learning: IQL's expectile of the backup itself, so that no action is ever the input of a value.

    A' = r + gamma min_j V'_j(s') - mean_j V'_j(s)                                   V' the target networks, j = 1, 2
    V_i:  min E_D |expectile - 1(A' < 0)| (r + gamma V'_i(s') - V_i(s))^2
    pi:   max E_D w log pi(a|s),   w = min(exp(temperature A), max_weight)                                        (awr)
                              or   w = |expectile - 1(A < 0)|                                                       (w)
          A = r + gamma V(s') - V(s), V the mean of the two

It needs no data on actions to learn V, and is fast; the price is that the expectile runs over next states as well as
actions. Where transitions are stochastic V is optimistic: it counts luck as skill, and IQL does not. `w` is the policy
that the expectile implies, whose own mean of the backup V is (`theory.objectives.value.expectile_weight`).

Park, Ghosh, Eysenbach, Levine 2023, "HIQL: offline goal-conditioned RL with latent states as actions" (arXiv
2307.11949), whose value this is, and GCIVL in OGBench (Park, Frans, Eysenbach, Levine 2024, arXiv 2410.20092);
expectile and temperature are GCIVL's, sizes IQL's.

Departures: no goals; the policy's advantage has the reward and the discount, where theirs is V(s') - V(s); both losses
are evaluated at the same parameters; one learned deviation per action dimension; LayerNorm is an option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import dual, policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class IVLConfig(Config):
    expectile: float | list[float] = field(default=0.9, metadata={"range": (0, 1)})
    """which expectile of r + gamma V(s') the value is: 0.5 is the mean, towards 1 the best that the data saw"""
    extraction: Literal["awr", "w"] = "awr"
    """the policy's weights: exponentials of the advantage, or those that the expectile itself implies"""
    temperature: float | list[float] = field(default=10.0, metadata={"range": (0, None)})
    """of extraction=awr: inverse temperature of the weights exp(temperature * advantage); 0 is behaviour cloning"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target values move towards the values per update"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """of extraction=awr: the weights' upper bound"""


class IVL(Learner):
    Config = IVLConfig
    TITLE = "Implicit V-learning"
    FAMILY = "offline"
    DEMO = "pointmaze-umaze"
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*pointmaze*": {"lr": 1e-3, "tau": 0.01},
    }

    def setup(self) -> None:
        options = {"layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, self.config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, self.config.hidden, members=2, **options)
        self.target = self.value.target()
        self.optimiser = Adam(self.policy, self.value, lr=self.config.lr, clip=self.config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs, next_obs = self.h, batch["obs"], batch["next_obs"]
        reward, discount = batch["reward"].unsqueeze(1), batch["discount"].unsqueeze(1)  # against (R, members, B)
        next_target, v = self.target(next_obs), self.value(obs)
        low = value.bellman_backup(reward, discount, next_target.amin(1, keepdim=True))
        value_loss = dual.ivl(
            v,
            value.bellman_backup(reward, discount, next_target),
            (low - self.target(obs).mean(1, keepdim=True)).expand_as(v),
            expectile=h.expectile.unsqueeze(1) if isinstance(h.expectile, Tensor) else h.expectile,
        )
        next_value = self.value.frozen(next_obs).mean(1)
        advantage = value.bellman_backup(batch["reward"], batch["discount"], next_value) - v.mean(1)
        log_prob = self.policy.log_prob(obs, batch["action"])
        losses = {
            "value_loss": reduce(value_loss.sum(1)),
            "policy_loss": reduce(policy.weighted_nll(log_prob, self.weight(advantage))),
        }
        self.optimiser.step(*losses.values())
        self.target.track(self.value, h.tau)
        return {name: loss.detach() for name, loss in losses.items()}

    def weight(self, advantage: Tensor) -> Tensor:
        """What a transition counts in the policy's likelihood, (R, B)."""
        h = self.h
        if h.extraction == "w":
            return value.expectile_weight(advantage, expectile=h.expectile)
        return policy.awr_weight(advantage, inverse_temperature=h.temperature, clip=h.max_weight)
