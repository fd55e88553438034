"""SAC with a Lagrangian: soft actor-critic whose actor pays a multiplier times a cost critic.

    Q_c:  min E (Q_c(s, a) - c - gamma Q_c'(s', a'))^2,  a' ~ pi                      no entropy, no minimum of two
    pi:   max E min_i Q_i(s, a) - temperature log pi(a|s) - lam (Q_c(s, a) - d),  a ~ pi
    lam:  at every update, up where E Q_c(s, a) > d, down where it is below,  s from the buffer and a ~ pi

Ha et al. 2020, "Learning to walk in the real world with minimal human effort" (arXiv 2002.08550), on SAC. `multiplier`
is `log` (Adam on log lam), `projected` (gradient ascent) or `pid` (Stooke 2020).

d is the limit in discounted units: a limit of L per episode of T steps is the rate L / T, and d = L / T / (1 - gamma).
That is exact for a cost that is paid at a constant rate. Where it is paid early in an episode, the buffer's states see
less of it ahead than d allows, the more so the nearer gamma is to 1, and the limit is exceeded; where it is paid late,
too. Time-outs are bootstrapped and are no violations.

Departures: evaluation samples actions, as it is the sampled policy that the constraint is about; the multiplier looks
at states of the whole buffer, not at the newest, so it follows with a delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fenchel.algorithms import constraints
from fenchel.algorithms.constrained import cost_critic
from fenchel.algorithms.constrained.lagrangian import Lagrangian, multiplier
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.online.sac import Replay, SACConfig, build, critic_step, policy_step, temperature
from fenchel.algorithms.sampler import Batch
from fenchel.envs.task import Task
from fenchel.theory.objectives import constraint
from fenchel.theory.objectives.reduce import reduce


@dataclass
class SACLagConfig(SACConfig, Lagrangian):
    multiplier: Literal["projected", "log", "pid"] = "log"
    """how the multiplier moves: projected gradient ascent, Adam on its logarithm, or a PID controller"""
    multiplier_lr: float | list[float] = field(default=1e-3, metadata={"range": (0, None)})
    """the multiplier's step per unit of discounted cost, Adam's step size, or the controller's integral gain"""


class SACLag(Learner):
    Config = SACLagConfig
    TITLE = "SAC with a Lagrange multiplier"
    FAMILY = "constrained"
    DEMO = "point-goal"
    NEEDS = ("cost",)
    ACTIONS = ("box",)
    ONLINE = True
    DETERMINISTIC = False
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*[Pp]endulum*": {"hidden": [64, 64], "batch_size": 64, "lr": 1e-3, "buffer_size": 50_000, "steps": 10_000},
        # four steps of the environment per update, so that 40,000 of them are seen in 10,000 updates
        "point-goal*": {
            "gamma": 0.95,
            "lr": 1e-3,
            "num_envs": 4,
            "buffer_size": 50_000,
            "multiplier_lr": 1e-3,
            "steps": 10_000,
        },
    }

    def setup(self) -> None:
        build(self)
        cost_critic.build(self, members=1)
        self.multiplier = multiplier(self)
        self.h.budget = constraints.budget(self, "discounted")

    def bind(self, task: Task) -> None:
        self.limits, self.h.budget = constraints.bind(self, task, "discounted")

    def update(self, batch: Batch) -> dict[str, Tensor]:
        heat, lam, budget = temperature(self), self.multiplier(), self.h.budget
        critic_loss, next_action = critic_step(self, batch)
        cost_loss = cost_critic.step(self, batch, next_action)

        def constrain(loss: Tensor, action: Tensor) -> Tensor:
            return constraint.lagrangian(loss, self.cost(batch["obs"], action), lam, budget=budget)

        policy_loss, action = policy_step(self, batch, constrain)
        with torch.no_grad():
            estimate = reduce(self.cost(batch["obs"], action))
        self.multiplier.step(estimate, budget)
        self.target.track(self.critic, self.h.tau)
        losses = {"critic_loss": critic_loss, "policy_loss": policy_loss, "cost_loss": cost_loss}
        seen = {"temperature": heat.squeeze(1), "multiplier": lam.squeeze(1), "cost_estimate": estimate}
        return losses | seen

    def cost(self, obs: Tensor, action: Tensor) -> Tensor:
        """(R, B): the discounted cost that the critic expects, without its own gradient."""
        return self.cost_critic.frozen.of(obs, action).squeeze(1)

    def source(self, task: Task, normalize_obs: bool = True) -> Replay:
        """Observations are not normalised, as in SAC."""
        self.bind(task)
        return Replay(self, task)

    def report(self, source: Replay) -> dict[str, list]:
        return {"multiplier": self.multiplier().squeeze(1).tolist()} | source.collector.costs.report()
