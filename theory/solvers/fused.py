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
from fenchel.theory.solvers.bellman import EPS, STRICT, WARM_START, Backup, Bounds

try:
    from numba import njit, prange
except ImportError as error:  # pragma: no cover - the extra is installed in development
    raise UserError("method=fused needs numba; install it with the extra `fast` or choose method=pi.") from error


BLOCK = 64  # problems that share one scratch matrix


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _table(P, r, discount, missing, V, Q):
    """Q = r + M V, -inf where the action does not exist."""
    S, A = r.shape
    for s in range(S):
        for a in range(A):
            total = 0.0
            for t in range(S):
                total += P[s, a, t] * V[t]
            Q[s, a] = -np.inf if missing[s, a] else r[s, a] + discount[s, a] * total


@njit(cache=True, error_model="numpy")
def _evaluate(P, r, discount, actions, matrix, V):
    """Solve (I - M_pi) V = r_pi, row by row, without pivoting; the last column of `matrix` is the right-hand side."""
    S = V.shape[0]
    for i in range(S):
        a, row = actions[i], matrix[i]
        for t in range(S):
            row[t] = -discount[i, a] * P[i, a, t]
        row[i] += 1.0
        row[S] = r[i, a]
        for k in range(i):
            factor, above = row[k], matrix[k]
            if factor != 0.0:
                for t in range(k + 1, S + 1):
                    row[t] -= factor * above[t]
        inverse = 1.0 / row[i]
        for t in range(i + 1, S + 1):
            row[t] *= inverse
    for i in range(S - 1, -1, -1):
        total = matrix[i, S]
        for t in range(i + 1, S):
            total -= matrix[i, t] * V[t]
        V[i] = total


@njit(cache=True, error_model="numpy")
def _improve(Q, V, actions):
    """Greedy on Q where that beats the present action by more than rounding. Returns the number of changes."""
    scale = 1.0
    for s in range(V.shape[0]):
        scale = max(scale, abs(V[s]))
    changes = 0
    for s in range(V.shape[0]):
        best, arg = Q[s, actions[s]] + STRICT * scale, actions[s]
        for a in range(Q.shape[1]):
            if Q[s, a] > best:
                best, arg = Q[s, a], a
        changes += arg != actions[s]
        actions[s] = arg
    return changes


@njit(cache=True, error_model="numpy")
def _greedy(Q, V, actions):
    """V and actions greedy on Q."""
    for s in range(V.shape[0]):
        arg = 0
        for a in range(1, Q.shape[1]):
            if Q[s, a] > Q[s, arg]:
                arg = a
        V[s], actions[s] = Q[s, arg], arg


@njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
def _bound(P, discount, missing, Q, V, actions, mass, lower, upper):
    """`bellman.bounds` with h = 1; mass: scratch (S, A)."""
    S, A = Q.shape
    high, low, slackest, largest = -np.inf, np.inf, 1.0, 0.0
    for s in range(S):
        largest = max(largest, abs(V[s]), abs(Q[s, actions[s]]))
        for a in range(A):
            if not missing[s, a]:
                total = 0.0
                for t in range(S):
                    total += P[s, a, t]
                mass[s, a] = discount[s, a] * total
                slack = 1.0 - mass[s, a]
                excess = (Q[s, a] - V[s]) / slack
                high, slackest = max(high, excess), min(slackest, slack)
                if a == actions[s]:
                    low = min(low, excess)
    rounding = 4 * EPS * largest / slackest
    high, low = high + rounding, low - rounding
    for s in range(S):
        lower[s], upper[s] = Q[s, actions[s]] + low * mass[s, actions[s]], -np.inf
        for a in range(A):
            if not missing[s, a]:
                upper[s] = max(upper[s], Q[s, a] + high * mass[s, a])


@njit(cache=True, error_model="numpy")
def _solve_one(P, r, discount, missing, limit, matrix, V, mass, Q, actions, lower, upper):
    for s in range(V.shape[0]):
        for a in range(r.shape[1]):
            Q[s, a] = -np.inf if missing[s, a] else r[s, a]
    _greedy(Q, V, actions)
    for _ in range(WARM_START):
        _table(P, r, discount, missing, V, Q)
        _greedy(Q, V, actions)
    for iteration in range(1, limit + 1):
        _evaluate(P, r, discount, actions, matrix, V)
        _table(P, r, discount, missing, V, Q)
        if _improve(Q, V, actions) == 0:
            _bound(P, discount, missing, Q, V, actions, mass, lower, upper)
            return iteration
    return 0


@njit(cache=True, parallel=True)
def _solve_all(P, r, discount, missing, limit, Q, actions, lower, upper, counts):
    B, S, A = r.shape
    for block in prange((B + BLOCK - 1) // BLOCK):
        matrix, V, mass = np.empty((S, S + 1)), np.empty(S), np.empty((S, A))
        for b in range(block * BLOCK, min(B, (block + 1) * BLOCK)):
            counts[b] = _solve_one(
                P[b], r[b], discount[b], missing[b], limit, matrix, V, mass, Q[b], actions[b], lower[b], upper[b]
            )  # fmt: skip


def fused_policy_iteration(flat: Backup, limit: int = 1000) -> tuple[Bounds, Tensor, Tensor]:
    """(bounds, Q, number of policy iterations) of every problem. Raises UserError off the CPU or at discount 1."""
    if flat.P.device.type != "cpu":
        raise UserError("method=fused runs on the CPU; valid on other devices is method=pi.")
    worst = flat.discount if flat.missing is None else flat.discount.masked_fill(flat.missing, 0)
    if float(worst.max()) > 1 - 1e-9:
        raise UserError("method=fused needs every discount below 1; valid for discounts of 1 is method=pi.")
    B, S = flat.mu0.shape
    missing = flat.missing if flat.missing is not None else torch.zeros((), dtype=torch.bool).expand(flat.r.shape)
    actions, counts = torch.zeros(B, S, dtype=torch.int64), torch.zeros(B, dtype=torch.int64)
    lower, upper, Q = (torch.empty(*shape, dtype=torch.float64) for shape in ((B, S), (B, S), flat.r.shape))
    arrays = (t.contiguous().numpy() for t in (flat.P, flat.r, flat.discount, missing))  # one layout, one compilation
    outputs = (t.numpy() for t in (Q, actions, lower, upper, counts))
    _solve_all(*arrays, limit, *outputs)  # type: ignore[call-arg]
    if not bool(counts.all()):
        raise UserError(f"policy iteration did not settle in {limit} steps; valid are problems with finite values.")
    return Bounds(lower, upper, actions), Q, counts
