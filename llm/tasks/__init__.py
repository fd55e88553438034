"""Token tasks: `make("llm/countdown", difficulty=3) -> TokenTask`."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from fenchel.errors import UserError, did_you_mean, unknown

if TYPE_CHECKING:
    from fenchel.llm.tasks.task import TokenTask

PREFIX = "llm/"

# name -> "module:Class"; the id is llm/<name>
TASKS: dict[str, str] = {
    "arithmetic": "arithmetic:Arithmetic",
    "chain_sum": "chain_sum:ChainSum",
    "countdown": "countdown:Countdown",
    "gsm8k": "files:FileTask",
    "knights": "knights:Knights",
    "maze": "maze:Maze",
    "preferences": "files:FileTask",
    "sort": "sort:Sort",
    "svamp": "files:FileTask",
}


def get_task(id: str) -> type[TokenTask]:
    """The class of `llm/<name>`; only its own module is imported. Raises UserError for an unknown id."""
    name = id.removeprefix(PREFIX)
    if name not in TASKS:
        raise unknown("env", id, [PREFIX + task for task in TASKS])
    module, attribute = TASKS[name].split(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def options(id: str) -> dict[str, Any]:
    """The options of a task and their defaults (inspect.Parameter.empty where there is none)."""
    parameters = inspect.signature(get_task(id)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def hints(id: str) -> dict[str, Any]:
    """The types of the options."""
    return get_type_hints(get_task(id).__init__)


def make(id: str, **given: Any) -> TokenTask:
    """The task of this id. Raises UserError for an unknown id or option."""
    task, valid = get_task(id), options(id)
    for name in given:
        if name not in valid:
            known = ", ".join(f"task.{option}" for option in valid)
            raise UserError(f"task.{name} is not an option of env={id}; valid are {known}.{did_you_mean(name, valid)}")
    return task(id, **given)
