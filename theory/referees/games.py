"""Independent answers for games, on numpy arrays."""

from __future__ import annotations

from itertools import combinations

import cvxpy as cp
import numpy as np
from scipy.optimize import brentq, linprog


def zero_sum_value(A: np.ndarray) -> float:
    """The column player's program: min v with A y <= v."""
    m, n = A.shape
    result = linprog(
        np.r_[np.zeros(n), 1.0], np.c_[A, -np.ones(m)], np.zeros(m), np.r_[np.ones(n), 0.0][None], [1.0],
        bounds=[(0, None)] * n + [(None, None)],
    )  # fmt: skip
    return float(result.fun)


def support_equilibria(A: np.ndarray, B: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Nash equilibria with supports of equal size: all of them in a nondegenerate game."""
    m, n = A.shape
    found = []
    for k in range(1, min(m, n) + 1):
        for rows in map(list, combinations(range(m), k)):
            for columns in map(list, combinations(range(n), k)):
                y = _indifferent(A[np.ix_(rows, columns)])
                x = _indifferent(B[np.ix_(rows, columns)].T)
                if x is None or y is None or min(x.min(), y.min()) <= 1e-12:
                    continue
                X, Y = np.zeros(m), np.zeros(n)
                X[rows], Y[columns] = x, y
                if (A @ Y).max() <= X @ A @ Y + 1e-9 and (X @ B).max() <= X @ B @ Y + 1e-9:
                    found.append((X, Y))
    return found


def _indifferent(M: np.ndarray) -> np.ndarray | None:
    """p with sum 1 and M p constant, if unique."""
    k = len(M)
    system = np.block([[M, -np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
    if abs(np.linalg.det(system)) < 1e-12:
        return None
    return np.linalg.solve(system, np.r_[np.zeros(k), 1.0])[:k]


def correlated_welfare(A: np.ndarray, B: np.ndarray, coarse: bool) -> float:
    """Greatest sum of payoffs over (coarse) correlated equilibria of a bimatrix game, by cvxpy."""
    p = cp.Variable(A.shape, nonneg=True)
    rules = [cp.sum(p) == 1]
    for payoff, joint in ((A, p), (B.T, p.T)):
        kept = [cp.sum(cp.multiply(joint[a], payoff[a])) for a in range(len(payoff))]
        for b in range(len(payoff)):
            moved = [cp.sum(cp.multiply(joint[a], payoff[b])) for a in range(len(payoff))]
            rules += [sum(moved) <= sum(kept)] if coarse else [u <= v for u, v in zip(moved, kept, strict=True)]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(p, A + B))), rules)
    return float(problem.solve(solver=cp.CLARABEL))


def kl_nash_two(p: float, alpha: float, reference: float) -> float:
    """Weight of the first of two answers, preferred with probability p: the root of its own tilt, by bracketing."""

    def off(x: float) -> float:
        edge = (x * 0.5 + (1 - x) * p) - (x * (1 - p) + (1 - x) * 0.5)
        return np.log(x / (1 - x)) - np.log(reference / (1 - reference)) - edge / alpha

    return float(brentq(off, 1e-300, 1 - 1e-16, xtol=1e-15))


def shapley_values(P: np.ndarray, r: np.ndarray, gamma: float, sweeps: int) -> np.ndarray:
    """Shapley's iteration with one program per state; off by at most gamma^sweeps max|r| / (1 - gamma)."""
    V = np.zeros(len(P))
    for _ in range(sweeps):
        V = np.array([zero_sum_value(r[s] + gamma * P[s] @ V) for s in range(len(P))])
    return V
