"""What constrained learners share: a limit with its unit, and the multiplier of E cost <= budget, one per replica.

    projected   lam <- clip(lam + lr (cost - budget), 0, ceiling)                         gradient ascent on the dual
    log         log lam <- Adam on - exp(log lam) (cost - budget)                         never exactly 0 (CAL [272])
    pid         lam <- (K_P (cost - budget) + lr I + K_D (cost - previous)_+)_+           I the integral (Stooke 2020)

The functions are those of `theory.objectives.constraint`. Everything is (R, 1); lam is in units of reward per unit of
cost, and so is a step of it per unit of cost. A limit is in a unit of `theory.budgets`; an algorithm converts it once
into the unit of its own estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.networks import Adam, Schedule, Vector
from fenchel.errors import UserError, unknown
from fenchel.theory.budgets import convert
from fenchel.theory.objectives import constraint

if TYPE_CHECKING:
    from fenchel.algorithms.learner import Learner
    from fenchel.envs.task import Task

Kind = Literal["projected", "log", "pid"]
KINDS = ("projected", "log", "pid")
CLOCKLESS = ("discounted", "normalised")  # units that convert without knowing how long episodes are


@dataclass
class Constrained(Config):
    """Options of a learner with a limit on its cost."""

    limit: float | list[float] | None = field(default=None, metadata={"range": (0, None)})
    """the largest cost, in `unit`; null: the middle one of the task's limits"""
    unit: Literal["episode", "discounted", "normalised", "average"] | None = None
    """of the limit: sum over an episode, discounted sum, (1 - gamma) times that, mean per step; null: the task's own"""


def budget(learner: Any, to: str) -> Tensor:
    """(R, 1): the limit in the unit `to`, as far as it is known without a task; NaN where it is not."""
    config = learner.config
    known = config.limit is not None and config.unit in CLOCKLESS and to in CLOCKLESS
    given = _each(config.limit, learner.R) if known else [math.nan] * learner.R
    return _column(learner, _converted(learner, given, config.unit if known else to, to, None))


def bind(learner: Any, task: Task, to: str) -> tuple[list[float], Tensor]:
    """Each replica's limit in the task's unit, for evaluation, and (R, 1) in the unit `to`, for the learner's loss.

    Episodes count as stopped, not ended: a limit of L per episode of T steps is a rate L / T. Raises UserError where
    the task has no costs, or no limits and none is given, where a limit does not fit its unit, and on a tabular task
    where no policy meets it.
    """
    config, facts, name = learner.config, task.metadata.get("cost"), type(learner).__name__
    if facts is None and "cost" not in task.spec.extras:
        raise UserError(f"{name} needs costs, and env={task.id} has none.")
    unit = config.unit or (facts["unit"] if facts else None)
    if facts is None and (config.limit is None or unit is None):
        raise UserError(f"env={task.id} declares no limit of its costs; {name} needs limit=<number> and its unit=.")
    if config.limit is not None:
        given = _each(config.limit, learner.R)
    else:
        middle = [facts["limits"][len(facts["limits"]) // 2]] * learner.R
        given = _converted(learner, middle, facts["unit"], unit, task.max_steps)
    if unit in ("normalised", "average") and task.dataset is not None and config.limit is not None:
        peak = float(task.dataset().extras["cost"].max())
        if max(given) > peak:
            why = f"a step costs at most {peak:g}, so nothing is bounded; valid is less, or unit=episode or discounted"
            raise UserError(f"limit={max(given):g} does not fit unit={unit}: {why}.")
    _check_feasible(min(given), unit, task)
    own = _converted(learner, given, unit, facts["unit"] if facts else unit, task.max_steps)
    return own, _column(learner, _converted(learner, given, unit, to, task.max_steps))


def require(learner: Any, budget: Tensor) -> None:
    """Raises UserError where a budget is not known: a learner that is fitted to data and was never bound to a task."""
    if bool(budget.isnan().any()):
        name = type(learner).__name__
        raise UserError(f"{name} does not know its limit; bind it to a task, or give limit and unit=discounted.")


def _each(option: float | list[float], replicas: int) -> list[float]:
    return option if isinstance(option, list) else [option] * replicas


def _converted(learner: Any, given: list[float], unit: str, to: str, horizon: int | None) -> list[float]:
    """One per replica, by its own discount."""
    pairs = zip(given, _each(learner.config.gamma, learner.R), strict=True)
    return [convert(limit, unit, to, gamma=gamma, horizon=horizon) for limit, gamma in pairs]


def _column(learner: Any, values: list[float]) -> Tensor:
    return torch.tensor(values, device=learner.device, dtype=learner.dtype).unsqueeze(1)


def _check_feasible(least: float, unit: str, task: Task) -> None:
    """By the linear program of the task's own model, in its own discount."""
    from fenchel.theory.solvers.cmdp import InfeasibleError, solve_cmdp  # scipy, which tasks with a model alone need

    mdp = task.mdp
    if mdp is None or mdp.num_channels is None or mdp.num_channels < 2:
        return
    total = convert(least, unit, "discounted", gamma=float(mdp.discount.max()), horizon=task.max_steps)
    try:
        solve_cmdp(mdp, budgets=[total], unit="discounted")
    except InfeasibleError as error:
        raise UserError(f"limit={least:g} in unit={unit}, {total:.4g} discounted, cannot be met: {error}") from None


class Multiplier:
    """A learner's attribute: `multiplier()` is lam (R, 1), without gradient; `multiplier.step(cost, budget)` moves it.

    It is saved, frozen, scheduled and checked for finiteness as an optimiser is (pid has no schedule).

    lr: the step, or Adam's, or the integral's gain. initial: the first lam, above 0 for kind=log; pid begins at 0.
    ceiling: lam's upper bound. proportional, derivative: pid's K_P and K_D. Raises UserError for what does not fit.
    """

    def __init__(
        self,
        learner: Learner,
        kind: Kind = "projected",
        *,
        lr: float | list[float],
        initial: float = 0.0,
        ceiling: float = math.inf,
        proportional: float | Tensor = 0.0,
        derivative: float | Tensor = 0.0,
    ):
        if kind not in KINDS:
            raise unknown("multiplier", kind, KINDS)
        if kind == "log" and not initial > 0:
            raise UserError(f"multiplier=log begins at {initial:g}, and it moves by its logarithm; valid is above 0.")
        self.kind, self.ceiling = kind, ceiling
        self.gains = {"proportional": proportional, "derivative": derivative}
        self.vector = Vector(learner.rng, (3 if kind == "pid" else 1,), dtype=learner.dtype)
        self.row = self.vector.frozen()  # the same numbers: (lam), (log lam), or (lam, integral, previous cost)
        if kind != "pid":
            self.row.fill_(math.log(initial) if kind == "log" else initial)
        self.adam = Adam(self.vector, lr=lr) if kind == "log" else None
        self.lr = torch.as_tensor(lr, device=learner.device, dtype=learner.dtype).reshape(-1, 1)
        self.count = self.adam.count if self.adam is not None else torch.zeros((), device=learner.device)
        self.going = torch.ones(learner.R, 1, dtype=torch.bool, device=learner.device)
        self.networks, self.schedule = [self.vector], None

    def __call__(self) -> Tensor:
        lam = self.row[:, :1]
        return lam.exp() if self.kind == "log" else lam.clone()

    def step(self, cost: Tensor, budget: float | Tensor) -> None:
        """Up where cost (R,) or (R, 1), the policy's in the budget's units, is over the budget (a number or (R, 1))."""
        cost = cost.detach().reshape(-1, 1)
        if self.adam is not None:
            self.adam.step(constraint.multiplier_loss(self.vector().exp(), cost, budget=budget).squeeze(1))
            self.row.clamp_(max=math.log(self.ceiling))
            return
        if self.kind == "pid":
            self._control(cost, budget)
        else:
            size = self.lr if self.schedule is None else self.lr * self.schedule(self.count)
            self._move(constraint.projected_ascent(self.row, cost, budget=budget, lr=size, ceiling=self.ceiling))
        self.count += 1

    def _control(self, cost: Tensor, budget: float | Tensor) -> None:
        _, integral, previous = self.row.split(1, dim=1)
        gains = {"integral_gain": self.lr, **self.gains}
        lam, integral = constraint.pid_multiplier(integral, previous, cost, budget=budget, **gains)
        self._move(torch.cat([lam.clamp(max=self.ceiling), integral, cost], dim=1))

    def _move(self, row: Tensor) -> None:
        self.row.copy_(torch.where(self.going, row, self.row))

    def freeze(self, replicas: set[int]) -> None:
        """The multipliers of these replicas move no more."""
        self.going.fill_(True)
        self.going[sorted(replicas)] = False
        if self.adam is not None:
            self.adam.freeze(replicas)

    @property
    def groups(self) -> list:
        """What an optimiser's update goes through; nothing but for kind=log."""
        return self.adam.groups if self.adam is not None else []

    @property
    def schedule(self) -> Schedule | None:
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: Schedule | None) -> None:
        self._schedule = schedule
        if self.adam is not None:
            self.adam.schedule = schedule

    def state(self) -> dict[str, Tensor]:
        moments = self.adam.state() if self.adam is not None else {}
        return moments | {"flat": self.vector.flat, "count": self.count}
