"""Constrained learners on tabular tasks, three limits each, against the linear program of the true MDP at that limit.

Networks are linear in one-hot states (a table). The replicas of one run are seeds times limits, except where a limit
chooses the data. Beside them stands the program of the data's own transitions: what the sample alone loses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fenchel import envs
from fenchel.algorithms import get_algorithm, optimum
from fenchel.algorithms.runner import Runner
from fenchel.algorithms.studies import Row, Study
from fenchel.envs.tabular import empirical_mdp
from fenchel.envs.task import Task
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value

SEEDS = list(range(5))
TASKS = ("hazard-rooms-mixed", "cmdp-garnet-mixed", "conveyors-mixed")
TABLE = {"hidden": (), "layer_norm": False, "batch_size": 256, "lr_schedule": "cosine"}
SLACK = 1.05  # a cost of up to 5% over the limit counts as met


@dataclass(frozen=True)
class Case:
    """options, and those of single tasks over them. sweeps: one run for all limits."""

    algo: str
    steps: int
    options: dict[str, Any]
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: tuple[str, ...] = TASKS
    sweeps: bool = True


ROOMS, GARNET, CONVEYORS = TASKS
LAGRANGIAN = {"initial_multiplier": 0.0}
CASES = (
    Case("bc_safe", 2000, {"lr": 0.03}, sweeps=False),
    Case(
        "f_dvl_lag",
        20000,
        LAGRANGIAN | {"tau": 0.05},
        {
            ROOMS: {"temperature": 0.001, "lr": 0.004, "multiplier_lr": 5e-6},
            GARNET: {"temperature": 0.02, "lr": 0.02, "multiplier_lr": 2e-3},
            CONVEYORS: {"temperature": 0.001, "lr": 0.006, "multiplier_lr": 1e-4},
        },
    ),
    Case(
        "coptidice",
        12000,
        LAGRANGIAN | {"radius": None},
        {
            ROOMS: {"temperature": 0.01, "lr": 0.003, "multiplier_lr": 1e-4},
            GARNET: {"temperature": 0.2, "lr": 0.02, "multiplier_lr": 3e-3},
            CONVEYORS: {"temperature": 0.005, "lr": 0.003, "multiplier_lr": 5e-4},
        },
    ),
    Case("cpq", 8000, {"lr": 0.01, "tau": 0.05}),
    Case("fisor", 6000, {"lr": 0.003, "tau": 0.05, "ema": 0.01, "temperature": 20.0}, tasks=(ROOMS, CONVEYORS)),
)


def case_rows(case: Case, id: str, seeds: list[int] = SEEDS, steps: int | None = None) -> Iterator[Row]:
    """Train one case on one task and yield a row per limit; a learner without the option has the tight one's row."""
    task, cls, steps = envs.make(id), get_algorithm(case.algo), steps or case.steps
    own = case.options | case.own.get(id, {})
    options = TABLE | {"gamma": task.metadata["discount"]} | own
    limits = list(task.metadata["cost"]["limits"])
    limited = hasattr(cls.Config, "limit")
    groups = [limits] if limited and case.sweeps else [[limit] for limit in (limits if limited else limits[:1])]
    for group in groups:
        each = [limit for limit in group for _ in seeds]
        given = {} if not limited else {"limit": each if case.sweeps else group[0]}
        learner = cls(task.spec, options | given, seeds * len(group))
        learner.schedule(steps)
        started = time.process_time()
        Runner(learner, learner.source(task, normalize_obs=False)).advance(steps)
        seconds = (time.process_time() - started) / len(group)
        found = optimum.judged(task, learner, each)
        price = learner.multiplier()[:, 0].tolist() if hasattr(learner, "multiplier") else [None] * len(each)
        for i, limit in enumerate(group):
            mine = slice(i * len(seeds), (i + 1) * len(seeds))
            line = {"task": id, "learner": case.algo, "options": shown(own), "steps": steps}
            line |= row(limit, found[mine], price[mine])
            line["at T"] = own_price(task, limit, own["temperature"]) if case.algo == "f_dvl_lag" else None
            yield line | {"CPU s": seconds}


def shown(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items() if name not in ("lr", "tau", "ema"))


def row(limit: float, found: list[dict[str, float]], price: list[float | None]) -> Row:
    """cost / limit and return / optimum of each replica, how many meet the limit, multipliers where there are any."""

    def column(name: str) -> np.ndarray:
        return np.array([one.get(name, np.nan) for one in found])

    cost, share = column("exact_cost") / limit, 100 * column("share_of_best")
    exact = float(np.nanmean(column("exact_multiplier")))
    values: Row = {"limit": limit, "cost / limit": cost.tolist(), "met": f"{int((cost <= SLACK).sum())}/{len(cost)}"}
    values |= {"return % of LP": share.tolist(), "LP": float(np.nanmean(column("exact_best")))}
    learned = None if price[0] is None else np.array(price, float)
    values |= {"LP multiplier": exact if exact > 1e-9 else 0.0}
    values["multiplier"] = None if learned is None else float(np.nanmean(learned))
    return values | {"% of LP's": None if learned is None or exact < 1e-9 else (100 * learned / exact).tolist()}


def plug_in(id: str) -> Iterator[Row]:
    """The linear program of the data's transitions and true costs, its policy in the true MDP."""
    task = envs.make(id)
    model, _ = sample(task)
    for limit in task.metadata["cost"]["limits"]:
        found = solve(model, "cmdp", budgets=[limit], unit="discounted")
        judged = optimum.judged(task, Fixed(task, found.policy), [limit])
        one = row(limit, judged, found.multipliers.tolist())
        one = {name: value[0] if isinstance(value, list) else value for name, value in one.items()}
        yield {"task": id, "learner": "LP of the data", "options": "", "steps": None} | one


def sample(task: Task) -> tuple[TabularMDP, torch.Tensor]:
    """(the data's transitions with the true costs, r (2, S, A); its policy (S, A), uniform where it never was)."""
    assert task.mdp is not None
    assert task.dataset is not None
    found = empirical_mdp(task.dataset(), task.metadata["discount"], task.mdp.num_actions)
    return replace_reward(found.mdp, torch.stack([found.mdp.r, task.mdp.r[1]])), found.behaviour


def own_price(task: Task, limit: float, temperature: float) -> float:
    """The multiplier of max over pi of E sum gamma^t (r - T KL(pi || data's policy)) within the limit, on the data's
    transitions: where f_dvl_lag with kl and w ends. By bisection, as the cost falls in the multiplier."""
    model, behaviour = sample(task)

    def cost(price: float) -> float:
        priced = replace_reward(model, model.r[0] - price * model.r[1])
        policy = solve(priced, "soft", alpha=temperature, reference=behaviour).policy
        return float(model.mu0 @ policy_value(model.channel(1), policy))

    low, high = 0.0, 1.0
    if cost(low) <= limit:
        return 0.0
    while cost(high) > limit:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > limit else (low, middle)
    return high


class Fixed:
    """A known policy in the place of a learner."""

    R, DETERMINISTIC, device = 1, False, torch.device("cpu")

    def __init__(self, task: Task, law: torch.Tensor):
        self.policy, self.law = self, law

    def normalise(self, obs: torch.Tensor) -> torch.Tensor:
        return obs

    def log_probs(self, obs: torch.Tensor) -> torch.Tensor:
        return self.law[None].log()


def rows() -> Iterator[Row]:
    for id in TASKS:
        yield from plug_in(id)
        for case in CASES:
            if id in case.tasks:
                yield from case_rows(case, id)


STUDY = Study(
    title="Constrained learners: results",
    intro="""\
## Part 1: tabular CMDPs, against the linear program

Three constrained MDPs, three limits each: tight and middle bind, loose does not. Five replicas per limit, networks that
are linear in one-hot states (tables), batches of 256. Return and cost are exact and discounted, of the policy as it is
evaluated, in the true MDP.

- **cost / limit**: at most 1 is within the limit. **met**: how many replicas cost at most 5% more than the limit.
- **return % of LP**: the return as % of the linear program's optimum at that limit; above 100 only by breaking it.
- **LP**: that optimum. **LP multiplier** and **multiplier**: the program's price of a cost, in return per unit of cost,
  and the mean of the learned ones, also in % of the program's; blank for learners without one.
- **at T**: the multiplier of the program that f_dvl_lag solves, on the data's transitions, with its temperature's KL
  from the data's policy, exactly: temperature separates it from the program's, learning from the learned one.
- **LP of the data**: the program of the empirical transitions, its policy in the true MDP: no learner can be expected
  to be nearer to the optimum than that.

FISOR has no limit (none is ever to be paid); it is judged at the tight one, and not on the Garnet, where every pair of
state and action costs something. bc_safe chooses the episodes to clone by their cost, in a run per limit.

Intervals: 95% bootstrap over replicas.""",
    rows=rows,
)
