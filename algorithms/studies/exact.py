"""Neural reaches exact: learners on tasks whose answer can be computed, against the fixed point of their own equations.

Tables: every value, dual and DICE learner on data sets of enumerable problems, its networks linear in one-hot states
(a table) or small MLPs, against `algorithms.referees`. Control: the learners of a Box on a linear-quadratic regulator,
against `theory.referees.quadratic`. `gamma=0` makes it a one-step problem.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fenchel import envs
from fenchel.algorithms import get_algorithm
from fenchel.algorithms.referees import Learned, examine, returns
from fenchel.algorithms.studies import Row, Study
from fenchel.algorithms.studies.exact_control import CONTROL, control_row
from fenchel.theory.mdp import TabularMDP

SEEDS = list(range(10))
# task -> T, about what actions differ by, in whose units temperatures are, and the steps of each case
TASKS = {"fourrooms-mixed": (0.05, 8000), "garnet-mixed": (1.0, 6000), "stitchmaze-mixed": (0.1, 8000)}
COMMON = {"layer_norm": False, "batch_size": 64, "lr_schedule": "cosine"}
TABLE, NETWORK = COMMON | {"hidden": (), "lr": "T/10"}, COMMON | {"hidden": (64, 64), "lr": 1e-3}


@dataclass(frozen=True)
class Case:
    """One learner. options: "T", "1/T" and the like stand for the task's unit. policy: how it is extracted."""

    name: str
    algo: str
    options: dict[str, Any]
    policy: str
    network: bool = False


AWR = {"inverse_temperature": "1/T"}
UNITS = {"lr": 0.1}  # ODICE's V is in units of its temperature; step sizes go with the units of V
CASES = (
    Case("IQL", "iql", {"expectile": 0.7, "temperature": "1/T"}, "AWR"),
    Case("IQL", "iql", {"expectile": 0.7, "extraction": "w"}, "w*"),
    Case("IVL", "ivl", {"expectile": 0.7, "temperature": "1/T"}, "AWR"),
    Case("IVL", "ivl", {"expectile": 0.7, "extraction": "w"}, "w*"),
    Case("f-DVL chi2", "f_dvl", {"divergence": "chi2", "lam": 0.7, "temperature": "T", **AWR}, "AWR"),
    Case("SQL", "f_dvl", {"divergence": "chi2", "temperature": "T/2", "extraction": "w"}, "w*"),
    Case("f-DVL tv", "f_dvl", {"divergence": "tv", "lam": 0.9, **AWR}, "AWR"),
    Case("f-DVL tv", "f_dvl", {"divergence": "tv", "lam": 0.9, "extraction": "w"}, "w*"),
    Case("XQL", "f_dvl", {"divergence": "kl", "temperature": "T", **AWR}, "AWR"),
    Case("EQL", "f_dvl", {"divergence": "kl", "temperature": "T", "extraction": "w"}, "w*"),
    Case("ODICE orthogonal", "odice", {"lam": 0.5, "temperature": "T/2", **UNITS}, "w*"),
    Case("ODICE semi", "odice", {"lam": 0.5, "temperature": "T/2", "gradient": "semi", **UNITS}, "w*"),
    Case("ODICE true", "odice", {"lam": 0.95, "temperature": "T/2", "gradient": "true", **UNITS}, "w*"),
    Case("OptiDICE", "optidice", {"temperature": "T/2", "extraction": "weighted_bc"}, "w*"),
    Case("OptiDICE", "optidice", {"temperature": "T/2", "extraction": "information_projection"}, "w*"),
    Case("AWAC", "awac", {"inverse_temperature": "1/T"}, "AWR"),
    Case("CQL", "cql", {"alpha": "T/10"}, "max Q"),
    Case("IQL", "iql", {"expectile": 0.7, "temperature": "1/T"}, "AWR", network=True),
    Case("ODICE semi", "odice", {"lam": 0.5, "temperature": "T/2", "gradient": "semi"}, "w*", network=True),
    Case("CQL", "cql", {"alpha": "T/10"}, "max Q", network=True),
)


def table_row(case: Case, id: str, seeds: list[int] = SEEDS, steps: int | None = None) -> Row:
    """Train R replicas of one case on one task and compare them with the exact answer of its options."""
    task, cls, (unit, usual) = envs.make(id), get_algorithm(case.algo), TASKS[id]
    sizes = {"T": unit, "T/2": unit / 2, "T/10": unit / 10, "1/T": 1 / unit}
    fast = {"tau": 0.05} if hasattr(cls.Config, "tau") else {}
    options = (NETWORK if case.network else TABLE) | fast | {"gamma": task.metadata["discount"]} | case.options
    options = {name: sizes.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    own = {name: options[name] for name in case.options}
    learner, data, steps = cls(task.spec, options, seeds), task.dataset(), steps or usual
    started = time.process_time()
    learner.fit(data, steps, normalize_obs=False)
    seconds = time.process_time() - started
    words = " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in own.items()
    )
    return {
        "task": id, "learner": case.name, "options": words, "network": "64x64" if case.network else "table",
        "steps": steps, **compare(examine(learner, data), task.mdp, case.policy, task.metadata["exact"]),
        "CPU s": seconds,
    }  # fmt: skip


def compare(found: Learned, mdp: TabularMDP, policy: str, span: dict[str, float]) -> Row:
    """Errors of V, w and the policy's return per replica, in the units that the study's intro states."""
    exact, data = found.exact[0], found.data
    states, mass = data.visited & np.isfinite(exact.V), data.mass.sum(1)
    off = 100 * np.abs(found.V - exact.V)[:, states] / np.ptp(exact.V[states])
    row: Row = {"V mean %": (off @ mass[states] / mass[states].sum()).tolist(), "V max %": off.max(1).tolist()}
    row |= {"w mean %": None, "w max %": None}
    pairs = (data.mass > 0) & np.isfinite(exact.weight)
    if found.weight is not None and pairs.any():
        share = data.mass[pairs] / data.mass[pairs].sum()
        off = 100 * np.abs(found.weight - exact.weight)[:, pairs] / (exact.weight[pairs] @ share)
        row |= {"w mean %": (off @ share).tolist(), "w max %": off.max(1).tolist()}
    best = float(returns(mdp, exact.policy))
    gap = 100 * (best - returns(mdp, found.policy)) / (span["best"] - span["worst"])
    return row | {"J": best} | gaps(policy, gap)


def gaps(policy: str, gap: np.ndarray) -> Row:
    """gap (R,) in the column of how the policy is extracted, and the largest, without sign."""
    columns = {name: gap.tolist() if name == policy else None for name in ("w*", "AWR", "max Q")}
    return {f"gap {name} %": value for name, value in columns.items()} | {"largest gap %": float(np.abs(gap).max())}


def rows() -> Iterator[Row]:
    for id in TASKS:
        for case in CASES:
            yield table_row(case, id)
    for control in CONTROL:
        yield control_row(control, SEEDS)


STUDY = Study(
    title="Neural reaches exact",
    intro="""\
Each row trains ten replicas of one learner and compares them with the fixed point of that learner's own population
equations on its data, computed in NumPy from the options alone (`theory/referees`): no loss, divergence or network of
the learner takes part. `table` is a linear network of one-hot states, `64x64` an MLP of them; the latter need not have
the table's fixed point, and its rows say how far it is from it.

- **V**: |V - V*| on the states of the data, mean by their shares and largest, as % of the range of V*. Of CQL it is
  max_a Q, of AWAC the policy's mean of Q, in `lqr` tasks Q on rows of the data.
- **w**: |w - w*| on the pairs of the data, likewise, as % of the mean weight. Blank where the policy has no weights;
  what the optimum leaves open (tv, whose weights jump at V; OptiDICE where its optimum does not go) is not compared.
  In `lqr` tasks it is the actor instead: |a - K s|, as % of the actions' range.
- **J** is the exact policy's discounted return on the true MDP; **gap** is J less the learned policy's, as % of the
  range over deterministic policies (in `lqr` tasks: of the optimum's lead over uniform actions). It has two sides:
  negative is better than the exact policy. Columns: the policy by the dual's own weights, by AWR, by maximising Q.

The population is the empirical law of the rows: batches are drawn from them with replacement, a time-out keeps the
discount and a terminal has none. IQL, f-DVL and AWAC take the smaller of two target critics, which agree at the fixed
point. ODICE, OptiDICE and IVL have one next state per row inside a non-linear loss, so that their equations, and
their referees, are over (s, a, s'). ODICE's projection is a ratio of products of batch gradients: where it ends depends
on the parametrisation (linear, with a bias) and on the size of the batch, and the referee has both.

Intervals: 95% bootstrap over replicas. `largest gap` is over replicas, without sign.""",
    rows=rows,
)
