"""Exact solvers behind one entry: `solve(problem, criterion, method="auto", tol=1e-8, **options) -> Solution`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fenchel.errors import unknown
from fenchel.theory.solvers.solution import Certificate, Solution

# criterion -> "module:function", function(problem, *, method, tol, **options) -> Solution
SOLVERS = {
    "discounted": "discounted:solve_discounted",
}


def solve(problem: Any, criterion: str = "discounted", method: str = "auto", tol: float = 1e-8, **options) -> Solution:
    """Solve `problem` for `criterion` (a key of SOLVERS); `options` are the criterion's own keywords."""
    if criterion not in SOLVERS:
        raise unknown("criterion", criterion, SOLVERS)
    module, function = SOLVERS[criterion].split(":")
    return getattr(import_module(f"{__name__}.{module}"), function)(problem, method=method, tol=tol, **options)


__all__ = ["SOLVERS", "Certificate", "Solution", "solve"]
