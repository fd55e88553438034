"""One checker for every solution: residuals recomputed from the problem, not by the code that solved it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fenchel.errors import unknown
from fenchel.theory.solvers.solution import Certificate, Solution

# criterion -> "module:function", function(problem, answer, **options) -> {name: residual of the batch shape}
CHECKS = {
    "discounted": "bellman_checks:check_discounted",
    "evaluation": "bellman_checks:check_evaluation",
    "finite": "bellman_checks:check_finite",
    "average": "bellman_checks:check_average",
    "soft": "bellman_checks:check_soft",
    "occupancy_dual": "occupancy_checks:check_occupancy_dual",
    "zero_sum": "game_checks:check_zero_sum",
    "nash": "game_checks:check_nash",
    "correlated": "game_checks:check_correlated",
    "coarse_correlated": "game_checks:check_coarse",
    "qre": "game_checks:check_qre",
    "von_neumann": "game_checks:check_von_neumann",
    "kl_nash": "game_checks:check_kl_nash",
    "markov_game": "game_checks:check_markov_game",
    "cmdp": "cmdp_checks:check_cmdp",
    "coverage": "coverage_checks:check_coverage",
    "pareto": "coverage_checks:check_pareto",
    "utility": "utility_checks:check_utility",
    "reach_avoid": "reachability_checks:check_reach_avoid",
    "safe_set": "reachability_checks:check_safe_set",
    "goal_distance": "reachability_checks:check_goal_distance",
    "robust": "robust_checks:check_robust",
    "cvar": "risk_checks:check_cvar",
    "entropic": "risk_checks:check_entropic",
    "return_law": "risk_checks:check_return_law",
}


def check(problem: Any, criterion: str, solution: Solution, tol: float = 1e-8, **options) -> Certificate:
    """The certificate of `solution` for `criterion` (a key of CHECKS), recomputed; `.holds` says whether it stands.

    `options` are those that the problem was solved with and that define it (budgets, alpha, horizon, ...).
    """
    if criterion not in CHECKS:
        raise unknown("criterion", criterion, CHECKS)
    module, function = CHECKS[criterion].split(":")
    residuals = getattr(import_module(f"{__package__}.{module}"), function)(problem, solution, **options)
    return Certificate(criterion, residuals, tol)
