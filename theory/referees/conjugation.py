"""Conjugates of a convex function by numerical maximisation, from its values alone: numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

GOLDEN = (np.sqrt(5) - 1) / 2


def conjugate_nonneg(
    f: Callable[[np.ndarray], np.ndarray], y: np.ndarray, low: float = 1e-14, high: float = 1e8
) -> tuple[np.ndarray, np.ndarray]:
    """(sup, argmax) over w in {0} and [low, high] of w y - f(w), elementwise: golden section in log w, after a grid."""
    y = np.asarray(y, dtype=float)
    grid = np.linspace(np.log(low), np.log(high), 400)

    def gain(log_w: np.ndarray) -> np.ndarray:
        w = np.exp(log_w)
        return w * y - f(w)

    best = np.argmax(np.stack([gain(np.full_like(y, g)) for g in grid]), 0)
    left, right = grid[np.maximum(best - 1, 0)] + 0 * y, grid[np.minimum(best + 1, len(grid) - 1)] + 0 * y
    for _ in range(80):
        a, b = right - GOLDEN * (right - left), left + GOLDEN * (right - left)
        up = gain(a) < gain(b)
        left, right = np.where(up, a, left), np.where(up, right, b)
    log_w = (left + right) / 2
    inside, zero = gain(log_w), -f(np.zeros_like(y))
    return np.maximum(inside, zero), np.where(zero >= inside, 0.0, np.exp(log_w))


def dual_value(mdp, f: Callable[[np.ndarray], np.ndarray], alpha: float, ref: np.ndarray, V: np.ndarray) -> float:
    """mu0 . V + alpha sum ref f*((r + M V - V) / alpha) of one problem, with f* from `f` alone."""
    discount = mdp.discount.numpy()
    rows = (discount if discount.ndim == 3 else discount[..., None]) * mdp.P.numpy()
    y = (mdp.r.numpy() + rows @ V - V[:, None]) / alpha
    used = ref > 0
    return float(mdp.mu0.numpy() @ V + alpha * (ref[used] * conjugate_nonneg(f, y[used])[0]).sum())
