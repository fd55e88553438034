"""numba kernels of modified policy iteration on padded (ELL) rows: `method="fused"` of sparse MDPs (extra `fast`).

The greedy pass reads a state's rows once and makes Q, the bounds and the policy's compact rows on the way, so that no
(S, A) table exists; sweeps then stream the compact rows only.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.solvers.bellman import EPS
from fenchel.theory.sparse import SparseMDP

try:
    from numba import njit
except ImportError as error:  # pragma: no cover - the extra is installed in development
    raise UserError("method=fused needs numba; install it with the extra `fast` or choose method=mpi.") from error


@njit(cache=True, error_model="numpy")
def _greedy(index, prob, r, discount, missing, masked, V, best, actions, rows, values, reward):
    """best = max Q; the policy's rows (successors, discounted values) and reward; (high, low, least slack, max |V|)."""
    S, A, K = prob.shape
    high, low, least, largest = -np.inf, np.inf, 1.0, 0.0
    for s in range(S):
        top, arg, own = -np.inf, 0, 0.0
        for a in range(A):
            if masked and missing[s, a]:
                continue
            gamma, total, mass = discount[s, a], 0.0, 0.0
            for k in range(K):
                total += prob[s, a, k] * V[index[s, a, k]]
                mass += prob[s, a, k]
            q, slack = r[s, a] + gamma * total, 1.0 - gamma * mass
            excess = (q - V[s]) / slack
            if excess > high:
                high = excess
            if slack < least:
                least = slack
            if q > top:
                top, arg, own = q, a, excess
        best[s], actions[s], reward[s] = top, arg, r[s, arg]
        low, largest = min(low, own), max(largest, abs(V[s]))
        for k in range(K):
            rows[s, k] = index[s, arg, k]
            values[s, k] = discount[s, arg] * prob[s, arg, k]
    return high, low, least, largest


@njit(cache=True, error_model="numpy")
def _sweep(rows, values, reward, V, other, count):
    S, K = rows.shape
    for _ in range(count):
        for s in range(S):
            total = reward[s]
            for k in range(K):
                total += values[s, k] * V[rows[s, k]]
            other[s] = total
        V, other = other, V
    return V


def kernels(mdp: SparseMDP):
    """The (greedy, sweep) pair of `sparse_discounted`, over buffers allocated once; a sweep follows the last greedy."""
    S, _, K = mdp.prob.shape
    index, prob, r = (t.contiguous().numpy() for t in (mdp.index, mdp.prob, mdp.r))
    discount = np.ascontiguousarray(mdp.discount.numpy())
    masked = mdp.action_mask is not None
    missing = ~mdp.mask.numpy() if masked else np.zeros((1, 1), bool)
    best, actions = np.empty(S), np.empty(S, np.int64)
    rows, values, reward, other = np.empty((S, K), np.int32), np.empty((S, K)), np.empty(S), np.empty(S)

    def greedy(V: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
        high, low, least, largest = _greedy(
            index, prob, r, discount, missing, masked, V.numpy(), best, actions, rows, values, reward
        )  # fmt: skip
        rounding = 4 * EPS * largest / least
        return torch.from_numpy(best.copy()), torch.from_numpy(actions), (high + rounding, low - rounding)

    def sweep(V: Tensor, actions: Tensor, count: int) -> Tensor:
        return torch.from_numpy(_sweep(rows, values, reward, V.numpy(), other, count).copy())

    return greedy, sweep
