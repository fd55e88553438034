"""Run a plan: prepare (nothing written), train inside the run folder, leave the summary, the plot and a table."""

from __future__ import annotations

import inspect
import json
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fenchel.cli import source, typed
from fenchel.cli.exact import annotate, annotate_budget
from fenchel.cli.folder import CURVE, METRICS, RunFolder, write_summary
from fenchel.cli.plan import Plan
from fenchel.cli.progress import SCORES, Bar, check_sink, sinks
from fenchel.cli.statistics import interval
from fenchel.errors import UserError


@dataclass(frozen=True)
class Prepared:
    task: Any
    learner: Any
    data_hash: str | None


def prepare(plan: Plan) -> Prepared:
    """Build the task, the learner and the data. Raises UserError for whatever does not fit together."""
    from fenchel.algorithms.evaluation import check_episodes
    from fenchel.algorithms.learner import refuse
    from fenchel.cli.compose import learner_class

    check_sink(plan.log)
    task = make_task(plan.env, plan.task)
    tokens = source.tokens(plan.env)
    if task.make_vec is None and not tokens and (plan.train.eval_episodes or plan.train.final_episodes):
        raise UserError(f"env={plan.env} has no environment to evaluate in; add eval_episodes=0 final_episodes=0.")
    cls = learner_class(plan.algo, plan.env)
    with one_sentence(f"algo={plan.algo} cannot be built"):
        task = cls.reads(task, plan.config) if tokens else task
        learner = cls(task.spec, plan.config, seeds=plan.seeds, device=plan.device)
        learner.bind(task)
    if tokens:
        return Prepared(task, learner, learner.data_hash)
    refuse(learner, task)
    if learner.ONLINE:
        if task.make_vec is None:
            raise UserError(f"env={plan.env} is data without an environment, but algo={plan.algo} learns by acting.")
        return Prepared(task, learner, None)
    if task.dataset is None:
        raise UserError(f"env={plan.env} has no data set, but algo={plan.algo} learns from one; see --list envs.")
    with one_sentence(f"env={plan.env}: its data set cannot be had"):
        data = task.dataset()
    for name in learner.NEEDS:
        if name not in data.extras and name != "objectives":
            has = f"it has {', '.join(sorted(data.extras))}" if data.extras else "it has no extra columns"
            raise UserError(f"algo={plan.algo} needs the data column {name}, but {has}.")
    learner.check(data)
    for episodes in {plan.train.eval_episodes, plan.train.final_episodes} - {0}:
        check_episodes(task, learner, episodes)
    return Prepared(replace(task, dataset=lambda: data), learner, data.hash)


def make_task(env: str, options: dict[str, Any]) -> Any:
    """`envs.make` or `llm.tasks.make`, every option having the type that is declared, or that of its default."""
    tasks = import_module("fenchel.llm.tasks" if source.tokens(env) else "fenchel.envs")
    with one_sentence(f"env={env} cannot be made"):
        defaults = tasks.options(env)
        hints = {k: Any if v in (None, inspect.Parameter.empty) else type(v) for k, v in defaults.items()}
        hints |= tasks.hints(env) if source.tokens(env) else {}
        return tasks.make(env, **{k: typed.check(f"task.{k}", v, hints.get(k, Any)) for k, v in options.items()})


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """What foreign or user code raises, and sizes that no memory holds, become a UserError that says what failed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{what}: {type(error).__name__}: {text}.") from error


def execute(plan: Plan, prepared: Prepared, quiet: bool = False) -> dict[str, Any]:
    """{"code", "message", "folder"}: 0 done, 2 the folder was refused, 3 failed, 130 stopped."""
    try:
        with RunFolder(plan, prepared.data_hash) as folder:
            return _train(plan, prepared, folder, quiet)
    except UserError as error:
        return {"code": 2, "message": str(error), "folder": None}


def _train(plan: Plan, prepared: Prepared, folder: RunFolder, quiet: bool) -> dict[str, Any]:
    from fenchel.algorithms.training import train

    console = Console(quiet=quiet, highlight=False)
    started, path, step = time.time(), folder.path, 0
    with ExitStack() as stack:
        listeners = [Bar(console, plan.train.steps, f"{plan.algo} on {plan.env}")]
        listeners += sinks(plan.log, path, folder.config)
        for listener in listeners:
            stack.callback(listener.close)

        def tell(kind: str, record: dict[str, Any]) -> None:
            nonlocal step
            step = record.get("step", step)
            for listener in listeners:
                listener(kind, record)

        try:
            result = train(
                prepared.task, prepared.learner, plan.train, folder=path, resume=folder.resumed, listener=tell
            )
            failure = "every replica diverged" if result["status"] == "diverged" else None
        except KeyboardInterrupt:
            result, failure = {"status": "interrupted"}, None
        except Exception as error:  # whatever went wrong while running: said in one sentence, kept in full in error.txt
            (path / "error.txt").write_text(traceback.format_exc())
            text = " ".join(str(error).split()).rstrip(".")
            result, failure = {"status": "failed"}, f"{type(error).__name__}: {text}"
    result = {"steps": step, "wall_seconds": time.time() - started} | result
    if failure:
        result["status"] = "failed"
        write_summary(path, plan, prepared.data_hash, result, error=failure)
        message = (
            f"Failed at step {result['steps']}: {failure}; the last finite checkpoint is kept in {path}/checkpoints."
        )
        return {"code": 3, "message": message, "folder": str(path)}
    if result["status"] == "interrupted":
        write_summary(path, plan, prepared.data_hash, result)
        message = f"Stopped at step {result['steps']}; repeat the line with resume=true to go on in {path}."
        return {"code": 130, "message": message, "folder": str(path)}
    data = prepared.task.dataset() if prepared.task.dataset and not prepared.learner.ONLINE else None
    exact = annotate(prepared.task.mdp, prepared.learner, result["final"], data)
    annotate_budget(prepared.task, prepared.learner, result["final"])
    summary = write_summary(path, plan, prepared.data_hash, result, **exact)
    show(console, plan, summary, path)
    return {"code": 0, "message": "", "folder": str(path)}


def show(console: Console, plan: Plan, summary: dict[str, Any], path: Path) -> None:
    """The summary table and where the files are."""
    final, swept = summary["final"], list(plan.swept[0])
    evaluator = any("estimate" in row for row in final)
    name = "estimate" if evaluator else score_name(final)
    title = f"{plan.algo} on {plan.env}, {plan.train.steps} steps"
    table = Table(title=title, title_justify="left")
    columns, cells = estimate_cells(final) if evaluator else score_cells(final, name)
    for column in (*swept, "seeds", *columns):
        table.add_column(column, justify="right")
    for values, rows in groups(final, swept).items():
        table.add_row(*map(str, values), str(len(rows)), *cells(rows))
    console.print(table)
    seconds, rate = summary["wall_seconds"], summary["updates_per_second"]
    acted = f"; {summary['env_steps']:,} environment steps of each" if "env_steps" in summary else ""
    console.print(f"{seconds:.0f} s, {rate or 0:.0f} updates/s of {len(plan.seeds)} replicas on {plan.device}{acted}")
    console.print(f"summary: {path / 'summary.json'}", soft_wrap=True)
    figure = plot_run(path, plan, name)
    if figure:
        console.print(f"plot: {figure}", soft_wrap=True)


Rows = list[dict[str, Any]]


def score_cells(final: Rows, name: str) -> tuple[list[str], Callable[[Rows], list[str]]]:
    """Columns, and their cells for rows that differ only in their seed."""
    label, form = SCORES[name]
    k = next((row["k"] for row in final if row.get("pass_at_k") is not None), None)
    more = {f"pass@{k}": ("pass_at_k", ".3f"), "entropy": ("entropy", ".3g"), "KL": ("kl", ".3g")} if k else {}
    if any(row.get("normalized_cost") is not None for row in final):
        more |= {"cost": ("cost", ".3g"), "limit": ("limit", ".3g"), "cost / limit": ("normalized_cost", ".2f")}
    exact = any("gap" in row for row in final)

    def cells(rows: Rows) -> list[str]:
        last, best = (finite_values(row.get(k) for row in rows) for k in (name, f"best_{name}"))
        low, high = interval([last]) if len(last) else (np.nan, np.nan)
        found = [format(np.mean(x), form) if len(x) else "-" for x in (last, best)]
        found.insert(1, f"{low:{form}} to {high:{form}}" if np.isfinite(low) else "-")
        for key, wanted in more.values():
            values = finite_values(row.get(key) for row in rows)
            found.append(format(np.mean(values), wanted) if len(values) else "-")
        return found + ([f"{np.mean([sum(row['gap']) / 2 for row in rows if 'gap' in row]):.3g}"] if exact else [])

    return [f"last {label}", "95% interval", f"best {label}", *more, *(["gap"] if exact else [])], cells


def estimate_cells(final: Rows) -> tuple[list[str], Callable[[Rows], list[str]]]:
    """Of an evaluator: means over seeds of the normalised estimate, of its interval's ends, and of what is exact."""
    exact = any(row.get("exact") is not None for row in final)

    def mean(values: Iterable[Any]) -> str:
        found = finite_values(values)
        return f"{np.mean(found):.4g}" if len(found) else "-"

    def cells(rows: Rows) -> list[str]:
        low, high = (mean((row.get("interval") or [None, None])[end] for row in rows) for end in (0, 1))
        found = [mean(row.get("estimate") for row in rows), f"{low} to {high}"]
        if exact:
            found += [mean(row.get("exact") for row in rows), mean(abs(scalar(row.get("error"))) for row in rows)]
        return [*found, mean(row.get("value") for row in rows)]

    more = ["exact", "|error|"] if exact else []
    return ["(1 - gamma) V", "95% interval", *more, "V"], cells


def scalar(value: Any) -> float:
    """NaN for null and for a vector of objectives, which has no place on a line."""
    return float(value) if isinstance(value, int | float) else float("nan")


def finite_values(values: Iterable[Any]) -> np.ndarray:
    array = np.array([scalar(value) for value in values])
    return array[np.isfinite(array)]


def score_name(final: list[dict[str, Any]]) -> str:
    """pass@1 of token policies, the normalised score where the task has references, else the return."""
    return next((name for name in SCORES if any(row.get(name) is not None for row in final)), "return_mean")


def groups(final: list[dict[str, Any]], swept: list[str]) -> dict[tuple, list[dict[str, Any]]]:
    """Rows that differ only in their seed."""
    found = defaultdict(list)
    for row in final:
        found[tuple(row[name] for name in swept)].append(row)
    return found


def read_curve(metrics: Path, name: str, replicas: int) -> tuple[np.ndarray, np.ndarray]:
    """steps (T,) and scores (T, R) of the evaluations in metrics.jsonl."""
    rows = [row for row in map(json.loads, metrics.read_text().splitlines()) if row.get("kind") == "eval"]
    scores = [[scalar(value) for value in row.get(name, [None] * replicas)] for row in rows]
    return np.array([row["step"] for row in rows]), np.array(scores, float).reshape(len(rows), replicas)


def plot_run(path: Path, plan: Plan, name: str) -> Path | None:
    """learning_curve.png; None when nothing was evaluated."""
    from fenchel.cli.plot import learning_curves

    steps, scores = read_curve(path / METRICS, name, len(plan.seeds))
    if not np.isfinite(scores).any():
        return None
    curves: dict[str, Any] = {}
    for values in dict.fromkeys(tuple(row.items()) for row in plan.swept):
        here = [i for i, row in enumerate(plan.swept) if tuple(row.items()) == values]
        curves[", ".join(f"{k} {v:g}" for k, v in values)] = (steps, scores[:, here])
    return learning_curves(path / CURVE, curves, f"{plan.algo} on {plan.env}", name)
