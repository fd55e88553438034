"""All deterministic policies, one by one (S <= 4), and the tree of a finite horizon: numpy only."""

from __future__ import annotations

from itertools import product

import numpy as np


def policies(mdp):
    """Every map from states to existing actions."""
    return product(*(np.flatnonzero(row) for row in mdp.mask.numpy()))


def _rows(mdp) -> np.ndarray:
    discount = mdp.discount.numpy().astype(float)
    return (discount if discount.ndim == 3 else discount[..., None]) * mdp.P.numpy().astype(float)


def discounted_values(mdp) -> np.ndarray:
    """V (number of policies, S) of every deterministic policy of one problem; V* is the maximum over the first axis."""
    rows, r, s = _rows(mdp), mdp.r.numpy().astype(float), np.arange(mdp.num_states)
    values = [np.linalg.solve(np.eye(len(s)) - rows[s, list(a)], r[s, list(a)]) for a in policies(mdp)]
    return np.array(values)


def gains(mdp) -> np.ndarray:
    """Long-run average reward (number of policies, S), from the Cesaro limit of each policy's chain."""
    P, r, s = mdp.P.numpy().astype(float), mdp.r.numpy().astype(float), np.arange(mdp.num_states)
    return np.array([_limit(P[s, list(a)]) @ r[s, list(a)] for a in policies(mdp)])


def _limit(chain: np.ndarray) -> np.ndarray:
    """lim (I + C + ... + C^(n-1)) / n, by squaring the lazy chain, which has the same limit and no period."""
    lazy = (np.eye(len(chain)) + chain) / 2
    for _ in range(60):
        lazy = lazy @ lazy
        lazy /= lazy.sum(1, keepdims=True)
    return lazy


def finite_value(mdp, horizon: int, state: int) -> float:
    """The best return of `horizon` steps from one state, by walking the whole tree."""
    if horizon == 0:
        return 0.0
    rows, r = _rows(mdp), mdp.r.numpy()
    best = -np.inf
    for a in np.flatnonzero(mdp.mask.numpy()[state]):
        successors = np.flatnonzero(rows[state, a]).tolist()
        after = sum((float(rows[state, a, t]) * finite_value(mdp, horizon - 1, t) for t in successors), 0.0)
        best = max(best, float(r[state, a]) + after)
    return best
