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
from fenchel.theory.mdp import replace_reward
from fenchel.theory.solvers import solve

SEEDS = list(range(10))
# task -> about what actions differ by in return, in whose units temperatures are
TASKS = {"hazard-rooms-mixed": 0.05, "cmdp-garnet-mixed": 1.0, "conveyors-mixed": 0.05}
TABLE = {"hidden": (), "layer_norm": False, "batch_size": 128, "lr_schedule": "cosine"}
SLACK = 1.05  # a cost of up to 5% over the limit counts as met


@dataclass(frozen=True)
class Case:
    """options: text stands for so many of the task's units, as "0.2 T" or "1/T". sweeps: one run for all limits."""

    algo: str
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = tuple(TASKS)
    sweeps: bool = True


CASES = (
    Case("bc_safe", 3000, {"lr": 0.03}, sweeps=False),
    Case("f_dvl_lag", 12000, {"temperature": "0.2 T", "lr": "0.1 T", "tau": 0.05, "multiplier_lr": 0.003}),
    Case("coptidice", 12000, {"temperature": "0.1 T", "lr": "0.1 T", "radius": None, "multiplier_lr": 0.01}),
    Case("cpq", 12000, {"lr": 0.01, "tau": 0.05}),
    Case("fisor", 8000, {"lr": 0.01, "tau": 0.05, "ema": 0.01, "temperature": "1/T"},
         ("hazard-rooms-mixed", "conveyors-mixed")),
)  # fmt: skip


def plain(options: dict[str, Any], unit: float) -> dict[str, Any]:
    """"0.2 T" and "1/T" as numbers."""

    def number(value: Any) -> Any:
        if not isinstance(value, str) or not value.endswith("T"):
            return value
        return 1 / unit if value == "1/T" else float(value.removesuffix("T")) * unit

    return {name: number(value) for name, value in options.items()}


def case_rows(case: Case, id: str, seeds: list[int] = SEEDS, steps: int | None = None) -> Iterator[Row]:
    """Train one case on one task and yield a row per limit; a learner without the option has the tight one's row."""
    task, cls, steps = envs.make(id), get_algorithm(case.algo), steps or case.steps
    options = TABLE | {"gamma": task.metadata["discount"]} | plain(case.options, TASKS[id])
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
            yield {"task": id, "learner": case.algo, "options": shown(case.options), "steps": steps} | row(
                limit, found[mine], price[mine]
            ) | {"CPU s": seconds}


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
    learned = None if price[0] is None else price
    return values | {"multiplier": learned, "LP multiplier": exact if exact > 1e-9 else 0.0}


def plug_in(id: str) -> Iterator[Row]:
    """The linear program of the data's transitions and true costs, its policy in the true MDP."""
    task = envs.make(id)
    assert task.mdp is not None
    assert task.dataset is not None
    data, mdp = task.dataset(), task.mdp
    model = empirical_mdp(data, task.metadata["discount"], mdp.num_actions).mdp
    model = replace_reward(model, torch.stack([model.r, mdp.r[1]]))
    for limit in task.metadata["cost"]["limits"]:
        found = solve(model, "cmdp", budgets=[limit], unit="discounted")
        judged = optimum.judged(task, Fixed(task, found.policy), [limit])
        yield {"task": id, "learner": "LP of the data", "options": "", "steps": None} | row(
            limit, judged, found.multipliers.tolist()
        )


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

Three constrained MDPs, three limits each: tight and middle bind, loose does not. Ten replicas per limit, networks that
are linear in one-hot states (tables), batches of 128. Return and cost are exact and discounted, of the policy as it is
evaluated, in the true MDP.

- **cost / limit**: at most 1 is within the limit. **met**: how many replicas cost at most 5% more than the limit.
- **return % of LP**: the return as % of the linear program's optimum at that limit; above 100 only by breaking it.
- **LP**: that optimum. **multiplier** and **LP multiplier**: the learned price of a cost and the program's; blank for
  learners without one. In COptiDICE's and f-DVL's own units, return per discounted cost.
- **LP of the data**: the program of the empirical transitions, its policy in the true MDP: no learner can be expected
  to be nearer to the optimum than that.

FISOR has no limit (none is ever to be paid); it is judged at the tight one, and not on the Garnet, where every pair of
state and action costs something. bc_safe chooses the episodes to clone by their cost, in a run per limit.

Intervals: 95% bootstrap over replicas.""",
    rows=rows,
)
