"""CAL: conservative augmented Lagrangian, off-policy safe learning that survives many updates per step.

    Q_c+ = mean_i Q_ci + k std_i Q_ci    over E cost critics, each with its own target: c + gamma Q_ci'(s', a')
    mu   = max(0, lam + c (E Q_c+(s, a) - d))                             s, a from the buffer
    pi:  max E min_i Q_i(s, a) - temperature log pi(a|s) - mu Q_c+(s, a)   s from the buffer, a ~ pi
    lam: at every update, up where E Q_c+(s, a) > d and down where it is below   s, a from the buffer

Wu et al. 2024, "Off-policy primal-dual safe reinforcement learning" [272] (arXiv 2401.14758); the released code is
ZifanWu/CAL, agent/cal.py. A Lagrangian actor finds the actions whose cost the critic underestimates; k deviations
above the mean answer that. The quadratic term of the augmented Lagrangian (c = 0 is the plain one) keeps the same
optima and damps the oscillation of actor and multiplier; its derivative is the plain one's with mu for lam, which is a
projected ascent step of size c from lam. The release writes mu as lam - min(c (d - E Q_c+), lam).

d is the limit in discounted units, L / T / (1 - gamma) for a limit of L per episode of T steps: see `sac_lag` on when
that is exact. The release has L (1 - gamma^T) / ((1 - gamma) T) on Safety-Gym and raw numbers on MuJoCo.

k=0 and c=0 leave SAC with a Lagrangian, by an ensemble's mean and the buffer's actions.

Departures: `multiplier` may also be `projected` or `pid`; 10 updates per step of the environment, as the paper says
(the released loop does at most 5); a terminal ends the cost, which the release does not mask on Safety-Gym, where
nothing is terminal; no random subsets of critics, which the release has for Humanoid alone; evaluation samples actions.
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
from fenchel.theory.objectives import constraint, safety
from fenchel.theory.objectives.reduce import reduce


@dataclass
class CALConfig(SACConfig, Lagrangian):
    act_every: int = field(default=10, metadata={"range": (1, None)})
    """updates per step of the copies"""
    members: int = field(default=4, metadata={"range": (2, None)})
    """E, cost critics; the paper has 8 on MuJoCo"""
    k: float | list[float] = field(default=0.5, metadata={"range": (0, None)})
    """deviations of the ensemble above its mean"""
    c: float | list[float] = field(default=10.0, metadata={"range": (0, None)})
    """weight of the quadratic term"""
    multiplier: Literal["projected", "log", "pid"] = "log"
    """how the multiplier moves: projected gradient ascent, Adam on its logarithm, or a PID controller"""
    multiplier_lr: float | list[float] = field(default=3e-4, metadata={"range": (0, None)})
    """the multiplier's step per unit of discounted cost, Adam's step size, or the controller's integral gain"""
    initial_multiplier: float = field(default=0.6931, metadata={"range": (0, None)})
    """the first multiplier; a controller begins at 0"""


class CAL(Learner):
    Config = CALConfig
    PAPER = 272
    TITLE = "Off-policy primal-dual safe reinforcement learning"
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
            "act_every": 1,
            "buffer_size": 50_000,
            "multiplier_lr": 1e-3,
            "steps": 10_000,
        },
    }

    def setup(self) -> None:
        build(self)
        cost_critic.build(self, self.config.members)
        self.multiplier = multiplier(self)
        self.h.budget = constraints.budget(self, "discounted")

    def bind(self, task: Task) -> None:
        self.limits, self.h.budget = constraints.bind(self, task, "discounted")

    def update(self, batch: Batch) -> dict[str, Tensor]:
        heat, lam, budget = temperature(self), self.multiplier(), self.h.budget
        critic_loss, next_action = critic_step(self, batch)
        cost_loss = cost_critic.step(self, batch, next_action)
        with torch.no_grad():
            estimate = reduce(safety.upper_confidence(self.cost_critic(batch), deviations=self.h.k))
        weight = constraint.projected_ascent(lam, estimate.unsqueeze(1), budget=budget, lr=self.h.c)

        def constrain(loss: Tensor, action: Tensor) -> Tensor:
            return constraint.lagrangian(loss, self.cost(batch["obs"], action), weight, budget=budget)

        policy_loss, _ = policy_step(self, batch, constrain)
        self.multiplier.step(estimate, budget)
        self.target.track(self.critic, self.h.tau)
        losses = {"critic_loss": critic_loss, "policy_loss": policy_loss, "cost_loss": cost_loss}
        seen = {"temperature": heat, "multiplier": lam, "weight": weight}
        return losses | {name: x.squeeze(1) for name, x in seen.items()} | {"cost_estimate": estimate}

    def cost(self, obs: Tensor, action: Tensor) -> Tensor:
        """(R, B): the discounted cost, k deviations above the ensemble's mean, without the critics' own gradient."""
        return safety.upper_confidence(self.cost_critic.frozen.of(obs, action), deviations=self.h.k)

    def source(self, task: Task, normalize_obs: bool = True) -> Replay:
        """Observations are not normalised, as in SAC."""
        self.bind(task)
        return Replay(self, task)

    def report(self, source: Replay) -> dict[str, list]:
        return {"multiplier": self.multiplier().squeeze(1).tolist()} | source.collector.costs.report()
