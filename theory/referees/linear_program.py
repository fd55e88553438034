"""MDPs as linear programs over occupancies, by HiGHS: numpy and scipy only.

discounted   max <d, r>   s.t.   sum_a d(s, a) - sum discount P d = mu0,   d >= 0
average      max <x, r>   s.t.   sum_a x(s, a) - sum P x = 0,  sum x = 1,  x >= 0      (best gain from any state)
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

DROPPED = 1e-9  # what HiGHS would ignore


def pairs(mdp) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(state of each existing pair, action, P row, discounted row, reward) of one problem, as numpy arrays."""
    P = mdp.P.numpy().astype(float)
    discount = mdp.discount.numpy().astype(float)
    rows = discount * P if discount.ndim == 3 else discount[..., None] * P
    state, action = np.nonzero(mdp.mask.numpy())
    return state, action, P[state, action], rows[state, action], mdp.r.numpy().astype(float)[state, action]


def _maximise(reward: np.ndarray, equalities: np.ndarray, right: np.ndarray) -> tuple[float, np.ndarray]:
    equalities = np.where(np.abs(equalities) < DROPPED, 0.0, equalities)
    result = linprog(-reward, A_eq=equalities, b_eq=right, bounds=(0, None), method="highs")
    if result.status != 0:
        raise RuntimeError(f"HiGHS: {result.message}")
    return -result.fun, result.x


def discounted_value(mdp) -> tuple[float, np.ndarray]:
    """(mu0 . V*, an optimal occupancy (S, A)) of one problem."""
    state, action, _, rows, reward = pairs(mdp)
    leave = np.eye(mdp.num_states)[state]
    value, d = _maximise(reward, (leave - rows).T, mdp.mu0.numpy().astype(float))
    full = np.zeros(mdp.P.shape[:2])
    full[state, action] = d
    return value, full


def gain(mdp) -> float:
    """The best average reward of one problem from its best initial state."""
    state, _, P, _, reward = pairs(mdp)
    balance = (np.eye(mdp.num_states)[state] - P).T
    value, _ = _maximise(reward, np.r_[balance, np.ones((1, len(state)))], np.r_[np.zeros(mdp.num_states), 1.0])
    return value
