"""A task: a batched environment, perhaps a data set, perhaps an exact model, and how returns are scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from fenchel.envs.spec import Spec
from fenchel.theory.mdp import TabularMDP

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset


class Step(NamedTuple):
    """The answer of n environments to one action each. `obs` is the true successor, also at an episode's end."""

    obs: Tensor  # (n, obs_dim)
    reward: Tensor  # (n,) or (n, K)
    terminal: Tensor  # (n,) bool: the MDP ended, nothing follows
    timeout: Tensor  # (n,) bool: we stopped watching; the value goes on
    info: dict[str, Tensor]  # per step, (n, ...): "cost", "success", ...


class BatchedEnv(Protocol):
    """n copies of an environment that step together. Never resets by itself: the caller resets what has ended."""

    n: int
    spec: Spec

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """Start episodes in the copies where `mask` (n,) is True (default all) from `seeds` (n,) int64; returns all
        observations (n, obs_dim), those of the other copies unchanged."""
        ...

    def step(self, action: Tensor) -> Step:
        """action (n, dim) float in the box, or (n,) int64."""
        ...


@dataclass(frozen=True)
class Task:
    """id: as given to `make`. reference: (random, expert) returns of the normalised score, or None.

    make_vec(n, seed, device="cpu"): a BatchedEnv; None for a data set without an environment.
    dataset(): an OfflineDataset, built or downloaded-from-disk on first use; None for an environment without data.
    metadata: "cost", "goals", "objectives", "discount", ... declared facts that later families read. "cost" is a dict:
    unit, "episode" or "discounted" (which needs "discount"), and limits, tight to loose, in that unit.
    """

    id: str
    spec: Spec
    make_vec: Callable[..., BatchedEnv] | None
    dataset: Callable[[], OfflineDataset] | None = None
    reference: tuple[float, float] | None = None
    mdp: TabularMDP | None = None
    max_steps: int = 1000
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Learners know the number of objectives by the spec; tasks declare it once, in `metadata`."""
        if self.spec.objectives != self.metadata.get("objectives"):
            object.__setattr__(self, "spec", replace(self.spec, objectives=self.metadata.get("objectives")))

    def normalized(self, ret: Tensor) -> Tensor:
        """100 (return - random) / (expert - random); NaN where no reference is known."""
        if self.reference is None:
            return ret * float("nan")
        random, expert = self.reference
        return 100 * (ret - random) / (expert - random)
