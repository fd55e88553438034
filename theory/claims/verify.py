"""Running claims: pick them by pattern, check them on seeded problems, return one row each.

The keys `claim, paper, kind, source, holds, expected, as_expected, twin_fails, residual, tolerance, seconds` of a row
are a contract; further ones may be added.
"""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from fenchel.errors import UserError, did_you_mean
from fenchel.theory.claims.claim import Check, Claim, ClaimReport, Problem
from fenchel.theory.claims.problem import source_code
from fenchel.theory.claims.shrink import shrink
from fenchel.theory.rng import Rng

Row = dict[str, Any]


def resolve(path: str) -> Claim:
    """The claim at "package.module:ATTRIBUTE"."""
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute or "CLAIM")
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # a missing dependency of the claim's module is another error
        raise UserError(f"claim={path}: there is no module {module}; write package.module:ATTRIBUTE.") from error
    except AttributeError as error:
        raise UserError(f"claim={path}: the module {module} has no attribute {attribute or 'CLAIM'}.") from error
    if not isinstance(found, Claim):
        raise UserError(f"claim={path} is a {type(found).__name__}, not a fenchel.theory.claims.claim.Claim.")
    return found


def select(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that match any glob pattern (a bare group name means all of it), in table order."""
    names, chosen = list(names), []
    for pattern in patterns:
        matched = [n for n in names if fnmatchcase(n, pattern) or n.split(".")[0] == pattern]
        if not matched:
            groups = sorted({n.split(".")[0] for n in names})
            hint = did_you_mean(pattern, [*names, *groups, *(f"{g}.*" for g in groups)])
            raise UserError(f"claim={pattern} matches nothing; the groups are {', '.join(groups)}.{hint}")
        chosen += matched
    return [n for n in names if n in set(chosen)]


def verify(
    table: Mapping[str, str],
    patterns: Iterable[str] = ("*",),
    *,
    batch: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    twins: bool = False,
) -> Iterable[Row]:
    """One row per claim of `table` ("group.name": "package.module:ATTRIBUTE") that matches, as each finishes."""
    chosen = select(patterns, table)  # a pattern without a match is refused before anything runs
    return (run(name, resolve(table[name]), batch=batch, seed=seed, device=device, twins=twins) for name in chosen)


def run(
    name: str, claim: Claim, *, batch: int | None = None, seed: int = 0, device: str = "cpu", twins: bool = False
) -> Row:
    """Check one claim (and its twin). An exception inside a claim becomes a row that is not as expected."""
    row: Row = dict(claim=name, paper=claim.paper, kind=claim.kind, source=claim.source, statement=claim.statement)
    start = time.perf_counter()
    try:
        row |= _checked(claim, batch, seed, device)
        row["twin_fails"] = None
        if twins and claim.twin is not None:
            row["twin_fails"] = not claim.run_twin(seed, None, device).holds  # a small batch might miss its failure
        row["error"] = None
    except Exception:
        nan = float("nan")
        row |= dict(holds=False, expected=claim.expected, twin_fails=None, residual=nan, tolerance=nan, n=0)
        row |= dict(violations=0, problem=None, error=traceback.format_exc())
    row["as_expected"] = row["error"] is None and row["holds"] == claim.expected and row["twin_fails"] is not False
    row["seconds"] = round(time.perf_counter() - start, 4)
    return row


def _blocks(claim: Claim, batch: int | None, seed: int, device: str) -> Iterator[tuple[Problem, ClaimReport]]:
    """Problems and their reports, at most claim.n at a time, which bounds the memory; fixed instances come once."""
    wanted, done = batch or claim.n, 0
    while done < wanted:
        rng = Rng(seed, f"claim/{done}" if done else "claim", device)
        problems = claim.problems(rng, min(claim.n, wanted - done))
        report = claim.check(problems)
        yield problems, report
        done += report.residual.numel()
        if claim.kind == "counterexample" or report.residual.numel() < claim.n:
            return


def _checked(claim: Claim, batch: int | None, seed: int, device: str) -> Row:
    row: Row = dict(expected=claim.expected, n=0, violations=0, problem=None)
    worst: tuple[Problem, ClaimReport] | None = None
    for problems, report in _blocks(claim, batch, seed, device):
        row["n"] += report.residual.numel()
        row["violations"] += int(report.violated.sum())
        if worst is None or report.excess.max() > worst[1].excess.max():
            worst = problems, report
    assert worst is not None
    problems, report = worst
    row |= dict(holds=row["violations"] == 0, residual=report.worst, tolerance=report.worst_tolerance)
    if not row["holds"] and claim.expected:  # a fixed instance is shown as it is
        fixed = claim.kind == "counterexample"
        row["problem"] = source_code(problems) if fixed else smallest(claim, problems, report)
    if claim.counterexample is not None and claim.check(claim.counterexample).holds:
        row |= dict(holds=True, problem="# the stored counter-example no longer violates the statement")
    return row


def smallest(claim: Claim, problems: Problem, report: ClaimReport, check: Check | None = None) -> str:
    """Python source of a small problem on which the claim fails, with its residual."""
    problem, small = shrink(claim, problems, report, check)
    return f"{source_code(problem)}\n# residual {small.worst:.6g}, tolerance {small.worst_tolerance:.3g}"
