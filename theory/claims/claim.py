"""What a claim is: a statement of one paper, problems to try it on, and a check that returns residuals.

A claim is data. Fifteen lines state one (docs/theory.md); `scripts/verify.py` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.rng import Rng

# A tensor, a TabularMDP, or a dict, tuple or dataclass of them. The leading axis of every tensor is the problem index;
# whatever is no tensor, and every 0-d tensor, is shared by all problems.
Problem = Any
Problems = Callable[[Rng, int], Problem]
Kind = Literal["theorem", "identity", "counterexample"]
Source = Literal["text", "abstract", "derived"]


@dataclass(frozen=True)
class ClaimReport:
    """`residual` (n,): how far each problem violates the statement; it holds where `residual <= tolerance`.

    An equality returns its absolute (or relative) error, an inequality `left - right`, and a counter-example
    `margin - violation` with tolerance 0.
    """

    residual: Tensor
    tolerance: Tensor | float = 1e-9

    @property
    def excess(self) -> Tensor:
        """(n,) residual - tolerance; NaN counts as infinitely wrong."""
        return torch.nan_to_num(self.residual - self.tolerance, nan=torch.inf, posinf=torch.inf)

    @property
    def violated(self) -> Tensor:
        return self.excess > 0

    @property
    def holds(self) -> bool:
        return not bool(self.violated.any())

    @property
    def worst_index(self) -> int:
        return int(self.excess.argmax())

    @property
    def worst(self) -> float:
        """The residual of the problem that comes closest to, or goes furthest beyond, its tolerance."""
        return float(torch.nan_to_num(self.residual, nan=torch.inf)[self.worst_index])

    @property
    def worst_tolerance(self) -> float:
        return float(torch.as_tensor(self.tolerance).expand(self.residual.shape)[self.worst_index])


Check = Callable[[Problem], ClaimReport]


@dataclass(frozen=True)
class Twin:
    """The claim with one assumption dropped (an identity: with one sign or factor wrong). It must fail.

    dropped: what was dropped, a noun phrase. What is not given is the claim's own.
    """

    dropped: str
    problems: Problems | None = None
    check: Check | None = None


@dataclass(frozen=True)
class Claim:
    """paper: its id in docs/papers.toml. `statement`: one sentence, the formula included.

    problems(rng, n): n random problems in one batch; `n` is a wish: a claim on fixed instances may return fewer.
    check(problems) -> ClaimReport with one residual per problem; it works for any number of problems, 1 included.
    source: where the statement was read: the paper's text, its abstract, or derived here from either.
    expected=False: the statement as printed is false; needs `counterexample`, a stored problem on which it fails, and
        a row in docs/errata.md.
    twin: see `Twin`; a theorem must have one.
    assume(problems) -> (n,) bool: where the statement's assumptions hold; the reducer of failures stays inside.
    """

    paper: int
    kind: Kind
    statement: str
    problems: Problems
    check: Check
    source: Source = "abstract"
    expected: bool = True
    twin: Twin | None = None
    n: int = 256
    assume: Callable[[Problem], Tensor] | None = None
    counterexample: Problem | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown("kind", self.kind, get_args(Kind))
        if self.source not in get_args(Source):
            raise unknown("source", self.source, get_args(Source))
        if self.kind == "theorem" and self.expected and self.twin is None:
            raise UserError(f"the theorem '{self.statement}' needs a twin: a Twin(dropped=...) that fails.")
        if not self.expected and self.counterexample is None:
            raise UserError(f"'{self.statement}' is expected to be false: give a counterexample on which it fails.")

    def run(self, seed: int = 0, n: int | None = None, device: str = "cpu") -> ClaimReport:
        return self.check(self.draw(seed, n, device))

    def draw(self, seed: int = 0, n: int | None = None, device: str = "cpu") -> Problem:
        return self.problems(Rng(seed, "claim", device), n or self.n)

    def run_twin(self, seed: int = 0, n: int | None = None, device: str = "cpu") -> ClaimReport:
        """The report of the twin; `holds` must come out false."""
        if self.twin is None:
            raise UserError(f"the claim '{self.statement}' has no twin.")
        problems = (self.twin.problems or self.problems)(Rng(seed, "claim", device), n or self.n)
        return (self.twin.check or self.check)(problems)
