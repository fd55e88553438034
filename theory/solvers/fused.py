"""Policy iteration with one MDP per thread (numba, extra `fast`): the `fused` method of discounted MDPs.

The linear solve is an LU factorisation without pivoting: I - M_pi is a diagonally dominant M-matrix, for which
elimination in any order is stable. Threads share no work inside a problem; a barrier per sweep costs more than it
saves. Bounds are those of `bellman.bounds` with h = 1, so every discount must be below 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.solvers.bellman import STRICT, Backup, Bounds

try:
    from numba import njit, prange
except ImportError as error:  # pragma: no cover - the extra is installed in development
    raise UserError("method=fused needs numba; install it with the extra `fast` or choose method=pi.") from error


@njit(cache=True, fastmath={"contract", "reassoc"})
def _backup(row, V):
    total = 0.0
    for t in range(V.shape[0]):
        total += row[t] * V[t]
    return total


@njit(cache=True)
def _q(P, r, discount, missing, V, s, a):
    return -np.inf if missing[s, a] else r[s, a] + discount[s, a] * _backup(P[s, a], V)


@njit(cache=True)
def _evaluate(P, r, discount, actions, matrix, V):
    """Solve (I - M_pi) V = r_pi in place by elimination without pivoting."""
    S = V.shape[0]
    for s in range(S):
        a = actions[s]
        for t in range(S):
            matrix[s, t] = -discount[s, a] * P[s, a, t]
        matrix[s, s] += 1.0
        V[s] = r[s, a]
    for k in range(S):
        for i in range(k + 1, S):
            factor = matrix[i, k] / matrix[k, k]
            if factor != 0.0:
                for j in range(k + 1, S):
                    matrix[i, j] -= factor * matrix[k, j]
                V[i] -= factor * V[k]
    for i in range(S - 1, -1, -1):
        total = V[i]
        for j in range(i + 1, S):
            total -= matrix[i, j] * V[j]
        V[i] = total / matrix[i, i]


@njit(cache=True)
def _improve(P, r, discount, missing, V, actions, best, strict):
    """Greedy on V where that beats the present action by `strict`; best[s] = max Q. Returns the number of changes."""
    changes = 0
    for s in range(V.shape[0]):
        own = _q(P, r, discount, missing, V, s, actions[s])
        best[s], arg = own, actions[s]
        for a in range(r.shape[1]):
            value = _q(P, r, discount, missing, V, s, a)
            if value > best[s]:
                best[s], arg = value, a
        if best[s] > own + strict:
            actions[s] = arg
            changes += 1
    return changes


@njit(cache=True)
def _bound(P, r, discount, missing, V, actions, lower, upper):
    S, A = r.shape
    high, low, slackest, largest = -np.inf, np.inf, 1.0, 0.0
    for s in range(S):
        upper[s] = -np.inf
        largest = max(largest, abs(V[s]))
        for a in range(A):
            if not missing[s, a]:
                slack = 1.0 - discount[s, a] * P[s, a].sum()
                excess = (_q(P, r, discount, missing, V, s, a) - V[s]) / slack
                high, slackest = max(high, excess), min(slackest, slack)
                if a == actions[s]:
                    low = min(low, excess)
    rounding = 4 * 2.220446049250313e-16 * largest / slackest
    high, low = high + rounding, low - rounding
    for s in range(S):
        for a in range(A):
            if not missing[s, a]:
                later = discount[s, a] * P[s, a].sum()
                value = _q(P, r, discount, missing, V, s, a)
                upper[s] = max(upper[s], value + high * later)
                if a == actions[s]:
                    lower[s] = value + low * later


@njit(cache=True)
def _solve_one(P, r, discount, missing, warm, strict, limit, actions, lower, upper):
    S = r.shape[0]
    V, best, matrix = np.zeros(S), np.zeros(S), np.empty((S, S))
    for s in range(S):
        while missing[s, actions[s]]:
            actions[s] += 1
    for _ in range(warm + 1):
        _improve(P, r, discount, missing, V, actions, best, 0.0)
        V[:] = best
    count = 0
    for iteration in range(1, limit + 1):
        _evaluate(P, r, discount, actions, matrix, V)
        scale = 1.0
        for s in range(S):
            scale = max(scale, abs(V[s]))
        if _improve(P, r, discount, missing, V, actions, best, strict * scale) == 0:
            count = iteration
            break
    _bound(P, r, discount, missing, V, actions, lower, upper)
    return count


@njit(cache=True, parallel=True)
def _solve_all(P, r, discount, missing, warm, strict, limit, actions, lower, upper, counts):
    for b in prange(P.shape[0]):
        counts[b] = _solve_one(
            P[b], r[b], discount[b], missing[b], warm, strict, limit, actions[b], lower[b], upper[b]
        )  # fmt: skip


def fused_policy_iteration(flat: Backup, limit: int = 1000) -> tuple[Bounds, Tensor]:
    """Bounds of every problem and its number of policy iterations. Raises UserError off the CPU or at discount 1."""
    if flat.P.device.type != "cpu":
        raise UserError("method=fused runs on the CPU; valid on other devices is method=pi.")
    worst = flat.discount if flat.missing is None else flat.discount.masked_fill(flat.missing, 0)
    if float(worst.max()) > 1 - 1e-9:
        raise UserError("method=fused needs every discount below 1; valid for discounts of 1 is method=pi.")
    B, S = flat.mu0.shape
    missing = flat.missing if flat.missing is not None else torch.zeros((), dtype=torch.bool).expand(flat.r.shape)
    actions, counts = torch.zeros(B, S, dtype=torch.int64), torch.zeros(B, dtype=torch.int64)
    lower, upper = torch.empty(B, S, dtype=torch.float64), torch.empty(B, S, dtype=torch.float64)
    arrays = (t.contiguous().numpy() for t in (flat.P, flat.r, flat.discount, missing))  # one layout, one compilation
    outputs = (t.numpy() for t in (actions, lower, upper, counts))
    _solve_all(*arrays, 3, STRICT, limit, *outputs)  # type: ignore[call-arg]
    if not bool(counts.all()):
        raise UserError(f"policy iteration did not settle in {limit} steps; valid are problems with finite values.")
    return Bounds(lower, upper, actions), counts
