"""Run folders -> rows: one per task, learner and options, with intervals over seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fenchel.cli.execute import finite_values, read_curve, scalar, score_name
from fenchel.cli.folder import CONFIG, METRICS, SUMMARY
from fenchel.cli.statistics import interval, iqm, mean
from fenchel.errors import UserError

# what evaluations of token policies have beside pass@1
OF_TOKENS = ("pass_at_k", "k", "entropy", "kl")


@dataclass
class Group:
    """Replicas that differ in their seed only."""

    env: str
    algo: str
    options: dict[str, Any]
    steps: int
    metric: str
    last: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)  # before the first update; NaN where it was not evaluated
    more: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in OF_TOKENS})
    cost: list[float] = field(default_factory=list)  # of the last evaluation, of tasks with a budget
    normalized_cost: list[float] = field(default_factory=list)
    curves: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # steps (T,), scores (T,)
    seeds: set[int] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of CPU
    label: str = ""


def find(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Folders of completed runs, the newest of identical ones, and a remark for each that is left out."""
    folders = [file.parent for path in paths for file in sorted(path.rglob(CONFIG))]
    if not folders:
        raise UserError("no run folders there; name a folder that holds runs, such as runs/.")
    remarks, newest = [], {}
    for folder in sorted(folders, key=lambda f: (f / CONFIG).stat().st_mtime):
        status = _status(folder)
        if status == "completed":
            config = yaml.safe_load((folder / CONFIG).read_text())
            newest[config["hash"], config["train"]["steps"]] = folder
        else:
            remarks.append(f"{folder} is left out: {status}")
    return list(newest.values()), remarks


def _status(folder: Path) -> str:
    try:
        return str(json.loads((folder / SUMMARY).read_text())["status"])
    except FileNotFoundError:
        return "no summary.json yet"
    except (json.JSONDecodeError, KeyError, TypeError):
        return "summary.json is damaged"


def collect(folders: Iterable[Path]) -> list[Group]:
    groups: dict[str, Group] = {}
    for folder in folders:
        config = yaml.safe_load((folder / CONFIG).read_text())
        summary = json.loads((folder / SUMMARY).read_text())
        metric = score_name(summary["final"])
        steps, scores = read_curve(folder / METRICS, metric, len(summary["final"]))
        for i, row in enumerate(summary["final"]):
            options = {k: v[i] if _per_replica(v, summary) else v for k, v in config["config"].items()}
            identity = [config["env"], config["task"], config["algo"], options, config["train"]["steps"]]
            identity.append(config["normalize_obs"])
            group = groups.setdefault(
                json.dumps(identity), Group(config["env"], config["algo"], options, config["train"]["steps"], metric)
            )
            if row["seed"] in group.seeds:
                continue
            group.seeds.add(row["seed"])
            group.last.append(scalar(row.get(metric)))
            group.best.append(scalar(row.get(f"best_{metric}")))
            group.first.append(float(scores[0, i]) if len(steps) and steps[0] == 0 else float("nan"))
            for name, values in group.more.items():
                values.append(scalar(row.get(name)))
            if "normalized_cost" in row:
                group.cost.append(scalar(row["cost"]))
                group.normalized_cost.append(scalar(row["normalized_cost"]))
            group.curves.append((steps, scores[:, i]))
            group.seconds += (summary["cpu_seconds"] or 0) / len(summary["final"])
            if config["line"] not in group.lines:
                group.lines.append(config["line"])
    _label(list(groups.values()))
    return sorted(groups.values(), key=lambda g: (g.env, g.algo, g.label))


def _per_replica(value: Any, summary: dict[str, Any]) -> bool:
    return isinstance(value, list) and all(isinstance(v, float) for v in value) and len(value) == len(summary["final"])


def _label(groups: list[Group]) -> None:
    """Name what differs among the groups of one learner on one task (between tasks, presets differ anyway)."""
    alike = defaultdict(list)
    for group in groups:
        alike[group.env, group.algo].append(group)
    for same in alike.values():
        keys = [k for k in same[0].options if len({json.dumps(g.options.get(k)) for g in same}) > 1]
        for group in same:
            words = [f"{k}={json.dumps(group.options.get(k))}" for k in keys]
            group.label = " ".join(words + ([f"steps={group.steps}"] if len({g.steps for g in same}) > 1 else []))


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row per group, then one per learner over all its tasks when it has several. NaN replicas are counted."""
    found = [_row(g.env, g.algo, g.label, g.steps, g.metric, [g]) for g in groups]
    tasks: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        if group.metric == "normalized_score":
            tasks[group.algo, group.label].append(group)
    for (algo, label), several in tasks.items():
        if len({g.env for g in several}) == len(several) > 1:
            found.append(_row("all tasks", algo, label, several[0].steps, "normalized_score", several))
    return found


def _row(env: str, algo: str, label: str, steps: int, metric: str, groups: list[Group]) -> dict[str, Any]:
    last = [finite_values(g.last) for g in groups]
    best = [finite_values(g.best) for g in groups]
    usable = all(len(x) for x in last)
    nan = (float("nan"), float("nan"))
    every = np.concatenate(last)
    return {
        "env": env,
        "algo": algo,
        "options": label,
        "steps": steps,
        "metric": metric,
        "seeds": sum(len(g.last) for g in groups),
        "diverged": sum(len(g.last) for g in groups) - len(every),
        "mean": float(every.mean()) if usable else float("nan"),
        "mean_interval": interval(last) if usable else nan,
        "iqm": float(iqm(every)) if usable else float("nan"),
        "iqm_interval": interval(last, iqm) if usable else nan,
        "standard_error": float(every.std(ddof=1) / len(every) ** 0.5) if len(every) > 1 else float("nan"),
        "best": float(mean(np.concatenate(best))) if all(len(x) for x in best) else float("nan"),
        "seconds": sum(g.seconds for g in groups),
        **_costs(groups),
        **(_of_tokens(groups[0]) if metric == "pass_at_1" else {}),
    }


def _costs(groups: list[Group]) -> dict[str, Any]:
    """Means over replicas of the cost and of DSRL's normalised cost, with its interval; at most 1 is safe."""
    scores = [finite_values(g.normalized_cost) for g in groups]
    if not all(len(x) for x in scores):
        return {}
    found = {"normalized_cost": float(np.concatenate(scores).mean()), "normalized_cost_interval": interval(scores)}
    return found | ({"cost": float(finite_values(groups[0].cost).mean())} if len(groups) == 1 else {})


def _of_tokens(group: Group) -> dict[str, Any]:
    """What was gained since the first policy, replica by replica, with an interval, and means of what else is known."""
    gain = finite_values(np.array(group.last) - np.array(group.first))
    nan = float("nan")
    means = {name: finite_values(values) for name, values in {"first": group.first, **group.more}.items()}
    return {name: float(x.mean()) if len(x) else nan for name, x in means.items()} | {
        "gain": float(gain.mean()) if len(gain) else nan,
        "gain_interval": interval([gain]) if len(gain) else (nan, nan),
    }
