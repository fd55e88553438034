"""A run folder: who may write it, what identifies it, and the files that the command line itself writes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from fenchel import __version__
from fenchel.algorithms.training import finite
from fenchel.cli.plan import Plan, as_plain
from fenchel.errors import UserError

SCHEMA = 1
CONFIG, SUMMARY, METRICS, CURVE = "config.yaml", "summary.json", "metrics.jsonl", "learning_curve.png"


def config_of(plan: Plan, data_hash: str | None = None) -> dict[str, Any]:
    """What config.yaml says. It is a record: nothing in it is ever executed or imported."""
    identity = as_plain(plan.identity)
    return {
        "schema": SCHEMA,
        "fenchel": __version__,
        "line": plan.line,
        "hash": plan.hash,
        **identity,
        "train": as_plain(plan.train),
        "data_hash": data_hash,
    }


class RunFolder:
    """`with RunFolder(plan, data_hash) as folder:` creates or reopens it and keeps other processes out.

    Raises UserError when `out` holds something else, when another process writes there, or when `resume=true` meets
    a run of other numbers. A second identical run without `resume` gets a folder of its own (suffix -2, -3, ...).
    """

    def __init__(self, plan: Plan, data_hash: str | None):
        self.config = config_of(plan, data_hash)
        self.resumed = False
        self.path = self._reopen(plan) if plan.resume else self._create(plan)
        self._lock = FileLock(self.path / ".lock", timeout=0)

    def __enter__(self) -> RunFolder:
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"out={self.path} is being written by another process; wait for it or name another."
            ) from None
        write_atomic(self.path / CONFIG, yaml.safe_dump(self.config, sort_keys=False))
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _create(self, plan: Plan) -> Path:
        if plan.out:
            if plan.out.exists() and not plan.out.is_dir():
                raise UserError(f"out={plan.out} is a file; valid is a folder that is new or empty.")
            if plan.out.exists() and any(plan.out.iterdir()):
                raise UserError(f"out={plan.out} is not empty; name another folder, or add resume=true to go on.")
            plan.out.mkdir(parents=True, exist_ok=True)
            return plan.out
        for path in _numbered(plan.folder):
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                continue
        raise AssertionError("unreachable")

    def _reopen(self, plan: Plan) -> Path:
        found = [plan.folder] if plan.out else []
        if not plan.out:
            for path in _numbered(plan.folder):
                if not path.exists():
                    break
                found.append(path)
        found = [path for path in found if (path / CONFIG).exists()]
        if not found:  # killed before its first byte, or the first start of a line that is always resumed
            return self._create(plan)
        self.resumed = True
        old = yaml.safe_load((found[-1] / CONFIG).read_text())
        for key in ("env", "task", "algo", "config", "seeds", "normalize_obs", "device", "data_hash"):
            if old.get(key) != self.config[key]:
                raise UserError(
                    f"resume=true goes on with the same line, but {key} differs from {found[-1] / CONFIG}; "
                    "repeat that line or name another folder by out=."
                )
        return found[-1]


def _numbered(path: Path):
    yield path
    for number in range(2, 10_000):
        yield path.with_name(f"{path.name}-{number}")


def write_atomic(path: Path, text: str) -> None:
    """Readers see the old file or the new one, also when we are killed in between."""
    scratch = path.with_name(f".{path.name}.tmp{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def write_summary(
    folder: Path, plan: Plan, data_hash: str | None, result: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """summary.json: the schema of the report; NaN and infinities become null."""
    summary = {
        "schema": SCHEMA,
        "env": plan.env,
        "algo": plan.algo,
        "seeds": plan.seeds,
        "steps": result.get("steps", 0),
        "status": result["status"],
        "wall_seconds": result.get("wall_seconds"),
        "cpu_seconds": result.get("cpu_seconds"),
        "updates_per_second": result.get("updates_per_second"),
        "device": plan.device,
        "versions": versions(),
        "commit": commit(),
        "data_hash": data_hash,
        "hash": plan.hash,
        "final": result.get("final", []),
        **({"env_steps": result["env_steps"]} if "env_steps" in result else {}),
        **more,
    }
    summary = finite(summary)
    write_atomic(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "fenchel": __version__}
    for name in ("torch", "numpy", "gymnasium"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree that runs, with "+" when it has changes; None outside a clone."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
