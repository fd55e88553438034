"""From a composed config to what a run needs: everything checked, nothing written."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from fenchel.cli import source, typed
from fenchel.errors import UserError, unknown

DEMO = {"steps": 20_000, "hidden": [64, 64]}  # about a minute on two cores
RECIPE = "dr_grpo"  # of a token task, where the line names none
MAX_REPLICAS = 4096


@dataclass
class Job:
    """The keys of a line that are the command line's own; those of the training loop stand in TrainConfig."""

    env: str = "pointmaze-umaze"
    """task: a native id, llm/TASK, gym:ID, minari:ID, d4rl:FILE, or my_pkg.my_env:make from your own code"""
    seed: int | str | list[int] = "0:4"
    """0, 0:4 or [0,1,2]: one replica per seed, all trained at once"""
    preset: str | None = None
    """a named set of options of the learner, such as small; options on the line win"""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: cuda where there is one"""
    out: str | None = None
    """run folder; default runs/<env>/<algo>/<hash of what determines the numbers>"""
    resume: bool = False
    """go on from the last checkpoint of the same line; steps may have grown"""
    log: Literal["tensorboard", "wandb"] | None = None
    """a further sink beside metrics.jsonl"""


@dataclass(frozen=True)
class Plan:
    """One run. `config` has a list of length R wherever replicas differ; `swept[i]` names replica i's own values."""

    env: str
    task: dict[str, Any]
    algo: str
    config: Any
    seeds: list[int]
    swept: list[dict[str, float]]
    train: Any
    device: str
    out: Path | None
    resume: bool
    log: str | None
    line: str

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the numbers, up to how far and how often they are looked at."""
        return {
            "env": self.env,
            "task": self.task,
            "algo": self.algo,
            "config": asdict(self.config),
            "seeds": self.seeds,
            "normalize_obs": self.train.normalize_obs,
            "device": self.device.split(":")[0],
        }

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def folder(self) -> Path:
        place = re.sub(r"[^\w.-]+", "_", self.env).strip("._")
        return self.out or Path("runs", place, self.algo, self.hash)


def root_keys() -> list[str]:
    """The keys of a line beside algo.* and task.*, without importing the training loop."""
    return [field.name for field in fields(Job)] + [o.name for o in source.config_fields(*TRAIN)]


TRAIN = ("algorithms.training", "TrainConfig")


def make_plan(values: Mapping[str, Any], words: Sequence[str]) -> Plan:
    """`values`: the composed config; `words`: the line itself. Raises UserError for anything that is not valid."""
    from fenchel.algorithms.training import TrainConfig
    from fenchel.cli.compose import learner_class

    values, given = dict(values), {word.lstrip("+").partition("=")[0] for word in words}
    options, task = values.pop("algo"), values.pop("task")
    algo = options["_key_"]
    job = typed.build(Job, {k: v for k, v in values.items() if k in {f.name for f in fields(Job)}})
    rest = {k: v for k, v in values.items() if not hasattr(job, k)}
    if source.tokens(job.env) and "algo" not in given:
        algo = RECIPE
    source.check_method(algo, [job.env])
    cls = learner_class(algo, job.env)
    mine = {key.removeprefix("algo.") for key in given if key.startswith("algo.")}
    options = {k: v for k, v in options.items() if k in mine}
    if not {"env", "algo"} & given:
        rest.setdefault("steps", DEMO["steps"])
        options.setdefault("hidden", DEMO["hidden"])
    row = preset(cls, job.env, job.preset)
    loop = {f.name: row.pop(f.name) for f in fields(TrainConfig) if f.name in row}
    config = typed.build(cls.Config, row | options, "algo.")
    config, seeds, swept = replicas(config, read_seeds(job.seed))
    train = typed.build(TrainConfig, loop | rest)
    if config.lr_schedule != "constant" and config.lr_steps is None:
        config = replace(config, lr_steps=train.steps or None)
    return Plan(
        env=job.env,
        task=task,
        algo=algo,
        config=config,
        seeds=seeds,
        swept=swept,
        train=train,
        device=read_device(job.device),
        out=Path(job.out).expanduser() if job.out else None,
        resume=job.resume,
        log=job.log,
        line=shlex.join(["python", "scripts/run.py", *words]),
    )


def preset(cls: Any, env: str, name: str | None) -> dict[str, Any]:
    """Rows of the learner's PRESETS whose pattern matches the task, then the one that is named."""
    named = {key for key in cls.PRESETS if not set(key) & set("*?[")}
    if name is not None and name not in named:
        raise unknown("preset", name, named)
    values: dict[str, Any] = {}
    for key, row in cls.PRESETS.items():
        if key not in named and fnmatch(env, key):
            values |= row
    return values | (cls.PRESETS[name] if name else {})


def read_seeds(seed: int | str | list[int]) -> list[int]:
    """3, "0:4" or [0, 1, 2] -> a list of different seeds."""
    if isinstance(seed, str):
        match = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", seed)
        low, high = (int(match[1]), int(match[2] or int(match[1]) + 1)) if match else (0, 0)
        if not 0 < high - low <= MAX_REPLICAS:
            raise UserError(
                f"seed={seed} is not valid; valid is a whole number, a range such as 0:4 of at most {MAX_REPLICAS} "
                "seeds, or a list such as [0,1,2]."
            )
        return list(range(low, high))
    seeds = seed if isinstance(seed, list) else [seed]
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"seed={typed.show(seeds)} is not valid; seeds are different whole numbers from 0 on.")
    return seeds


def replicas(config: Any, seeds: list[int]) -> tuple[Any, list[int], list[dict[str, float]]]:
    """seeds x the Cartesian product of the fields given as lists: their values, one per replica."""
    hints = get_type_hints(type(config))
    swept = [
        field.name
        for field in fields(config)
        if isinstance(getattr(config, field.name), list) and list[float] in get_args(hints[field.name])
    ]
    rows = [dict(zip(swept, row, strict=True)) for row in itertools.product(*(getattr(config, k) for k in swept))]
    count = len(rows) * len(seeds)
    if count > MAX_REPLICAS:
        raise UserError(f"seed and the lists of algo.* ask for {count} replicas; valid are at most {MAX_REPLICAS}.")
    per_replica = [row for row in rows for _ in seeds]
    config = replace(config, **{name: [row[name] for row in per_replica] for name in swept})
    return config, seeds * len(rows), per_replica


def read_device(name: str) -> str:
    """A device that is here: auto is cuda where there is one."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if name == "auto":
        return "cuda" if count else "cpu"
    if name not in here:
        raise UserError(f"device={name} is not here; valid are auto, {', '.join(here)}.")
    return name


def as_plain(config: Any) -> dict[str, Any]:
    """A dataclass as JSON and YAML write it."""
    values = asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)
    return json.loads(json.dumps(values))
