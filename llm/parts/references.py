"""Reference rules: `rate(step)`, how far the reference moves towards the policy after update `step` (1: a copy)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fenchel.llm.parts.part import Part


@dataclass(frozen=True)
class Fixed(Part):
    """The policy that training began with."""

    def rate(self, step: int) -> Any:
        return 0.0


@dataclass(frozen=True)
class Moving(Part):
    """ref <- alpha pi + (1 - alpha) ref every so many updates. (TR-DPO [261], soft.)"""

    alpha: float | list[float] = field(default=0.6, metadata={"range": (0, 1)})
    """how far the reference moves"""
    every: int = field(default=1, metadata={"range": (1, None)})
    """updates between two moves"""

    def rate(self, step: int) -> Any:
        return self.alpha if (step + 1) % self.every == 0 else 0.0


@dataclass(frozen=True)
class LastIterate(Part):
    """ref <- pi every so many updates: every phase is a proximal step. (TR-DPO [261], hard; ProRL [105]; self-play.)"""

    every: int = field(default=64, metadata={"range": (1, None)})
    """updates between two copies"""

    def rate(self, step: int) -> Any:
        return 1.0 if (step + 1) % self.every == 0 else 0.0
