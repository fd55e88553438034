"""Exact solvers behind one entry: `solve(problem, criterion, method="auto", tol=1e-8, **options) -> Solution`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fenchel.errors import unknown
from fenchel.theory.solvers.solution import Certificate, Solution

# criterion -> "module:function", function(problem, *, method, tol, **options) -> Solution
SOLVERS = {
    "discounted": "discounted:solve_discounted",
    "evaluation": "discounted:solve_evaluation",
    "finite": "finite:solve_finite",
    "average": "average:solve_average",
    "soft": "regularised:solve_soft",
    "occupancy_dual": "occupancy_dual:solve_occupancy_dual",
    "zero_sum": "matrix_games:solve_zero_sum",
    "nash": "matrix_games:solve_nash",
    "correlated": "matrix_games:solve_correlated",
    "coarse_correlated": "matrix_games:solve_coarse_correlated",
    "qre": "matrix_games:solve_qre",
    "von_neumann": "preference_games:solve_von_neumann",
    "kl_nash": "preference_games:solve_kl_nash",
    "markov_game": "markov_games:solve_markov_game",
    "cmdp": "cmdp:solve_cmdp",
    "coverage": "coverage:solve_coverage",
    "pareto": "pareto:solve_pareto",
    "utility": "utility:solve_utility",
    "reach_avoid": "reachability:solve_reach_avoid",
    "safe_set": "reachability:solve_safe_set",
    "goal_distance": "goal_distance:solve_goal_distance",
    "robust": "robust:solve_robust",
    "cvar": "risk:solve_cvar",
    "entropic": "risk:solve_entropic",
    "return_law": "risk:solve_return_law",
}


def solve(problem: Any, criterion: str = "discounted", method: str = "auto", tol: float = 1e-8, **options) -> Solution:
    """Solve `problem` for `criterion` (a key of SOLVERS); `options` are the criterion's own keywords."""
    if criterion not in SOLVERS:
        raise unknown("criterion", criterion, SOLVERS)
    module, function = SOLVERS[criterion].split(":")
    return getattr(import_module(f"{__name__}.{module}"), function)(problem, method=method, tol=tol, **options)


__all__ = ["SOLVERS", "Certificate", "Solution", "solve"]
