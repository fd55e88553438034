"""A finite data set as distinct transitions with their shares, and what fixed points of its methods are made of.

NumPy only. A method's population under the empirical law of the rows is a sum over these transitions: minibatches drawn
with replacement have it as their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]

F: dict[str, Function] = {
    "kl": lambda w: w * np.log(np.where(w > 0, w, 1)) - w + 1,
    "chi2": lambda w: (w - 1) ** 2,
    "soft_chi2": lambda w: np.where(w < 1, F["kl"](w), (w - 1) ** 2 / 2),
}


@dataclass(frozen=True)
class Transitions:
    """Distinct (state, action, reward, following, discount), each (K,), and how large a share of the rows each is.

    discount is 0 after a terminal and gamma after a time-out. A row that goes on to a state which no row leaves is
    refused with a ValueError: its value is whatever a network says there.
    """

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    following: np.ndarray
    discount: np.ndarray
    share: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def count(cls, state, action, reward, following, discount, states: int, actions: int) -> Transitions:
        """From rows (N,) each."""
        rows = np.stack([np.asarray(column, float) for column in (state, action, reward, following, discount)], 1)
        rows, counts = np.unique(rows, axis=0, return_counts=True)
        s, a, r, t, d = rows.T
        data = cls(s.astype(int), a.astype(int), r, t.astype(int), d, counts / counts.sum(), (states, actions))
        lost = set(data.following[data.discount > 0]) - set(data.state)
        if lost:
            raise ValueError(f"rows go on to the states {sorted(map(int, lost))}, which no row leaves")
        return data

    def mean(self, value: np.ndarray) -> np.ndarray:
        """(K,) -> (S, A): means per pair; 0 where there is no row."""
        return self._sum(self.share * value) / np.where(self.mass > 0, self.mass, 1)

    def _sum(self, value: np.ndarray) -> np.ndarray:
        total = np.zeros(self.shape)
        np.add.at(total, (self.state, self.action), value)
        return total

    @cached_property
    def mass(self) -> np.ndarray:
        """(S, A): shares of the pairs."""
        return self._sum(self.share)

    @cached_property
    def visited(self) -> np.ndarray:
        """(S,) bool."""
        return self.mass.sum(1) > 0

    def backup(self, V: np.ndarray) -> np.ndarray:
        """(K,): r + discount V(s')."""
        return self.reward + self.discount * V[self.following]

    def policy(self, weight: np.ndarray) -> np.ndarray:
        """(S, A): the minimiser of - E w log pi, proportional to the pairs' shares times their mean weight (S, A);
        uniform in states without any."""
        total = self.mass * weight
        some = total.sum(1, keepdims=True)
        return np.where(some > 0, total / np.where(some > 0, some, 1), 1 / self.shape[1])


def fixed_point(operator: Function, start: np.ndarray, tol: float = 1e-9, most: int = 20_000) -> np.ndarray:
    """Iterates until nothing moves by more than tol. Raises RuntimeError when it still does after `most` rounds, or is
    not finite."""
    for _ in range(most):
        following = operator(start)
        if not np.isfinite(following).all():
            break
        if np.abs(following - start).max() <= tol:
            return following
        start = following
    raise RuntimeError(f"no fixed point within {tol:g} after {most} rounds")


def root(index: np.ndarray, falling: Function, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(S,): where sum over the rows i of s of falling(v[index])_i, never increasing in v, passes 0.

    low, high (S,) are a first guess of where, and widened until they hold the crossing. States without rows: `low`.
    """
    size = len(low)

    def total(v: np.ndarray) -> np.ndarray:
        return np.bincount(index, falling(v[index]), minlength=size)

    here = np.bincount(index, minlength=size) > 0
    for _ in range(60):
        low_bad, high_bad = here & (total(low) < 0), here & (total(high) > 0)
        if not (low_bad | high_bad).any():
            break
        width = high - low + 1.0
        low, high = np.where(low_bad, low - width, low), np.where(high_bad, high + width, high)
    for _ in range(52):
        middle = (low + high) / 2
        above = total(middle) > 0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(here, (low + high) / 2, low)


@dataclass(frozen=True)
class Conjugate:
    """f*_+(y) = max over w >= 0 of w y - f(w) and where it is attained, from the values of f alone.

    On a grid of w the maximiser jumps where y passes the slope of a chord of f; between the jumps w is interpolated,
    which is exact for a parabola and good to 1e-6 of w for the others. Nothing is below `low` but 0, nor above `high`.
    """

    chord: np.ndarray
    middle: np.ndarray
    f: Function

    @classmethod
    def of(cls, name: str, low: float = 1e-8, high: float = 1e6) -> Conjugate:
        """Raises KeyError for an f that is not in F."""
        w, f = np.r_[0.0, np.geomspace(low, high, 40_001)], F[name]
        return cls(np.diff(f(w)) / np.diff(w), (w[1:] + w[:-1]) / 2, f)

    def ratio(self, y: np.ndarray) -> np.ndarray:
        return np.where(y < self.chord[0], 0.0, np.interp(y, self.chord, self.middle))

    def value(self, y: np.ndarray) -> np.ndarray:
        w = self.ratio(y)
        return w * y - self.f(w)

    def slope(self, w: float) -> float:
        """f'(w)."""
        return float(np.interp(w, self.middle, self.chord))
