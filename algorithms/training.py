"""The training loop of every learner: update, log, evaluate, checkpoint, resume.

    train(task, learner, TrainConfig(steps=20_000), folder=Path("runs/x"))

What a step computes is a function of the step and the learner's tensors, so a checkpoint holds tensors and counters
only, and a run that was stopped at any moment goes on to the same bits (on CPU; on a GPU with `deterministic`).
`metrics.jsonl` holds nothing that depends on the clock, so it too is the same byte for byte.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms import checkpoint, evaluation
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.runner import Runner
from fenchel.envs.task import Task
from fenchel.errors import UserError

Listener = Callable[[str, dict[str, Any]], None]
LAST = "last.safetensors"


@dataclass
class TrainConfig:
    steps: int = field(default=100_000, metadata={"range": (0, None)})
    """updates of every replica"""
    eval_every: int | None = field(default=None, metadata={"range": (1, None)})
    """steps between evaluations; null: a tenth of all steps"""
    eval_episodes: int = field(default=10, metadata={"range": (0, None)})
    """episodes per replica and evaluation; 0: none"""
    final_episodes: int = field(default=100, metadata={"range": (0, None)})
    """episodes per replica at the end; 0: none"""
    log_every: int = field(default=1000, metadata={"range": (1, None)})
    """steps between log records; replicas that are not finite are found then"""
    checkpoint_every: int | None = field(default=None, metadata={"range": (1, None)})
    """steps between checkpoints; null: as eval_every"""
    normalize_obs: bool = True
    """shift and scale observations by the data's mean and deviation"""
    threads: int = field(default=1, metadata={"range": (1, None)})
    """CPU threads; two help from two replicas on"""
    deterministic: bool = False
    """only deterministic GPU kernels, so that resuming is exact there too; slower"""
    compile: bool = False
    """torch.compile the update; needs a C++ compiler"""

    def every(self, name: str) -> int:
        """The interval `eval_every` or `checkpoint_every` with its default resolved."""
        default = max(1, self.steps // 10) if name == "eval_every" else self.every("eval_every")
        return getattr(self, name) or default


def train(
    task: Task,
    learner: Learner,
    config: TrainConfig | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    listener: Listener = lambda kind, record: None,
) -> dict[str, Any]:
    """Train `learner` on `task` and say how it did.

    folder: gets `metrics.jsonl` and `checkpoints/last.safetensors`, which `Learner.load` reads. resume: go on from
    there, from the start when there is none. listener(kind, record): kinds "log" {step, losses, updates_per_second},
    "eval" {step, return_mean, ...}, "checkpoint" {step, path}, "warning" {message}; lists have one entry per replica.
    Returns {status, steps, wall_seconds, cpu_seconds, updates_per_second, final: [one dict per replica]}; status is
    "completed", or "diverged" when no replica stayed finite. "log" and what is returned also have env_steps, the
    environment's steps per replica, for a learner that acts. Raises UserError for a task, a folder or a checkpoint that
    does not fit.
    """
    return Loop(task, learner, config or TrainConfig(), folder, listener).run(resume)


class Loop:
    """One run. `best` and `diverged` are per replica: the best evaluation so far, and the step that was not finite."""

    def __init__(self, task: Task, learner: Learner, config: TrainConfig, folder: Path | None, listener: Listener):
        torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(config.deterministic)
        self.task, self.learner, self.config, self.folder, self.listener = task, learner, config, folder, listener
        self.best: list[dict[str, Any]] = [{} for _ in learner.seeds]
        self.diverged: dict[int, int] = {}
        self.checkpoints = 0
        self.envs: dict[int, Any] = {}
        self.metrics_bytes = 0

    def run(self, resume: bool) -> dict[str, Any]:
        learner, config = self.learner, self.config
        learner.schedule(config.steps)
        saved = self._prepare_folder(resume)
        if saved:
            learner.load_state_dict(saved[0]["learner"])
        self.source = learner.source(self.task, config.normalize_obs)
        if saved:
            self._restore(*saved)
        runner = Runner(learner, self.source, compile=config.compile)
        learner.freeze(set(self.diverged))
        started, first, cpu = time.perf_counter(), learner.steps, time.process_time()
        mark = (started, first)
        if learner.BEGINS and not first:
            self._evaluate(0)
        for stop in self._stops():
            losses = runner.advance(stop - learner.steps)
            if self._due("log_every", stop):
                mark = self._log(losses, mark)
                if self._find_diverged(losses):
                    learner.freeze(set(self.diverged))
                    runner.reset()
                if len(self.diverged) == learner.R:
                    break
            if self._due("eval_every", stop):
                self._evaluate(stop)
            if self._due("checkpoint_every", stop):
                self._checkpoint()
        wall = time.perf_counter() - started
        return {
            "status": "diverged" if len(self.diverged) == learner.R else "completed",
            "steps": learner.steps,
            **self._env_steps(),
            "wall_seconds": wall,
            "cpu_seconds": time.process_time() - cpu,
            "updates_per_second": (learner.steps - first) * learner.R / max(wall, 1e-9),
            "final": self._final(),
        }

    def _stops(self) -> Iterator[int]:
        """The steps at which something is due, the last one always."""
        step, end = self.learner.steps, self.config.steps
        intervals = {self._every(name) for name in ("log_every", "eval_every", "checkpoint_every")}
        while step < end:
            step = min([end, *(step - step % every + every for every in intervals)])
            yield step

    def _every(self, name: str) -> int:
        return self.config.log_every if name == "log_every" else self.config.every(name)

    def _due(self, name: str, step: int) -> bool:
        return step % self._every(name) == 0 or step == self.config.steps

    # --- what happens at a stop ---------------------------------------------------------------------------------

    def _log(self, losses: dict[str, Tensor], mark: tuple[float, int]) -> tuple[float, int]:
        learner, now = self.learner, time.perf_counter()
        record = {"step": learner.steps, "losses": {name: loss.tolist() for name, loss in losses.items()}}
        record |= self._env_steps()
        rate = (learner.steps - mark[1]) * learner.R / max(now - mark[0], 1e-9)
        self._tell("log", record, {"updates_per_second": rate})
        return now, learner.steps

    def _env_steps(self) -> dict[str, int]:
        """How many steps of the environment each replica has taken, for learners that act."""
        return {"env_steps": self.source.env_steps} if self.learner.ONLINE else {}

    def _find_diverged(self, losses: dict[str, Tensor]) -> bool:
        """Mark replicas whose parameters or losses are not finite; True when there is a new one."""
        finite = torch.ones(self.learner.R, dtype=torch.bool, device=self.learner.device)
        for loss in losses.values():
            finite &= loss.isfinite()
        for optimiser in self.learner.optimisers():
            for network in optimiser.networks:
                finite &= network.flat.isfinite().all(1)
        new = [i for i, fine in enumerate(finite.tolist()) if not fine and i not in self.diverged]
        for i in new:
            self.diverged[i] = self.learner.steps
            seed, step = self.learner.seeds[i], self.learner.steps
            message = f"Replica {i} (seed {seed}) is not finite at step {step}; it is frozen, the others go on."
            self._tell("warning", {"message": message})
        return bool(new)

    def _evaluate(self, step: int) -> None:
        summary = self._returns(self.config.eval_episodes, step) | self._report()
        if not summary:
            return
        for i, best in enumerate(self.best):
            judged = "hypervolume" if "hypervolume" in summary else "return_mean"
            value = summary[judged][i] if judged in summary else None
            if isinstance(value, float) and value > best.get(f"best_{judged}", -math.inf):
                named = (judged, "normalized_score", "hypervolume_ratio", "pass_at_1", "pass_at_k")
                best |= {f"best_{k}": summary[k][i] for k in named if k in summary} | {"best_step": step}
        self._tell("eval", {"step": step, **summary})

    def _returns(self, episodes: int, step: int) -> dict[str, list]:
        if not episodes:
            return {}
        own = self.learner.scores(self.task, episodes, step)
        if own is not None:
            return {name: [None if i in self.diverged else x for i, x in enumerate(row)] for name, row in own.items()}
        if episodes not in self.envs:
            self.envs = {episodes: evaluation.make_env(self.task, self.learner, episodes)}
        mode = self.learner.DETERMINISTIC
        results = evaluation.evaluate(self.learner, self.task, episodes, step, self.envs[episodes], mode)
        for i in self.diverged:
            for name in results.keys() & {"returns", "cost"}:
                results[name][i] = math.nan
        return evaluation.summarise(self.task, results, getattr(self.learner, "limits", None))

    def _report(self) -> dict[str, list]:
        """The learner's own report; None for replicas that are not finite."""
        found = self.learner.report(self.source)
        return {name: [None if i in self.diverged else x for i, x in enumerate(row)] for name, row in found.items()}

    def _final(self) -> list[dict[str, Any]]:
        """Per replica: seed, swept options, the last scores (from seeds that no evaluation before used), the best."""
        learner, config = self.learner, self.config
        summary = self._returns(config.final_episodes, -1) | self._report()
        rows = []
        for i, seed in enumerate(learner.seeds):
            row = {"seed": seed, **{name: getattr(learner.config, name)[i] for name in learner.swept}}
            row |= {name: values[i] for name, values in summary.items()} | self.best[i]
            rows.append(row | ({"diverged_at": self.diverged[i]} if i in self.diverged else {}))
        return rows

    # --- files --------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, record: dict[str, Any], timing: dict[str, float] | None = None) -> None:
        if self.folder is not None and kind != "checkpoint":
            line = json.dumps(finite({"kind": kind, **record}), allow_nan=False) + "\n"
            with open(self.folder / "metrics.jsonl", "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
                self.metrics_bytes = file.tell()
        self.listener(kind, record | (timing or {}))

    def _checkpoint(self) -> None:
        self.checkpoints += 1
        if self.folder is not None:
            path = self.folder / "checkpoints" / LAST
            tensors = self.learner.state_dict()
            tensors |= {f"source.{name}": tensor for name, tensor in self.source.state().items()}
            progress = {
                "metrics_bytes": self.metrics_bytes,
                "best": self.best,
                "diverged": list(self.diverged.items()),
                "checkpoints": self.checkpoints,
            }
            checkpoint.write(path, tensors, self.learner.header() | {"progress": progress})
            self._tell("checkpoint", {"step": self.learner.steps, "path": str(path)})
        self.source.at_checkpoint(self.checkpoints)

    def _prepare_folder(self, resume: bool) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """Make room for this run's files; on resume, the checkpoint's tensors and progress, if there is one."""
        if self.folder is None:
            return None
        folder = self.folder / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.clean(folder)
        metrics, last = self.folder / "metrics.jsonl", folder / LAST
        if not (resume and last.exists()):
            last.unlink(missing_ok=True)
            metrics.write_bytes(b"")
            return None
        tensors, header = checkpoint.read(last)
        mine = self.learner.header()
        for key in ("learner", "seeds", "dtype", "config", "spec"):
            if header[key] != json.loads(json.dumps(mine[key])):
                raise UserError(f"{last} was made with another {key}, so this run cannot resume from it.")
        length, found = header["progress"]["metrics_bytes"], metrics.stat().st_size if metrics.exists() else 0
        if found < length:
            raise UserError(f"{metrics} has {found} bytes, fewer than the {length} of the checkpoint beside it.")
        os.truncate(metrics, length)
        parts: dict[str, dict[str, Tensor]] = {"learner": {}, "source": {}}
        for name, tensor in tensors.items():
            part = "source" if name.startswith("source.") else "learner"
            parts[part][name.removeprefix("source.")] = tensor
        return parts, header["progress"]

    def _restore(self, parts: dict[str, dict[str, Tensor]], progress: dict[str, Any]) -> None:
        checkpoint.copy_into(self.source.state(), parts["source"])
        self.metrics_bytes, self.best = progress["metrics_bytes"], progress["best"]
        self.diverged = dict(progress["diverged"])
        self.checkpoints = progress["checkpoints"]
        self.source.at_checkpoint(self.checkpoints)


def finite(value: Any) -> Any:
    """JSON has no NaN: null stands for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
