"""The critic of a recipe that has one."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fenchel.llm.parts.part import Part, at
from fenchel.llm.rollout import Live, Prepared
from fenchel.theory.objectives.policy_gradient import ppo_value


@dataclass(frozen=True)
class Critic(Part):
    """coefficient * (v - R)^2 / 2, clipped around the old value if asked."""

    NEEDS = ("value", "live_value")
    value_coefficient: float | list[float] = field(default=0.5, metadata={"range": (0, None)})
    """weight of the critic's loss"""
    value_clip: float | list[float] | None = field(default=0.2, metadata={"range": (0, None)})
    """largest move of a value that still has a gradient; null: no clip"""

    def __call__(self, live: Live, prepared: Prepared) -> Tensor:
        assert live.value is not None
        assert prepared.returns is not None
        clip = None if self.value_clip is None else at(self.value_clip, live.value)
        old = prepared.data.value
        assert old is not None
        return at(self.value_coefficient, live.value) * ppo_value(live.value, old, prepared.returns, clip=clip)
