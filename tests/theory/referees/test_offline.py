"""Referees of offline methods, each by a third way: the loss minimised, the primal in cvxpy, the policy evaluated.

A small data set with stochastic successors, terminals in some rows, and a pair and a state that no row has.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from fenchel.theory.referees import dice, offline
from fenchel.theory.referees.transitions import Conjugate, F, Transitions, fixed_point

S, A, GAMMA = 4, 3, 0.8
CONVEX = {"chi2": lambda w: cp.square(w - 1), "kl": lambda w: cp.kl_div(w, 1)}
SLOPE = {"chi2": lambda w: 2 * (w - 1), "kl": np.log}  # f'


@pytest.fixture(scope="module")
def rows():
    """state, action, reward, following, discount: 200 rows of states 0 to 2; state 3 is only reached by terminals."""
    rng = np.random.default_rng(7)
    s, a = rng.integers(3, size=200), rng.integers(A, size=200)
    a = np.where((s == 1) & (a == 2), 0, a)
    terminal = (s == 2) & (rng.random(200) < 0.3)
    following = np.where(terminal, 3, (s + a + (rng.random(200) < 0.4)) % 3)
    return s, a, np.round(np.sin(3 * s + 2 * a + following), 3), following, GAMMA * ~terminal


@pytest.fixture(scope="module")
def data(rows):
    return Transitions.count(*rows, S, A)


def per_state(data, s):
    """share within the state, action, reward, discount, following of its rows."""
    here = data.state == s
    return data.share[here] / data.share[here].sum(), here


def test_counts(rows, data):
    s, a, r, t, d = rows
    assert data.share.sum() == pytest.approx(1)
    assert data.mass[1, 2] == 0
    assert not data.visited[3]
    V = np.arange(4.0)
    assert data.mean(data.backup(V))[0, 1] == pytest.approx(np.mean((r + d * V[t])[(s == 0) & (a == 1)]))
    with pytest.raises(ValueError, match=r"states \[3\]"):
        Transitions.count(s, a, r, t, np.full(200, GAMMA), S, A)


def test_policies_are_weighted_shares(data):
    pi = data.policy(np.ones((S, A)))
    np.testing.assert_allclose(pi[0], data.mass[0] / data.mass[0].sum())
    np.testing.assert_allclose(pi[3], 1 / 3)


@pytest.mark.parametrize("name", F)
def test_conjugates_are_maxima_over_a_grid(name):
    grid, conjugate = np.linspace(0, 60, 600_001), Conjugate.of(name)
    for y in (-5.0, -2.1, -0.9, 0.0, 0.4, 3.5):
        gain = grid * y - F[name](grid)
        assert conjugate.value(np.array(y)) == pytest.approx(gain.max(), abs=1e-6)
        assert conjugate.ratio(np.array(y)) == pytest.approx(grid[gain.argmax()], abs=2e-4)


def test_what_does_not_settle_says_so():
    for operator in (lambda x: -x, lambda x: x * np.inf):
        with pytest.raises(RuntimeError, match="no fixed point"):
            fixed_point(operator, np.ones(2), most=50)


def expectile_loss(x, v, tau):
    return np.where(x > v, tau, 1 - tau) * (x - v) ** 2


def test_iql_minimises_its_loss_given_itself(data):
    """V of the pairs' Q, whose rows' mean is the Bellman target; not the expectile of the rows themselves, as IVL."""
    found = offline.iql(data, tau=0.8, inverse_temperature=2.0, max_weight=2.0)
    rows_own = offline.ivl(data, tau=0.8, inverse_temperature=2.0)
    np.testing.assert_allclose(found.Q, data.mean(data.reward + data.discount * found.V[data.following]), atol=1e-8)
    for s in range(3):
        share, here = per_state(data, s)
        q = found.Q[s, data.action[here]]
        best = minimize_scalar(lambda v, q=q, share=share: share @ expectile_loss(q, v, 0.8), bounds=(-9, 9)).x
        assert found.V[s] == pytest.approx(best, abs=1e-5)
        x = data.backup(rows_own.V)[here]
        best = minimize_scalar(lambda v, x=x, share=share: share @ expectile_loss(x, v, 0.8), bounds=(-9, 9)).x
        assert rows_own.V[s] == pytest.approx(best, abs=1e-5)
        w = data.mass[s] * np.minimum(np.exp(2 * (found.Q[s] - found.V[s])), 2)
        np.testing.assert_allclose(found.policy[s], w / w.sum(), rtol=1e-9)
    assert np.abs(found.V - rows_own.V).max() > 0.05
    assert found.weight.max() == 2


def test_the_expectiles_own_policy_has_its_value(data):
    """V is the mean of the backup under the weights |tau - 1(A < 0)|."""
    found = offline.ivl(data, tau=0.8, inverse_temperature=None)
    for s in range(3):
        share, here = per_state(data, s)
        x = data.backup(found.V)[here]
        w = share * np.where(x < found.V[s], 0.2, 0.8)
        assert found.V[s] == pytest.approx(w @ x / w.sum(), abs=1e-7)


@pytest.mark.parametrize("lam", [0.5, 0.7])
@pytest.mark.parametrize("name", CONVEX)
def test_f_dvl_is_its_primal(name, lam, data):
    """max E w q - T E f(w) with E w = (1 - lam) / lam: V is the multiplier plus T f' there, and w the weights."""
    T, m = 0.6, (1 - lam) / lam
    found = offline.f_dvl(data, divergence=name, lam=lam, temperature=T)
    for s in range(3):
        b = data.mass[s][data.mass[s] > 0] / data.mass[s].sum()
        q, w = found.Q[s][data.mass[s] > 0], cp.Variable(len(b), nonneg=True)
        mass = b @ w == m
        cp.Problem(cp.Maximize((b * q) @ w - T * b @ CONVEX[name](w)), [mass]).solve(solver=cp.CLARABEL)
        assert found.V[s] == pytest.approx(float(mass.dual_value) + T * SLOPE[name](m), abs=1e-4)
        if name == "kl":
            assert found.V[s] == pytest.approx(T * np.log(b @ np.exp(q / T)), abs=1e-6)
        np.testing.assert_allclose(found.policy[s][data.mass[s] > 0], b * w.value / m, atol=1e-4)


def test_f_dvl_tv_is_a_quantile_with_mass_at_it(data):
    lam = 0.8
    found = offline.f_dvl(data, divergence="tv", lam=lam, temperature=1.0)
    for s in range(3):
        b, used = data.mass[s] / data.mass[s].sum(), data.mass[s] > 0
        w = cp.Variable(A, nonneg=True)  # f = 0 on [0, 1]
        mass = b @ w == (1 - lam) / lam
        gain = cp.Problem(cp.Maximize((b * found.Q[s]) @ w), [mass, w <= 1]).solve(solver=cp.CLARABEL)
        assert float(found.policy[s] @ found.Q[s]) == pytest.approx(gain * lam / (1 - lam), abs=1e-6)
        assert (np.abs(found.Q[s][used] - found.V[s]) < 1e-8).any()
        assert np.isnan(found.weight[s]).all()


def test_awac_is_the_value_of_its_own_policy(data):
    found = offline.awac(data, inverse_temperature=3.0, max_weight=5.0)
    P, r = np.zeros((S, S)), np.zeros(S)
    for s, a, reward, t, d, p in zip(
        data.state, data.action, data.reward, data.following, data.discount, data.share, strict=True
    ):
        P[s, t] += found.policy[s, a] * p / data.mass[s, a] * d
        r[s] += found.policy[s, a] * p / data.mass[s, a] * reward
    V = np.linalg.solve(np.eye(S) - P, r)
    np.testing.assert_allclose(found.V[:3], V[:3], atol=1e-7)
    w = data.mass[:3] * np.minimum(np.exp(3 * (found.Q - V[:, None])[:3]), 5)
    np.testing.assert_allclose(found.policy[:3], w / w.sum(1, keepdims=True), atol=1e-7)


def test_cql_minimises_its_loss_given_itself(data):
    alpha, found = 0.7, offline.cql(data, alpha=0.7)
    y = data.mean(data.reward + data.discount * found.V[data.following])
    for s in range(3):
        used = data.mass[s] > 0
        b = data.mass[s][used] / data.mass[s].sum()

        def loss(q, s=s, used=used, b=b):
            return alpha * (np.log(np.exp(q).sum()) - b @ q) + b @ (q - y[s][used]) ** 2

        best = minimize(loss, np.zeros(used.sum()), tol=1e-12).x
        np.testing.assert_allclose(found.Q[s][used], best, atol=1e-5)
        assert found.V[s] == pytest.approx(best.max(), abs=1e-5)
        assert found.policy[s, np.flatnonzero(used)[best.argmax()]] == 1


ODICE = {"lam": 0.6, "temperature": 0.7}


def conjugate(name, y):
    w = np.linspace(1e-9, 60, 60_001)
    return (np.multiply.outer(y, w) - F[name](w)).max(-1)


@pytest.mark.parametrize("name", CONVEX)
def test_odice_semi_minimises_its_loss_given_itself(name, data):
    found = dice.semi(data, divergence=name, **ODICE)
    for s in range(3):
        share, here = per_state(data, s)
        x = data.reward[here] / 0.7 + data.discount[here] * found.V[data.following[here]]
        best = minimize_scalar(lambda v, x=x, p=share: 0.4 * v + 0.6 * p @ conjugate(name, x - v), bounds=(-5, 9)).x
        assert found.V[s] == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("name", CONVEX)
def test_odice_true_and_optidice_are_their_primals(name, data):
    """The occupancy programs by an interior-point method."""
    out, into = np.eye(S)[data.state].T, np.eye(S)[data.following].T * data.discount
    start, p = np.array([0.2, 0.5, 0.3, 0.0]), data.share
    cases = [
        (dice.true(data, divergence=name, **ODICE), data.reward / 0.7, 1.0, 0.4 / 0.6 * data.mass.sum(1)),
        (
            dice.optidice(data, start, divergence=name, gamma=GAMMA, temperature=0.3),
            data.reward,
            0.3,
            (1 - GAMMA) * start,
        ),
    ]
    for found, reward, weight, right in cases:
        w = cp.Variable(len(p), nonneg=True)
        flow = ((out - into) * p)[:3] @ w == right[:3]
        gain = (p * reward) @ w - weight * p @ CONVEX[name](w)
        cp.Problem(cp.Maximize(gain), [flow]).solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(found.V[:3], flow.dual_value, atol=2e-4)


def test_optidice_leaves_open_what_its_optimum_does_not_visit():
    """A start that only leads to a good end: the other state, which leads nowhere, has no occupancy and no one V."""
    rows = [(0, 0, 1.0, 2, 0.0)] * 5 + [(0, 1, -9.0, 1, 0.5)] * 5 + [(1, 0, -9.0, 2, 0.0)] * 5
    data = Transitions.count(*np.array(rows).T, 3, 2)
    found = dice.optidice(data, np.array([1.0, 0, 0]), divergence="chi2", gamma=0.5, temperature=0.1)
    assert np.isfinite(found.V[0])
    assert np.isnan(found.V[1])
    assert np.isnan(found.weight[0, 1])
    np.testing.assert_allclose(found.policy[0], [1, 0], atol=1e-6)


def direction(V, data, share, eta, features):
    """ODICE's direction in the parameters of V = features theta, chi2, for one law of rows."""
    e = data.reward / 0.7 + data.discount * V[data.following] - V[data.state]
    w = share * np.maximum(1 + e / 2, 0)
    forward = -0.6 * w @ features[data.state]
    backward = 0.6 * eta * (w * data.discount) @ features[data.following]
    return (
        0.4 * data.share @ features[data.state]
        + forward
        + backward
        - backward @ forward / (forward @ forward) * forward
    )


@pytest.mark.parametrize("batch", [None, 16])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_odice_orthogonal_stands_still(batch, scale, data):
    """Its direction is 0, with the features it was told, in the population and in the mean over other batches."""
    features = np.c_[scale * np.eye(S), np.ones(S)]
    found = dice.orthogonal(data, features, divergence="chi2", eta=0.8, batch=batch, **ODICE)
    rng = np.random.default_rng(1)
    laws = [data.share] if batch is None else rng.multinomial(batch, data.share, 20_000) / batch
    found_direction = np.mean([direction(found.V, data, law, 0.8, features) for law in laws], 0)
    noise = 1e-6 if batch is None else 4e-3
    assert np.abs(found_direction).max() < noise
    other = dice.orthogonal(data, np.c_[np.eye(S) / scale, np.ones(S)], divergence="chi2", eta=0.8, **ODICE)
    away = np.mean([direction(other.V, data, law, 0.8, features) for law in laws[:2000]], 0)
    assert (np.abs(away).max() > 2 * noise) == (batch is not None or scale != 1.0)
