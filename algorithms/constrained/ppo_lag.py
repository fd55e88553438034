"""PPO with a Lagrangian: proximal policy optimisation of reward minus a multiplier times cost.

    pi:   PPO's clipped surrogate of A - lam A_c,  A_c the advantage of the costs by its own value V_c           (GAE)
    lam:  once per rollout, up where the cost of the newest episodes exceeds the limit, down, to 0, where it does not

Ray, Achiam and Amodei 2019, "Benchmarking safe exploration in deep reinforcement learning" (PPO-Lagrangian); the
controller is PID-Lagrangian of Stooke, Achiam and Abbeel 2020, "Responsive safety in reinforcement learning by PID
Lagrangian methods" (arXiv 2007.03964). `multiplier=projected` is gradient ascent on the dual, `log` is Adam on the
logarithm of lam, `pid` the controller, whose K_P = K_D = 0 is projected ascent again.

The cost is measured in the limit's own unit, so that nothing is assumed about when in an episode it is paid:

    episode                   the mean undiscounted cost of the episodes that ended since the last rollout
    discounted, normalised    the mean of the discounted cost from the first steps of episodes, as GAE estimates it
    average                   the mean cost of a step of the rollout

What no rollout has told (no episode began or ended in it) stays as it was; before anything is known the multiplier
rests. Measurement and limit are then brought to discounted units by the same factor, so that a step of lam means the
same in every unit. A time-out is bootstrapped in V_c as in V, and is no violation.

lam is in units of the rewards that PPO sees: with `normalize_reward` they are divided by the running deviation of the
discounted return, and the report's `multiplier` is multiplied by it again. The policy that meets a limit is random in
general, so evaluation samples its actions.

Departures: the usual division of the surrogate by 1 + lam is void here, as PPO standardises the sum's advantages per
minibatch; the cost's value has an optimiser of its own, because costs are not scaled as rewards are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fenchel.algorithms import constraints
from fenchel.algorithms.constrained.lagrangian import Lagrangian, multiplier
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Value
from fenchel.algorithms.online.ppo import PPOConfig, Rollouts, build, logged, surrogate
from fenchel.algorithms.sampler import Batch
from fenchel.envs.task import Task
from fenchel.theory.budgets import convert
from fenchel.theory.objectives import policy_gradient
from fenchel.theory.objectives.reduce import reduce
from fenchel.theory.objectives.returns import gae


@dataclass
class PPOLagConfig(PPOConfig, Lagrangian):
    pass


class PPOLag(Learner):
    Config = PPOLagConfig
    TITLE = "PPO with a Lagrange multiplier"
    FAMILY = "constrained"
    DEMO = "point-goal"
    NEEDS = ("cost",)
    ONLINE = True
    DETERMINISTIC = False
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*[Pp]endulum*": {"gamma": 0.9, "lr": 1e-3, "horizon": 128, "steps": 30_000},
        "point-goal*": {"gamma": 0.95, "lr": 1e-3, "horizon": 100, "steps": 16_000},
    }

    def setup(self) -> None:
        build(self)
        shared = {"activation": "tanh", "init": "orthogonal", "layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.cost_value = Value(self.rng, "cost_value", self.spec, self.config.hidden, **shared)
        self.cost_optimiser = Adam(self.cost_value, lr=self.config.lr, clip=self.config.clip_grad)
        self.multiplier = multiplier(self)
        self.h.budget = constraints.budget(self, "discounted")

    def bind(self, task: Task) -> None:
        self.limits, self.h.budget = constraints.bind(self, task, "discounted")

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses, log_ratio = surrogate(self, batch, batch["advantage"])
        self.optimiser.step(*losses.values())
        error = policy_gradient.ppo_value(self.cost_value(batch["obs"]), batch["cost_value"], batch["cost_return"])
        cost_loss = reduce(error)
        self.cost_optimiser.step(cost_loss)
        found = logged(self, losses | {"cost_value_loss": cost_loss}, log_ratio)
        return found | {"multiplier": self.multiplier().squeeze(1)}

    def source(self, task: Task, normalize_obs: bool = True) -> CostRollouts:
        self.bind(task)
        return CostRollouts(self, task, normalize_obs)

    def report(self, source: CostRollouts) -> dict[str, list]:
        lam = self.multiplier() * source.reward_scale
        return {"multiplier": lam.squeeze(1).tolist()} | source.collector.costs.report()


class CostRollouts(Rollouts):
    """Rollouts with costs. `measured` (R, 1): the newest known cost, discounted; at first the budget itself."""

    def __init__(self, learner: PPOLag, task: Task, normalize_obs: bool):
        super().__init__(learner, task, normalize_obs)
        self.unit = learner.config.unit or task.metadata["cost"]["unit"]
        gammas = torch.as_tensor(learner.config.gamma).expand(learner.R).tolist()
        factors = [convert(1.0, self.unit, "discounted", gamma=gamma, horizon=task.max_steps) for gamma in gammas]
        self.factor = learner.h.budget.new_tensor(factors).unsqueeze(1)
        self.measured = learner.h.budget.clone()
        self.rollout |= {name: torch.zeros_like(self.rollout["value"]) for name in ("cost_value", "cost_return")}

    @property
    def reward_scale(self) -> Tensor:
        """(R, 1): what rewards are divided by."""
        scale = self.scale.std[..., 0]
        return scale if self.config.normalize_reward else torch.ones_like(scale)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"measured": self.measured}

    def _collect(self) -> None:
        self.began = self.collector.age.view(self.learner.R, -1) == 0
        super()._collect()

    def _estimates(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        learner, found = self.learner, super()._estimates(columns)
        flat = (columns[name].flatten(1, 2) for name in ("obs", "next_obs"))
        value, following = (learner.cost_value(obs).view_as(columns["cost"]) for obs in flat)
        lam = learner.h.gae_lambda
        lam = lam.unsqueeze(-1) if isinstance(lam, Tensor) else lam
        advantage = gae(columns["cost"], columns["discount"], value, following, columns["cut"], lam=lam)
        self._measure(columns, advantage + value)
        with torch.enable_grad():
            learner.multiplier.step(self.measured, learner.h.budget)
        mixed = found["advantage"] - learner.multiplier().unsqueeze(-1) * advantage
        return found | {"advantage": mixed, "cost_value": value, "cost_return": advantage + value}

    def _measure(self, columns: dict[str, Tensor], returns: Tensor) -> None:
        """columns and returns, the discounted costs from every step on, (R, E, T)."""
        if self.unit == "average":
            count, total = torch.ones_like(self.measured), columns["cost"].flatten(1).mean(1, keepdim=True)
        elif self.unit == "episode":
            count, total, _ = self.collector.costs.recent.split(1, dim=1)
        else:
            first = torch.cat([self.began.unsqueeze(-1).to(returns), columns["cut"][..., :-1]], -1)
            count = first.flatten(1).sum(1, keepdim=True)
            total = (returns * first).flatten(1).sum(1, keepdim=True)
            total = total / self.factor if self.unit == "normalised" else total
        mean = total / count.clamp(min=1) * self.factor
        self.measured.copy_(torch.where(count > 0, mean, self.measured))
        self.collector.costs.recent.zero_()
