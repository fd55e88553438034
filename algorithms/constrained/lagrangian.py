"""Options of learners that weigh cost by a multiplier, and the multiplier that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fenchel.algorithms.constraints import Constrained, Multiplier

if TYPE_CHECKING:
    from fenchel.algorithms.learner import Learner


@dataclass
class Lagrangian(Constrained):
    multiplier: Literal["projected", "log", "pid"] = "projected"
    """how the multiplier moves: projected gradient ascent, Adam on its logarithm, or a PID controller"""
    multiplier_lr: float | list[float] = field(default=0.1, metadata={"range": (0, None)})
    """the multiplier's step per unit of discounted cost, Adam's step size, or the controller's integral gain"""
    initial_multiplier: float = field(default=1.0, metadata={"range": (0, None)})
    """the first multiplier; a controller begins at 0"""
    max_multiplier: float = field(default=1000.0, metadata={"range": (0, None)})
    """the largest multiplier"""
    proportional: float = field(default=0.3, metadata={"range": (0, None)})
    """the controller's gain on the violation itself"""
    derivative: float = field(default=0.3, metadata={"range": (0, None)})
    """the controller's gain on the cost's rise since the step before"""


def multiplier(learner: Learner) -> Multiplier:
    config = learner.config
    return Multiplier(
        learner,
        config.multiplier,
        lr=config.multiplier_lr,
        initial=config.initial_multiplier,
        ceiling=config.max_multiplier,
        proportional=config.proportional,
        derivative=config.derivative,
    )
