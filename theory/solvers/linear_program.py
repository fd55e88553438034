"""The linear program of a discounted MDP in dual-V form: S variables, one row per pair (d'Epenoux 1963).

    min_V  sum_s V(s)   s.t.   V(s) - sum_t M(s, a, t) V(t) >= r(s, a)

It is ten times cheaper than the occupancy form on dense problems, which therefore stands in `theory.referees` only.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.solvers.bellman import Backup

# HiGHS drops smaller coefficients without saying so; dropping them first keeps the problem and its answer consistent
DROPPED = 1e-9
OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def value_program(problem: Backup) -> tuple[Tensor, Tensor, Tensor]:
    """(V, greedy actions, simplex iterations) of every problem in the batch.

    The probability of a dropped coefficient moves to the likeliest successor, so rows keep their sums.
    """
    values, counts = [], []
    for i in range(len(problem)):
        V, count = _one(problem[i : i + 1])
        values.append(V)
        counts.append(count)
    V = torch.stack(values)
    return V, problem.q(V).argmax(-1), torch.tensor(counts)


def clean(rows: np.ndarray) -> np.ndarray:
    """`rows` without entries below DROPPED, each with its sum kept."""
    kept = np.where(np.abs(rows) < DROPPED, 0.0, rows)
    kept[np.arange(len(rows)), rows.argmax(1)] += rows.sum(1) - kept.sum(1)
    return kept


def _one(problem: Backup) -> tuple[Tensor, int]:
    _, S, A = problem.r.shape
    exists = np.ones(S * A, bool) if problem.missing is None else ~problem.missing.reshape(-1).cpu().numpy()
    P = clean(problem.P.reshape(S * A, S).cpu().numpy()[exists])
    M = problem.discount.reshape(-1, 1).cpu().numpy()[exists] * P
    r = problem.r.reshape(-1).cpu().numpy()[exists]
    state = sparse.csr_matrix(
        (np.ones(exists.sum()), (np.arange(exists.sum()), np.flatnonzero(exists) // A)), (exists.sum(), S)
    )
    result = linprog(np.ones(S), sparse.csr_matrix(M) - state, -r, bounds=(None, None), method="highs", options=OPTIONS)
    if result.status != 0:
        raise UserError(f"HiGHS ended the linear program of the MDP with: {result.message}")
    return torch.as_tensor(result.x, dtype=torch.float64, device=problem.P.device), int(result.nit)
