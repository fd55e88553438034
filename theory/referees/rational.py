"""Exact answers in rational numbers for problems of at most three states: no floating point after reading the input."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

Matrix = list[list[Fraction]]


def solve_exactly(matrix: Matrix, right: list[Fraction]) -> list[Fraction]:
    """Gauss-Jordan elimination; raises ZeroDivisionError for a singular matrix."""
    n = len(matrix)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for k in range(n):
        pivot = next((i for i in range(k, n) if rows[i][k] != 0), k)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k and rows[i][k] != 0:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[n] for row in rows]


def optimal_values(mdp) -> list[Fraction]:
    """V* of one problem (S <= 3), exact for the numbers that its tensors hold."""
    S, A = mdp.num_states, mdp.num_actions
    if S > 3:
        raise ValueError(f"rational arithmetic is for at most 3 states, not {S}")
    P, r = mdp.P.tolist(), mdp.r.tolist()
    gamma, mask = mdp.discount.expand(mdp.P.shape[:-1]).tolist(), mdp.mask.tolist()
    best: list[Fraction] | None = None
    for actions in product(range(A), repeat=S):
        if not all(mask[s][a] for s, a in enumerate(actions)):
            continue
        matrix = [
            [Fraction(int(s == t)) - Fraction(gamma[s][a]) * Fraction(P[s][a][t]) for t in range(S)]
            for s, a in enumerate(actions)
        ]
        V = solve_exactly(matrix, [Fraction(r[s][a]) for s, a in enumerate(actions)])
        best = V if best is None else [max(x, y) for x, y in zip(best, V, strict=True)]
    assert best is not None
    return best
