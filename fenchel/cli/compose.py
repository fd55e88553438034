"""The layer over Hydra: its grammar, composition and launchers, over the literal table of learners.

Hydra composes plain nodes: what a value may be is checked by `typed.build`, so that every refusal is one sentence of
ours. Only the module of the learner that the line names is imported. `-m` runs through `hydra.main`, so that its
launchers (joblib, submitit, ray) work; a job that is refused or fails is recorded and does not end the sweep.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fenchel.cli import source
from fenchel.errors import UserError, did_you_mean

ROOT_CONFIG = {
    "defaults": [
        {"algo": "iql"},
        "_self_",
        {"override hydra/job_logging": "none"},
        {"override hydra/hydra_logging": "none"},
    ],
    "task": {},
    "hydra": {
        "run": {"dir": "."},
        "output_subdir": None,
        "sweep": {"dir": "runs/sweeps", "subdir": "."},
    },
}


class Table(ConfigSource):
    """`fenchel://`: the root config, and `algo/<key>` = the defaults of that learner's dataclass."""

    @staticmethod
    def scheme() -> str:
        return "fenchel"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path in ("", "algo")

    def is_config(self, config_path: str) -> bool:
        return config_path == "run" or config_path.removeprefix("algo/") in source.algorithms() | source.recipes()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found = {"": ["run"], "algo": sorted(source.algorithms() | source.recipes())}.get(config_path, [])
        return [] if results_filter == ObjectType.GROUP else found

    def load_config(self, config_path: str) -> ConfigResult:
        if config_path == "run":
            values: dict[str, Any] = ROOT_CONFIG
        elif config_path.removeprefix("algo/") in source.algorithms():
            key = config_path.removeprefix("algo/")
            values = {"_key_": key} | defaults(learner_class(key).Config)
        elif config_path.removeprefix("algo/") in source.recipes():  # whose options depend on its parts
            values = {"_key_": config_path.removeprefix("algo/")}
        else:
            raise ConfigLoadError(f"{config_path} is not a config")
        package = "algo" if config_path.startswith("algo/") else "_global_"
        path = f"fenchel://{config_path}"
        return ConfigResult(self.provider, path, OmegaConf.create(values), {"package": package})


class FenchelSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("fenchel", "fenchel://")


def learner_class(key: str, env: str = "") -> Any:
    """The class of a learner, or of the recipe where the task is one of tokens."""
    if source.tokens(env):
        if key in source.bridge():
            return import_module("fenchel.llm.bridge").get_bridge(key)
        return import_module("fenchel.llm.training").get_learner(key)
    return import_module("fenchel.algorithms").get_algorithm(key)


def defaults(config: type) -> dict[str, Any]:
    """The default values of a dataclass, tuples as lists."""
    pairs = [(f.name, f.default if f.default_factory is MISSING else f.default_factory()) for f in fields(config)]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs if value is not MISSING}


def read(words: Sequence[str], root_keys: Iterable[str], sweep: bool = False) -> list[str]:
    """Command-line words -> overrides for Hydra; raises UserError naming the word that is wrong."""
    parser = OverridesParser.create()
    overrides = []
    every = [(word, _parse(parser, word)) for word in words]
    envs = [name for _, parsed in every if parsed.key_or_group == "env" for name in _choices(parsed)]
    for word, parsed in every:
        key = parsed.key_or_group
        _check_key(word, key, root_keys, sweep)
        if parsed.is_sweep_override() and not sweep:
            raise UserError(f"{word} names several values of {key}; add -m to run one job per value.")
        if key == "algo":
            for name in _choices(parsed):
                source.check_method(name, envs or [""])
        own = key != "algo" and not key.startswith("hydra")
        overrides.append(f"++{word.lstrip('+')}" if own else word.lstrip("+"))
    return overrides


def _parse(parser: OverridesParser, word: str) -> Override:
    try:
        parsed = parser.parse_override(word)
    except HydraException:
        form = "write key=value" if not all(word.partition("=")) else "quote special characters, as in key='\"a b\"'"
        raise UserError(f"'{word}' is not understood; {form}.") from None
    if not parsed.key_or_group:
        raise UserError(f"'{word}' is not understood; write key=value.")
    if parsed.is_delete():
        raise UserError(f"'{word}' deletes a key, but every key is needed; write key=value.")
    if parsed.package is not None:
        raise UserError(f"'{word}' names a package, but keys have one place only; write key=value.")
    return parsed


def _check_key(word: str, key: str, root_keys: Iterable[str], sweep: bool) -> None:
    head = key.split(".")[0]
    if head == "hydra" or key.startswith("hydra/"):
        if not sweep:
            raise UserError(f"{key} belongs to sweeps; add -m.")
        return
    if "." in key and head not in ("task", "algo"):
        hint = did_you_mean(head, ("task", "algo"))
        raise UserError(f"{key} is not a key; only task.<option> and algo.<option> have parts.{hint}")
    if key == "task":
        raise UserError("task has options; write task.<option>=value.")
    known = {"algo", "task", *root_keys}
    if head not in known:
        hint = did_you_mean(head, known)
        raise UserError(f"{key} is not a key; valid are {', '.join(sorted(known))}.{hint}")
    if key.count(".") > 1:
        raise UserError(f"{key} has too many parts; write {head}.<option>=value.")


def _choices(parsed: Override) -> list[str]:
    """The values that a word names, several in a sweep, so that it does not start with a misspelt one."""
    value = parsed.value()
    if parsed.is_sweep_override():
        return [str(name) for name in value.list] if isinstance(value, ChoiceSweep) else []
    return [value if isinstance(value, str) else (parsed.input_line or "").partition("=")[2]]


def _register() -> None:
    Plugins.instance().register(Table)
    if FenchelSearchPath not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(FenchelSearchPath)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(str(error).split("\n")[0].split())
        raise UserError(f"{text.rstrip('.')}.") from None


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The composed config of one job as plain values."""
    _register()
    GlobalHydra.instance().clear()
    with _refusals(), hydra.initialize(config_path=None, job_name="run", version_base="1.3"):
        return plain(hydra.compose("run", list(overrides)))


def plain(cfg: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def sweep(overrides: Sequence[str]) -> tuple[Path, list[dict[str, Any]]]:
    """Run every combination through `hydra.main`; returns the sweep's folder and one record per job."""
    _register()
    GlobalHydra.instance().clear()
    folder = Path("runs", "sweeps", time.strftime("%Y-%m-%d_%H-%M-%S-") + str(os.getpid()))
    argv, sys.argv = sys.argv, [sys.argv[0], "--multirun", f"hydra.sweep.dir={folder}", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors of composition out to us
    try:
        with _refusals():
            hydra.main(config_path=None, config_name="run", version_base="1.3")(_job)()
    finally:
        sys.argv = argv
    lines = (folder / "jobs.jsonl").read_text().splitlines() if (folder / "jobs.jsonl").exists() else []
    return folder, [json.loads(line) for line in lines]


def _job(cfg: DictConfig) -> None:
    """One job of a sweep, perhaps in another process: leaves one line in the sweep's jobs.jsonl."""
    from fenchel.cli.run import attempt

    words = [word.lstrip("+") for word in HydraConfig.get().overrides.task]
    record = attempt(lambda: plain(cfg), words, quiet=True)
    folder = Path(HydraConfig.get().sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "jobs.jsonl").open("a") as file:
        file.write(json.dumps({"line": " ".join(words), **record}) + "\n")
