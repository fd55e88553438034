"""OptiDICE on tables against its program in cvxpy: max over occupancies of E_d r - T D_f(d || d_D), with terminals.

The program knows neither `theory.objectives` nor `theory.divergences`; its weights are one per row of the data.
"""

from __future__ import annotations

from functools import cache

import cvxpy as cp
import numpy as np
import pytest
from tables import batch, close, learn, probabilities, values

from fenchel.algorithms import get_algorithm
from fenchel.algorithms.runner import Runner

STATES, ACTIONS, GAMMA, T = 3, 2, 0.6, 0.5
REWARD = np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.4]])
NEXT = np.array([[1, 2], [2, 0], [0, 1]])
COUNT = np.array([[3, 1], [2, 2], [1, 3]])  # rows of the data per (s, a)
START = np.array([0, 0, 1])  # where episodes began: another law than that of the rows
LUCK = {1: 0, 6: 2, 7: 1, 10: 2}  # rows that went elsewhere than NEXT, of the data with noise


def transitions(noise=False):
    """s, a, r, s', discount per row; (1, 1) is the best pair and ends the episode."""
    s, a = (x.ravel() for x in np.indices((STATES, ACTIONS)))
    s, a = np.repeat(s, COUNT.ravel()), np.repeat(a, COUNT.ravel())
    following = NEXT[s, a]
    if noise:
        following[list(LUCK)] = list(LUCK.values())
    return s, a, REWARD[s, a], following, GAMMA * ((s != 1) | (a != 1))


def penalty(name, w):
    """sum f(w) for cvxpy, and constraints of its own."""
    if name == "chi2":
        return cp.sum_squares(w - 1), []
    low = w if name == "kl" else cp.Variable(w.shape, nonneg=True)  # soft_chi2: kl up to 1, half of chi2 beyond
    kl = cp.sum(-cp.entr(low) - low + 1)
    return (kl, []) if name == "kl" else (kl + cp.sum_squares(w - low) / 2, [low <= 1, low <= w])


@cache
def program(name, noise=False, per_pair=False):
    """Value, weights of the rows and multipliers of the flow; per_pair: rows of one (s, a) share their weight."""
    s, a, r, following, discount = transitions(noise)
    n = len(s)
    group = s * ACTIONS + a if per_pair else np.arange(n)
    free = cp.Variable(group.max() + 1, nonneg=True)
    w = free[group]
    out, into = np.eye(STATES)[s].T / n, (np.eye(STATES)[following] * discount[:, None]).T / n
    flow = out @ w - into @ w == (1 - GAMMA) * np.bincount(START, minlength=STATES) / len(START)
    cost, more = penalty(name, w)
    value = cp.Problem(cp.Maximize((r @ w - T * cost) / n), [flow, *more]).solve(solver="CLARABEL")
    return value, w.value, flow.dual_value


def tilted(s, a, w):
    """The data's policy times the weights of its rows: (S, A)."""
    mass = np.zeros((STATES, ACTIONS))
    np.add.at(mass, (s, a), w)
    return mass / mass.sum(1, keepdims=True)


def trained(noise=False, steps=400, **options):
    rows = batch(*transitions(noise), STATES, start_obs=START)
    options = {"gamma": GAMMA, "temperature": T, "divergence": "soft_chi2"} | options
    learner = learn("optidice", rows, steps=steps, **options)
    loss, residual = learner.value_loss(rows)
    weights = learner.divergence.ratio(residual / T)[0].numpy()
    return learner, rows, loss.item(), residual[0].numpy(), weights


def constant_free(learner):
    """V plus lambda / (1 - gamma): the two share one constant."""
    return values(learner, STATES) + learner.multiplier().item() / (1 - GAMMA)


@pytest.mark.parametrize("extraction", ["weighted_bc", "information_projection"])
@pytest.mark.parametrize("name", ["soft_chi2", "chi2", "kl"])
def test_value_weights_and_policy_are_those_of_the_program(name, extraction):
    value, w, nu = program(name)
    learner, rows, loss, _, weights = trained(divergence=name, extraction=extraction)
    assert loss == pytest.approx(value, abs=1e-4)
    assert close(constant_free(learner), nu), (constant_free(learner), nu)
    np.testing.assert_allclose(weights, w, atol=0.01)
    s, a, *_ = transitions()
    np.testing.assert_allclose(probabilities(learner, STATES), tilted(s, a, w), atol=0.02)
    assert learner.update(rows)["mass"].item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["soft_chi2", "kl"])
def test_minimax_fits_the_same_residuals(name):
    learner, *_ = trained(divergence=name, residual_loss="minimax")
    s, a, *_ = transitions()
    np.testing.assert_allclose(probabilities(learner, STATES), tilted(s, a, program(name)[1]), atol=0.02)


def test_with_noise_the_value_is_that_of_weights_per_row_and_the_policy_averages_luck_out():
    value, _, nu = program("kl", noise=True)
    learner, rows, loss, residual, _ = trained(noise=True, divergence="kl", extraction="weighted_bc")
    assert loss == pytest.approx(value, abs=1e-4)
    assert value > program("kl", noise=True, per_pair=True)[0] + 5e-4  # the bias of one next state per row
    assert close(constant_free(learner), nu)
    s, a, *_ = transitions()
    pair = s * ACTIONS + a
    mean = np.array([residual[pair == i].mean() for i in pair])
    estimate = learner.residual(rows)[0, 0].detach().numpy()
    np.testing.assert_allclose(estimate, mean, atol=0.01)
    np.testing.assert_allclose(probabilities(learner, STATES), tilted(s, a, np.exp(mean / T)), atol=0.02)
    log_prob = learner.policy.log_prob(rows["obs"], rows["action"])[0].detach().numpy()
    loss = -(np.exp(estimate / T) * log_prob).mean()  # not of the rows' own residuals
    assert learner.update(rows)["policy_loss"].item() == pytest.approx(loss, rel=1e-9)


def test_official_mass_forbids_the_terminal_step_that_the_optimum_takes():
    """E w = 1 beside a flow that leaks at terminals: no occupancy that ever ends satisfies both."""
    ends = transitions()[4] == 0
    assert program("soft_chi2")[1][ends] == pytest.approx(1.34, abs=0.01)
    learner, rows, loss, _, weights = trained(variant="official", steps=600, parts=(1.0,))
    assert weights[ends].max() < 0.1
    assert weights.mean() == pytest.approx(1, abs=0.02)
    before = values(learner, STATES)
    for _ in range(200):
        learner.update(rows)
    assert learner.value_loss(rows)[0].item() < loss  # V has no minimum to reach
    assert (values(learner, STATES) > before + 0.1).all()


def test_official_chi2_projection_forgets_the_weights_below_one():
    """There log w is log 1e-10 wherever w < 1, also where w is 0.8 or 0.3."""
    learner, rows, _, _, weights = trained(divergence="chi2", steps=300)
    between = (weights > 0.05) & (weights < 0.95)
    assert between.any()
    y = learner.residual(rows)[:, 0].detach()
    corrected = learner.log_weight(y)[0].numpy()
    np.testing.assert_allclose(corrected[between], np.log(weights[between]), atol=0.05)
    learner.h.variant = "official"
    np.testing.assert_allclose(learner.log_weight(y)[0].numpy()[between], np.log(1e-10))


def test_first_states_are_drawn_apart_from_the_rows(make, tasks):
    data = tasks["box"].dataset()
    learner = make("optidice", "box", seeds=[3, 5], batch_size=64)
    learner.observe(data)
    source = learner.sampler(data)
    first = {tuple(row.tolist()) for row in learner.normalise(data.obs[data.episode_starts])}
    seen = [source(step) for step in range(40)]
    drawn = {tuple(row.tolist()) for b in seen for row in b["start_obs"].flatten(0, 1)}
    assert drawn <= first
    assert len(drawn) > 0.9 * len(first)
    pairs = {}
    for b in seen:
        for row, start in zip(b["obs"].flatten(0, 1).tolist(), b["start_obs"].flatten(0, 1).tolist(), strict=True):
            pairs.setdefault(tuple(row), set()).add(tuple(start))
    assert max(map(len, pairs.values())) > 3  # one row stands beside many first states


@pytest.mark.parametrize("key", ["optidice", "odice", "f_dvl"])
def test_kl_overflow_is_reported_and_the_others_go_on(key, tasks):
    """exp(e / T) beyond what the dtype can square: the loop finds the replica by its loss, before any checkpoint."""
    options = {"hidden": (5,), "batch_size": 7, "divergence": "kl", "temperature": [1e-3, 1.0]}
    learner = get_algorithm(key)(tasks["discrete"].spec, options, [3, 3])
    losses = Runner(learner, learner.source(tasks["discrete"])).advance(3)
    assert losses["value_loss"].isfinite().tolist() == [False, True]
    assert all(t.isfinite().all() for name, t in learner.state_dict().items() if name.endswith("flat"))
