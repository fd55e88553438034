"""Behaviour cloning, and %BC on the best trajectories.

    max_pi  E_{(s, a) ~ D_x} log pi(a|s),        D_x = the fraction x of D's episodes with the highest returns

Pomerleau 1988; %BC as the baseline of Decision Transformer (Chen et al. 2021, section 5.1).

Box: `policy=deterministic` minimises |pi(s) - a|^2 instead, the form of the comparisons in the literature.
Departure: %BC keeps the fewest whole episodes that hold at least a fraction x of the transitions, not of the episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Deterministic, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import policy
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset


@dataclass
class BCConfig(Config):
    policy: Literal["deterministic", "gaussian"] = "deterministic"
    """for Box actions: a function fitted by squared error, or a Gaussian by likelihood"""
    fraction: float = field(default=1.0, metadata={"range": (0, 1)})
    """share of the transitions to imitate, those of the episodes with the highest returns; 0.1 is 10%BC"""


class BC(Learner):
    Config = BCConfig
    TITLE = "Behaviour cloning"
    FAMILY = "offline"
    DEMO = "hopper-medium"
    PRESETS = {"small": {"hidden": [64, 64], "batch_size": 64}}  # noqa: RUF012

    def setup(self) -> None:
        options = {"layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.regression = self.config.policy == "deterministic" and not self.spec.discrete
        make = Deterministic if self.regression else stochastic_policy
        self.policy = make(self.rng, "policy", self.spec, self.config.hidden, **options)
        self.optimiser = Adam(self.policy, lr=self.config.lr, clip=self.config.clip_grad)

    def select(self, data: OfflineDataset) -> Tensor | None:
        if self.config.fraction == 1:
            return None
        return best_episodes(data, self.config.fraction)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        obs, action = batch["obs"], batch["action"]
        if self.regression:
            loss = reduce(policy.mse(self.policy.mode(obs), action))
        else:
            loss = reduce(policy.nll(self.policy.log_prob(obs, action)))
        self.optimiser.step(loss)
        return {"policy_loss": loss.detach()}


def best_episodes(data: OfflineDataset, fraction: float) -> Tensor:
    """Rows of the episodes with the highest undiscounted returns, until they hold `fraction` of all rows."""
    starts, ends = data.episode_starts, data.episode_ends
    order = data.episode_returns().argsort(descending=True, stable=True)
    lengths = (ends - starts)[order]
    before = lengths.cumsum(0) - lengths
    kept = order[before < fraction * len(data)]
    return torch.cat([torch.arange(*span) for span in zip(starts[kept].tolist(), ends[kept].tolist(), strict=True)])
