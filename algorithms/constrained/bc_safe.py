"""Behaviour cloning of the episodes whose cost is within the limit.

    max_pi  E_{(s, a) ~ D_safe} log pi(a|s),        D_safe = D's episodes of cost at most `limit`, in its unit

BC-Safe of the comparisons in Liu et al. 2023, "Datasets and benchmarks for offline safe reinforcement learning" (DSRL,
arXiv 2306.09303).

An episode's cost is counted from its rows in the limit's own unit (a sum, a discounted sum, a mean), so nothing is
converted. What comes out has the mean cost of what is cloned, at most the limit; a policy between the cloned ones, as a
deterministic one is, may cost more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from fenchel.algorithms import constraints
from fenchel.algorithms.constraints import Constrained
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Deterministic, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.errors import UserError
from fenchel.theory.objectives import policy
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset
    from fenchel.envs.task import Task


@dataclass
class BCSafeConfig(Constrained):
    limit: float | None = None
    """the largest cost, in `unit`; null: the middle one of the task's limits"""
    policy: Literal["deterministic", "gaussian"] = "deterministic"
    """for Box actions: a function fitted by squared error, or a Gaussian by likelihood"""


class BCSafe(Learner):
    Config = BCSafeConfig
    TITLE = "Behaviour cloning of safe episodes"
    FAMILY = "constrained"
    DEMO = "point-goal-mixed"
    NEEDS = ("cost",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*point-goal*": {"lr": 1e-3},
    }

    def setup(self) -> None:
        options = {"layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.regression = self.config.policy == "deterministic" and not self.spec.discrete
        self.DETERMINISTIC = not self.spec.discrete  # the clone costs what the data cost, its mode may not
        make = Deterministic if self.regression else stochastic_policy
        self.policy = make(self.rng, "policy", self.spec, self.config.hidden, **options)
        self.optimiser = Adam(self.policy, lr=self.config.lr, clip=self.config.clip_grad)
        self.limit, self.unit = self.config.limit, self.config.unit

    def bind(self, task: Task) -> None:
        self.limits, _ = constraints.bind(self, task, "discounted")
        own, facts = self.config, task.metadata.get("cost", {})
        given = (self.limits[0], facts["unit"]) if own.limit is None else (own.limit, own.unit or facts["unit"])
        self.limit, self.unit = given

    def select(self, data: OfflineDataset) -> Tensor:
        if self.limit is None or self.unit is None:
            raise UserError("BCSafe needs limit=<number> and unit=<its unit>, or to be bound to a task that has them.")
        if isinstance(self.h.gamma, Tensor) and self.unit in ("discounted", "normalised"):
            raise UserError(f"gamma is a list, but replicas share the episodes that unit={self.unit} chooses by it.")
        cost = episode_costs(data, self.unit, self.config.gamma)
        safe = (cost <= self.limit).nonzero()[:, 0].tolist()
        if not safe:
            least = f"the cheapest of {len(cost)} costs {float(cost.min()):g}"
            raise UserError(f"no episode of the data has a cost within limit={self.limit:g} ({self.unit}): {least}.")
        spans = zip(data.episode_starts.tolist(), data.episode_ends.tolist(), strict=True)
        rows = [torch.arange(*span) for span in spans]
        return torch.cat([rows[i] for i in safe])

    def update(self, batch: Batch) -> dict[str, Tensor]:
        obs, action = batch["obs"], batch["action"]
        if self.regression:
            loss = reduce(policy.mse(self.policy.mode(obs), action))
        else:
            loss = reduce(policy.nll(self.policy.log_prob(obs, action)))
        self.optimiser.step(loss)
        return {"policy_loss": loss.detach()}


def episode_costs(data: OfflineDataset, unit: str, gamma: float) -> Tensor:
    """(E,) float64: each episode's cost in a unit of `theory.budgets`, from its rows."""
    starts, ends = data.episode_starts, data.episode_ends
    length = ends - starts
    age = torch.arange(len(data), device=data.device) - starts.repeat_interleave(length)
    fade = gamma ** age.double() if unit in ("discounted", "normalised") else torch.ones_like(age.double())
    total = torch.cat([fade.new_zeros(1), (fade * data.extras["cost"].double()).cumsum(0)])
    cost = total[ends] - total[starts]
    return cost / length if unit == "average" else cost * (1 - gamma) if unit == "normalised" else cost
