"""What a claim is: a statement of one paper, problems to try it on, and a check that returns residuals.

A claim is data. Fifteen lines state one (docs/theory.md); `scripts/verify.py` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fenchel.theory.rng import Rng

Problem = Any  # a dict of tensors or TabularMDPs whose leading axis is the problem index, or one dataclass of them
Kind = Literal["theorem", "identity", "counterexample"]
Source = Literal["text", "abstract", "derived"]


@dataclass(frozen=True)
class ClaimReport:
    """`residual` (n,): how far each problem violates the statement; it holds where `residual <= tolerance`."""

    residual: Tensor
    tolerance: Tensor | float = 1e-9

    @property
    def violated(self) -> Tensor:
        return ~(self.residual <= self.tolerance)  # NaN counts as violated

    @property
    def holds(self) -> bool:
        return not bool(self.violated.any())

    @property
    def worst(self) -> float:
        return float(torch.nan_to_num(self.residual, nan=torch.inf).max())


@dataclass(frozen=True)
class Claim:
    """paper: its id in docs/papers.toml. `statement`: one sentence, the formula included.

    problems(rng, n): n random problems in one batch; `n` is a wish: a claim on fixed instances may return fewer.
    check(problems) -> ClaimReport.  expected=False: the statement as printed is false (needs a row in docs/errata.md).
    twin: the same statement with one assumption dropped; it must fail on at least one problem.
    A counterexample's check reports `margin - violation`, so that it also holds when residual <= 0.
    """

    paper: int
    kind: Kind
    statement: str
    problems: Callable[[Rng, int], Problem]
    check: Callable[[Problem], ClaimReport]
    source: Source = "abstract"
    expected: bool = True
    twin: Claim | None = None
    n: int = 256

    def run(self, seed: int = 0, n: int | None = None, device: str = "cpu") -> ClaimReport:
        return self.check(self.problems(Rng(seed, "claim", device), n or self.n))
