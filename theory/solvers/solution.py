"""What every solver returns, and the certificate that travels with it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Certificate:
    """Why the answer can be believed: residuals that `certificates.check` recomputes from the problem.

    `residuals` maps a name ("gap", "flow", "bellman", "dual_domain", "complementarity", "stationarity", ...) to a
    tensor of the batch shape, each >= 0 and 0 for an exact answer; `tolerance` is what the solver was asked for.
    """

    kind: str
    residuals: dict[str, Tensor]
    tolerance: float

    @property
    def worst(self) -> float:
        """The greatest residual; inf when one is not a number."""
        values = [float(r.max()) for r in self.residuals.values() if r.numel()]
        return math.inf if any(math.isnan(v) for v in values) else max(values, default=0.0)

    @property
    def holds(self) -> bool:
        return self.worst <= self.tolerance

    def __repr__(self) -> str:
        """The greatest residual of each kind: the tensors of a batch would fill the screen."""
        found = ", ".join(f"{name} {float(r.max()):.1e}" for name, r in self.residuals.items() if r.numel())
        return f"Certificate({self.kind}: {found}; tolerance {self.tolerance:.0e}, holds={self.holds})"


@dataclass(frozen=True)
class Solution:
    """Fields that a criterion does not define are None; `extra` holds what only one criterion has.

    They are typed as if always there: who asks for a criterion knows which fields it defines.
    """

    V: Tensor = None  # type: ignore[assignment]
    Q: Tensor = None  # type: ignore[assignment]
    policy: Tensor = None  # type: ignore[assignment]
    occupancy: Tensor = None  # type: ignore[assignment]
    multipliers: Tensor = None  # type: ignore[assignment]
    lower: Tensor = None  # type: ignore[assignment]
    upper: Tensor = None  # type: ignore[assignment]
    iterations: int | Tensor = 0
    certificate: Certificate = None  # type: ignore[assignment]
    extra: dict[str, Tensor] = field(default_factory=dict)
