"""Dual learners on tables: one-hot states, linear networks, every transition in every batch, against NumPy and cvxpy.

The answers here know neither `theory.objectives` nor `theory.divergences`: conjugates are maxima over a grid of w.
"""

from __future__ import annotations

from functools import cache

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from tables import batch, close, learn, probabilities, values

STATES, ACTIONS, GAMMA = 3, 2, 0.6
REWARD = np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.4]])
NEXT = np.array([[1, 2], [2, 0], [0, 1]])
COUNT = np.array([[3, 1], [2, 2], [1, 3]])  # rows of the data per (s, a)
GRID = np.linspace(1e-9, 16.0, 4_001)
F = {
    "chi2": lambda w: (w - 1) ** 2,
    "kl": lambda w: w * np.log(w) - w + 1,
    "soft_chi2": lambda w: np.where(w < 1, w * np.log(w) - w + 1, (w - 1) ** 2 / 2),
    "tv": lambda w: abs(w - 1) / 2,
}


@cache
def table(name):
    return F[name](GRID)


def conjugate(name, y):
    """max over w >= 0 of w y - f(w), and where it is attained."""
    gain = y * GRID - table(name)
    best = gain.argmax()
    return gain[best], GRID[best]


def transitions():
    s, a = (x.ravel() for x in np.indices((STATES, ACTIONS)))
    s, a = np.repeat(s, COUNT.ravel()), np.repeat(a, COUNT.ravel())
    return s, a, REWARD[s, a], NEXT[s, a]


def rows():
    return batch(*transitions(), GAMMA, STATES)


def implicit_maximum(name, q, p, lam, temperature):
    """argmin over v of (1 - lam) v + lam T E f*((q - v) / T + c), c = f'((1 - lam) / lam)."""
    if name == "tv":
        order = np.argsort(q)
        return q[order][np.searchsorted(np.cumsum(p[order]), 2 - 1 / lam)]
    if name == "kl":
        return temperature * np.log(p @ np.exp(q / temperature))
    w, step = (1 - lam) / lam, 1e-6
    centre = (F[name](np.array(w + step)) - F[name](np.array(w - step))) / (2 * step)

    def slope(v):
        return (1 - lam) - lam * p @ [conjugate(name, (x - v) / temperature + centre)[1] for x in q]

    return brentq(slope, q.min() - 5, q.max() + 5, xtol=1e-6)


def fixed_point(backup):
    """Iterates s, Q of its rows -> V(s) to the end."""
    s, _, r, following = transitions()
    v = np.zeros(STATES)
    for _ in range(18):
        v = np.array([backup((r + GAMMA * v[following])[s == i]) for i in range(STATES)])
    return v


def regularised_maximum(name, q, behaviour, temperature):
    """argmax over policies of E_pi q - T D_f(pi || behaviour), two actions: the probability of action 1."""

    def loss(x):
        pi = np.array([1 - x, x])
        return -(pi @ q) + temperature * behaviour @ F[name](pi / behaviour)

    return minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded").x


@pytest.mark.parametrize(
    ("name", "lam", "temperature"), [("chi2", 0.5, 0.7), ("chi2", 0.8, 1.0), ("kl", 0.5, 0.7), ("tv", 0.7, 1.0)]
)
def test_f_dvl_reaches_its_fixed_point(name, lam, temperature):
    exact = fixed_point(lambda q: implicit_maximum(name, q, np.full(len(q), 1 / len(q)), lam, temperature))
    options = {"divergence": name, "lam": lam, "temperature": temperature, "gamma": GAMMA}
    learner = learn("f_dvl", rows(), extraction="w", **options)
    assert close(values(learner, STATES), exact), (values(learner, STATES), exact)
    if lam != 0.5:
        return
    policy = probabilities(learner, STATES)[:, 1]
    q, behaviour = REWARD + GAMMA * exact[NEXT], COUNT / COUNT.sum(1, keepdims=True)
    best = [regularised_maximum(name, q[i], behaviour[i], temperature) for i in range(STATES)]
    np.testing.assert_allclose(policy, best, atol=0.02)


LAM, ETA = 0.6, 0.7


@cache
def odice_true():
    """V is the multiplier of the flow constraints: max over w >= 0 of lam E[w r - f(w)], cvxpy."""
    s, _, r, following = transitions()
    out, into = np.eye(STATES)[s].T / len(s), np.eye(STATES)[following].T / len(s)
    w = cp.Variable(len(s), nonneg=True)
    flow = LAM * (out @ w - GAMMA * into @ w) == (1 - LAM) * out.sum(1)
    gain = LAM * (r @ w - cp.sum_squares(w - 1)) / len(s)
    cp.Problem(cp.Maximize(gain), [flow]).solve(solver="CLARABEL")
    return flow.dual_value


@cache
def odice_semi():
    """E[w*(r + gamma V(s') - V(s)) | s] = (1 - lam) / lam."""

    def solve(q):
        return brentq(lambda v: np.maximum(1 + (q - v) / 2, 0).mean() - (1 - LAM) / LAM, q.min() - 9, q.max() + 9)

    return fixed_point(solve)


@cache
def odice_orthogonal():
    """Descent along the projected direction; a table is a linear network with a bias, which the product must count."""
    s, _, r, following = transitions()
    n, eye, v = len(s), np.eye(STATES), np.zeros(STATES)
    for _ in range(1500):
        w = np.maximum(1 + (r + GAMMA * v[following] - v[s]) / 2, 0)
        forward, backward = -LAM * w @ eye[s] / n, LAM * ETA * GAMMA * w @ eye[following] / n

        def product(a, b):
            return a @ b + a.sum() * b.sum()

        share = product(backward, forward) / product(forward, forward)
        total = (1 - LAM) * eye[s].mean(0) + forward + backward - share * forward
        v = v - 0.3 * (total + total.sum())
    assert np.abs(total).max() < 1e-6
    return v


ODICE = {"true": odice_true, "semi": odice_semi, "orthogonal": odice_orthogonal}


@pytest.mark.parametrize("gradient", ODICE)
def test_odice_reaches_its_optimum(gradient):
    exact = ODICE[gradient]()
    learner = learn("odice", rows(), gradient=gradient, lam=LAM, eta=ETA, gamma=GAMMA)
    assert close(values(learner, STATES), exact), (values(learner, STATES), exact)
    others = [other() for name, other in ODICE.items() if name != gradient]
    assert not any(close(values(learner, STATES), other) for other in others)


def test_odice_weighs_actions_by_the_optimal_ratio():
    """pi proportional to the data's counts times w*, after the semi-gradient's fixed point."""
    v = odice_semi()
    mass = COUNT * np.maximum(1 + (REWARD + GAMMA * v[NEXT] - v[:, None]) / 2, 0)
    learner = learn("odice", rows(), gradient="semi", lam=LAM, gamma=GAMMA)
    np.testing.assert_allclose(probabilities(learner, STATES), mass / mass.sum(1, keepdims=True), atol=0.02)
