"""What a learner must know about a task before it sees data: observation shape, action space, extras."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """Continuous actions between `low` and `high`, tuples of floats, one per action dimension."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def dim(self) -> int:
        return len(self.low)

    def scale(self, unit: Tensor) -> Tensor:
        """[-1, 1] -> the box; unit (..., dim)."""
        low, high = self._bounds(unit)
        return low + (unit + 1) * 0.5 * (high - low)

    def unscale(self, action: Tensor) -> Tensor:
        """The box -> [-1, 1]."""
        low, high = self._bounds(action)
        return 2 * (action - low) / (high - low) - 1

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(self.low).to(like), torch.as_tensor(self.high).to(like)


@dataclass(frozen=True)
class Discrete:
    """Actions 0 .. n - 1, stored as int64 without a trailing axis."""

    n: int


@dataclass(frozen=True)
class Spec:
    """Observations are float vectors (obs_dim,): a task with discrete states gives them as one-hot vectors.

    extras: names of further batch columns that the task's data has ("cost", "expert", ...), with their shapes.
    goal: of a task with goals, the coordinates of an observation that make the goal which it attains.
    objectives: the number K of entries of a reward; None where it is a single number.
    """

    obs_dim: int
    action: Box | Discrete
    extras: dict[str, tuple[int, ...]] = field(default_factory=dict)
    goal: tuple[int, ...] | None = None
    objectives: int | None = None

    @property
    def discrete(self) -> bool:
        return isinstance(self.action, Discrete)
