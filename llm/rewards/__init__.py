"""What an answer earns: `make_reward(["verifier", "brevity"])`. Several rewards stand on a last axis, in that order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fenchel.errors import UserError, unknown

if TYPE_CHECKING:
    from fenchel.llm.tasks.task import Problems

# name -> "module:function"; called with (problems, index (*b), answers (*b, T)), returns (*b) float32
REWARDS: dict[str, str] = {
    "agreement": "simple:agreement",
    "brevity": "simple:brevity",
    "finished": "simple:finished",
    "gold": "gold:gold",
    "verifier": "simple:verifier",
}
Reward = Callable[["Problems", Tensor, Tensor], Tensor]


def get_reward(name: str) -> Reward:
    """Raises UserError for a name that stands in no row."""
    if name not in REWARDS:
        raise unknown("task.reward", name, REWARDS)
    module, function = REWARDS[name].split(":")
    return getattr(import_module(f"{__name__}.{module}"), function)


def make_reward(names: str | Sequence[str]) -> Reward:
    """One reward (*b), or several (*b, K). Raises UserError for an unknown name, and where one answers wrongly."""
    given = [names] if isinstance(names, str) else list(names)
    if not given or len(set(given)) < len(given):
        raise UserError(f"task.reward={names} is not valid; it names one reward or several different ones.")
    functions = [(name, get_reward(name)) for name in given]

    def reward(problems: Problems, index: Tensor, answers: Tensor) -> Tensor:
        values = [checked(name, function(problems, index, answers), index) for name, function in functions]
        return values[0] if isinstance(names, str) else torch.stack(values, -1)

    return reward


def checked(name: str, value: Tensor, index: Tensor) -> Tensor:
    """One number per answer, or a UserError."""
    if not isinstance(value, Tensor) or value.shape != index.shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"The reward {name} gave {found} for {index.numel()} answers; it must give {tuple(index.shape)}."
        )
    return value.to(torch.float32)
