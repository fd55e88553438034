"""What a person sees while a run goes on, and what further sinks get: listeners of the training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fenchel.errors import UserError

# the score of an evaluation, the first of these that it has: its name in tables, and its format
SCORES = {
    "pass_at_1": ("pass@1", ".3f"),
    "hypervolume_ratio": ("hypervolume ratio", ".4f"),
    "hypervolume": ("hypervolume", ".4g"),
    "normalized_score": ("score", ".1f"),
    "return_mean": ("return", ".1f"),
}


class Listener(Protocol):
    def __call__(self, kind: str, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Bar:
    """Updates per second, losses, the last evaluation and the time left; silent when stdout is not a terminal."""

    def __init__(self, console: Console, steps: int, title: str):
        self.console, self.text = console, {"losses": "", "score": "", "rate": ""}
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=steps, text="")
        self.bar.start()

    def __call__(self, kind: str, record: Mapping[str, Any]) -> None:
        if kind == "warning":
            self.console.print(f"warning: {record['message']}", markup=False)
        if kind == "log":
            losses = [f"{name} {brief(values, '.3g')}" for name, values in list(record["losses"].items())[:3]]
            self.text["losses"], self.text["rate"] = " ".join(losses), f"{record['updates_per_second']:.0f}/s"
            if "env_steps" in record:
                self.text["rate"] += f" at environment step {record['env_steps']:,}"
        if kind == "eval":
            found = (f"{label} {brief(record[name], form)}" for name, (label, form) in SCORES.items() if name in record)
            self.text["score"] = next(found, "")
        if "step" in record:
            text = "  ".join(part for part in self.text.values() if part)
            self.bar.update(self.task, completed=record["step"], text=text)

    def close(self) -> None:
        self.bar.stop()


def brief(values: Sequence[Any], form: str) -> str:
    """The mean over finite replicas (and objectives); "-" when there is none."""
    numbers = np.array(values, float)
    numbers = numbers[np.isfinite(numbers)]
    return format(numbers.mean(), form) if numbers.size else "-"


class TensorBoard:
    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def __call__(self, kind: str, record: Mapping[str, Any]) -> None:
        for name, value in scalars(kind, record).items():
            self.writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self.writer.close()


class Wandb:
    def __init__(self, folder: Path, config: dict[str, Any]):
        import wandb

        self.run = wandb.init(dir=str(folder), project="fenchel", config=config)

    def __call__(self, kind: str, record: Mapping[str, Any]) -> None:
        values = scalars(kind, record)
        if values:
            self.run.log(values, step=record["step"])

    def close(self) -> None:
        self.run.finish()


def scalars(kind: str, record: Mapping[str, Any]) -> dict[str, float]:
    """{"eval/return_mean/0": ...}: one scalar per replica."""
    if kind not in ("log", "eval"):
        return {}
    values = record["losses"] if kind == "log" else {k: v for k, v in record.items() if k != "step"}
    return {
        f"{'loss' if kind == 'log' else kind}/{name}/{i}": float(value)
        for name, row in values.items()
        if isinstance(row, Sequence) and not isinstance(row, str)
        for i, value in enumerate(row)
        if isinstance(value, int | float)
    }


def check_sink(log: str | None) -> None:
    """Raises UserError when the package of a sink is missing."""
    import importlib.util

    package = {"tensorboard": "tensorboard", "wandb": "wandb"}.get(log or "")
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"log={log} needs the package {package}; install it with pip install 'fenchel[log]'.")


def sinks(log: str | None, folder: Path, config: dict[str, Any]) -> list[Listener]:
    if log == "tensorboard":
        return [TensorBoard(folder)]
    return [Wandb(folder, config)] if log == "wandb" else []
