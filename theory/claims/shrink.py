"""Delta debugging: from a batch that violates a claim to one tiny, readable problem that still does.

Three passes, repeated until nothing changes. Axes: all tensors that share an axis length (states, actions, responses)
lose one index together. Values: probabilities move to small rationals, everything else to integers or few digits, first
whole tensors, then single entries. A candidate counts when the claim still fails on it by at least a hundredth of the
original excess, so that rounding noise is never mistaken for the failure. A distribution with full support keeps it,
since claims tend to assume it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Check, Claim, ClaimReport, Problem
from fenchel.theory.claims.problem import leaves, rebuild, take

DENOMINATORS = (1, 2, 3, 4, 5, 10, 100)
DIGITS = (0, 1, 2)
KEPT_EXCESS = 0.01


def shrink(claim: Claim, problems: Problem, report: ClaimReport, check: Check | None = None, calls: int = 600):
    """The worst problem of a violated report, made small. Returns (problem, its report); `calls` bounds the checks."""
    index = report.worst_index
    problem = take(problems, index)
    search = _Search(claim, check or claim.check, problem, float(report.excess[index]), calls)
    while search.calls > 0:
        before = problem
        for candidates in (_fewer_indices, _simpler_tensors, _simpler_entries):
            problem = search.greedy(problem, candidates)
        if problem is before:
            break
    return problem, (check or claim.check)(problem)


class _Search:
    def __init__(self, claim: Claim, check: Check, problem: Problem, excess: float, calls: int):
        self.claim, self.check, self.calls = claim, check, calls
        self.full = [x.ndim == 2 and is_distribution(x) and bool((x > 0).all()) for x in leaves(problem)]
        self.finite = excess != torch.inf
        self.least = KEPT_EXCESS * excess if self.finite else 0.0

    def fails(self, problem: Problem, values: list[Tensor]) -> Problem | None:
        """The candidate problem if it is valid and still violates the claim."""
        self.calls -= 1
        if any(full and bool((x <= 0).any()) for full, x in zip(self.full, values, strict=True)):
            return None
        try:  # a candidate outside the check's domain is no counter-example: that is an answer, not an error to report
            candidate = rebuild(problem, values)
            if self.claim.assume is not None and not self.claim.assume(candidate).all():
                return None
            excess = float(self.check(candidate).excess.max())
        except (RuntimeError, ValueError, IndexError, ArithmeticError):
            return None
        if self.finite and excess == torch.inf:
            return None
        return candidate if excess > self.least else None

    def greedy(self, problem: Problem, candidates) -> Problem:
        """Take the first candidate that still fails, and go on from there until none does."""
        found: Problem | None = problem
        while found is not None:
            problem, found = found, None
            for values in candidates(leaves(problem)):
                if self.calls <= 0:
                    return problem
                found = self.fails(problem, values)
                if found is not None:
                    break
        return problem


def is_distribution(x: Tensor) -> bool:
    """Whether every row over the last axis is a probability distribution."""
    if x.ndim < 2 or not x.is_floating_point():
        return False
    return bool((x >= 0).all() and ((x.sum(-1) - 1).abs() < 1e-9).all())


def quantise(p: Tensor, denominator: int) -> Tensor:
    """Distributions with entries k / denominator, by largest remainders."""
    scaled = p * denominator
    counts = scaled.floor()
    missing = (denominator - counts.sum(-1, keepdim=True)).round()
    rank = (counts - scaled).argsort(dim=-1, stable=True).argsort(dim=-1)
    return (counts + (rank < missing)) / denominator


def _fewer_indices(values: list[Tensor]) -> Iterator[list[Tensor]]:
    sizes = {size for v in values for size in v.shape[1:] if size > 1}
    for size in sorted(sizes, reverse=True):
        for index in reversed(range(size)):
            keep = torch.tensor([i for i in range(size) if i != index])
            yield [_drop(v, size, keep.to(v.device)) for v in values]


def _drop(x: Tensor, size: int, keep: Tensor) -> Tensor:
    distribution = is_distribution(x)
    for axis in range(1, x.ndim):
        if x.shape[axis] == size:
            x = x.index_select(axis, keep)
    if not distribution:
        return x
    lost = x.sum(-1, keepdim=True) == 0  # all of a row's mass stood on the dropped index
    x = torch.where(lost, torch.nn.functional.one_hot(x.argmax(-1), x.shape[-1]).to(x.dtype), x)
    return x / x.sum(-1, keepdim=True)


def _simpler_tensors(values: list[Tensor]) -> Iterator[list[Tensor]]:
    for i, v in enumerate(values):
        if v.is_floating_point():
            if is_distribution(v):
                rounded = [quantise(v, d) for d in DENOMINATORS]
            else:
                rounded = [v.round(decimals=d) for d in DIGITS]
            yield from _replacements(values, i, rounded)


def _simpler_entries(values: list[Tensor]) -> Iterator[list[Tensor]]:
    for i, v in enumerate(values):
        if not v.is_floating_point():
            continue
        distribution = is_distribution(v)
        rows = v.reshape(-1, v.shape[-1]) if distribution else v.reshape(-1, 1)
        for k, row in enumerate(rows):
            simple = [quantise(row, d) for d in DENOMINATORS] if distribution else [torch.zeros_like(row), row.round()]
            yield from _replacements(values, i, [_with_row(rows, k, new).reshape(v.shape) for new in simple])


def _with_row(rows: Tensor, k: int, row: Tensor) -> Tensor:
    changed = rows.clone()
    changed[k] = row
    return changed


def _replacements(values: list[Tensor], i: int, candidates: list[Tensor]) -> Iterator[list[Tensor]]:
    """The lists in which tensor i is a simpler one, simplest first; nothing once the tensor is that simple already."""
    for new in candidates:
        if torch.equal(new, values[i]):
            return
        yield [*values[:i], new, *values[i + 1 :]]
