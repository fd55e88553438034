"""Imitation learners on tables against their programs over occupancies, in cvxpy.

Nothing here knows `theory.objectives` or `theory.divergences`. Log-ratios are those of the counts, which the (linear)
discriminators can hold: demonstrations are the offline counts times a factor of the state and one of the action or of
the successor.
"""

from __future__ import annotations

import math
from functools import cache

import cvxpy as cp
import numpy as np
import pytest
import tables
import torch
from tables import batch, close, one_hot, probabilities, values

STATES, ACTIONS, GAMMA = 3, 2, 0.6
NEXT = np.array([[1, 1], [2, 0], [0, 1]])  # both actions of state 0 lead to 1: pairs of states do not tell them apart
OFFLINE = np.array([[3, 1], [2, 2], [1, 3]])
OF_STATE, OF_ACTION, OF_NEXT = np.array([1, 3, 1]), np.array([3, 1]), np.array([2, 1, 1])
BY_ACTION = OFFLINE * OF_STATE[:, None] * OF_ACTION
BY_PAIR = OFFLINE * OF_STATE[:, None] * OF_NEXT[NEXT]
START = np.array([0, 0, 1])
MU0 = np.bincount(START, minlength=STATES) / len(START)
END = ((2, 1),)  # pairs after which the episode ends, where a test wants any
OUT = np.repeat(np.eye(STATES), ACTIONS, 0).T  # (S, S * A): which pairs leave a state
INTO = np.eye(STATES)[NEXT.ravel()].T


def rows(expert, offline=OFFLINE, ends=()):
    """The learners' batch: both sets as often as makes them equally many, and the starts."""

    def columns(count):
        times = math.lcm(int(expert.sum()), int(offline.sum())) // int(count.sum())
        s, a = (np.repeat(x.ravel(), times * count.ravel()) for x in np.indices(count.shape))
        alive = ~np.isin(s * ACTIONS + a, [i * ACTIONS + j for i, j in ends])
        return batch(s, a, np.zeros(len(s)), NEXT[s, a], GAMMA * alive, STATES)

    mine = {f"expert_{name}": column for name, column in columns(expert).items()}
    return columns(offline) | mine | {"start_obs": one_hot(STATES)[START].unsqueeze(0)}


def share(count):
    """(S * A,) probabilities."""
    return count.ravel() / count.sum()


def flow(d, ends=(), mass=1.0):
    """d leaves every state as often as it enters; the multipliers are V, up to the sign that the solver likes."""
    alive = np.array([(i, j) not in ends for i, j in np.ndindex(STATES, ACTIONS)])
    return OUT @ d - GAMMA * (INTO * alive) @ d == mass * (1 - GAMMA) * MU0


def solved(gain, constraint, *more):
    cp.Problem(cp.Maximize(gain), [constraint, *more]).solve(solver="CLARABEL", tol_gap_abs=1e-10, tol_gap_rel=1e-10)
    return constraint.dual_value


def policy(mass):
    """(S, A)"""
    mass = np.asarray(mass).reshape(STATES, ACTIONS)
    return mass / mass.sum(1, keepdims=True)


def learn(key, table, **options):
    return tables.learn(key, table, **({"steps": 500, "lr": 0.1, "gamma": GAMMA} | options))


@cache
def smodice(name, temperature, nonneg=True, match="state_action"):
    """V, d: max E_d log(d_E / d_O) - T D_f(d || d_O)."""
    expert, behaviour = share(BY_ACTION), share(OFFLINE)
    if match == "state":
        reward = OUT.T @ np.log(OUT @ expert / (OUT @ behaviour))
    else:
        reward = np.log(expert / behaviour)
    d = cp.Variable(STATES * ACTIONS)
    if name == "kl":
        cost = cp.sum(cp.kl_div(d, behaviour))
    else:
        cost = cp.sum(cp.square(d - behaviour) @ np.diag(1 / behaviour))
    V = solved(reward @ d - temperature * cost, flow(d), *([d >= 0] if nonneg else []))
    return V, d.value


@pytest.mark.parametrize(
    ("name", "temperature", "variant", "match"),
    [
        ("chi2", 0.2, "paper", "state_action"),
        ("chi2", 0.2, "paper", "state"),
        ("chi2", 0.2, "official", "state_action"),
        ("kl", 0.7, "paper", "state_action"),
        ("kl", 0.7, "official", "state_action"),
    ],
)
def test_smodice_reaches_its_program(name, temperature, variant, match):
    signed = variant == "official" and name == "chi2"
    V, d = smodice(name, temperature, not signed, match)
    options = {"divergence": name, "temperature": temperature, "variant": variant, "match": match}
    learner = learn("smodice", rows(BY_ACTION), penalty=0.0, gamma=GAMMA, **options)
    ours = values(learner, STATES)
    if name == "kl" and variant == "official":  # the logarithm leaves a constant free
        ours, V = ours - ours.mean(), V - V.mean()
    assert close(ours, V), (ours, V)
    np.testing.assert_allclose(probabilities(learner, STATES), policy(d.clip(0)), atol=0.02)
    if name == "chi2" and match == "state_action":
        assert not close(ours, smodice(name, temperature, signed, match)[0])


@cache
def demodice(temperature, ends=()):
    """V, d: max E_d log(d_E / d_U) - T KL(d || d_U), mass left free by the generalised KL."""
    expert, union = share(BY_ACTION), share(OFFLINE)
    d = cp.Variable(STATES * ACTIONS, nonneg=True)
    V = solved(np.log(expert / union) @ d - temperature * cp.sum(cp.kl_div(d, union)), flow(d, ends))
    return V, d.value


@pytest.mark.parametrize(("normalised", "ends"), [(True, ()), (False, ()), (False, END)])
def test_demodice_reaches_its_program(normalised, ends):
    V, d = demodice(1.3, ends)
    options = {"normalised": normalised, "temperature": 1.3, "penalty": 0.0}
    learner = learn("demodice", rows(BY_ACTION, ends=ends), **options)
    ours = values(learner, STATES)
    if normalised:  # the logarithm leaves a constant free
        ours, V = ours - ours.mean(), V - V.mean()
    assert close(ours, V), (ours, V)
    np.testing.assert_allclose(probabilities(learner, STATES), policy(d), atol=0.02)


def beyond(table, ends):
    """The released treatment: an end leads to one more state, in which no row begins, at the usual discount."""
    wide = {name: torch.nn.functional.pad(x, (0, 1)) if x.ndim == 3 else x for name, x in table.items()}
    for part in ("", "expert_"):
        ended = wide[f"{part}discount"] == 0
        wide[f"{part}next_obs"] = torch.where(ended[..., None], one_hot(STATES + 1)[STATES], wide[f"{part}next_obs"])
        wide[f"{part}discount"] = torch.full_like(wide[f"{part}discount"], GAMMA)
    return wide


@pytest.mark.parametrize(("released", "normalised"), [(False, True), (True, True), (True, False)])
def test_a_normalised_or_released_kl_never_ends_an_episode(released, normalised):
    """E w = 1 and the flow together leave no mass for a pair that ends one, though the demonstrations have it; nor does
    a value after the end that only falls."""
    assert policy(demodice(1.0, END)[1])[END[0]] > 0.3
    table = rows(BY_ACTION, ends=END)
    options = {"penalty": 0.0, "normalised": normalised}
    learner = learn("demodice", beyond(table, END) if released else table, **options)
    assert probabilities(learner, STATES + released)[END[0]] < 0.05


@cache
def lobsdice(alpha):
    """V, d: max - KL(d(s, s') || d_E(s, s')) - alpha KL(d(s, a) || d_O(s, a))."""
    pairs = np.zeros((STATES * STATES, STATES * ACTIONS))
    pairs[np.repeat(np.arange(STATES), ACTIONS) * STATES + NEXT.ravel(), np.arange(STATES * ACTIONS)] = 1
    pairs = pairs[pairs.any(1)]
    d = cp.Variable(STATES * ACTIONS, nonneg=True)
    matched = cp.sum(cp.rel_entr(pairs @ d, pairs @ share(BY_PAIR)))
    V = solved(-matched - alpha * cp.sum(cp.rel_entr(d, share(OFFLINE))), flow(d))
    return V, d.value


@pytest.mark.parametrize(("closed_form", "normalised"), [(True, True), (True, False), (False, True)])
def test_lobsdice_reaches_its_program(closed_form, normalised):
    V, d = lobsdice(0.4)
    options = {"closed_form": closed_form, "normalised": normalised, "alpha": 0.4, "penalty": 0.0}
    learner = learn("lobsdice", rows(BY_PAIR), **options)
    ours = values(learner, STATES)
    assert close(ours - ours.mean(), V - V.mean()), (ours, V)
    np.testing.assert_allclose(probabilities(learner, STATES), policy(d), atol=0.02)


def test_the_released_weight_of_lobsdice_with_a_multiplier_is_another_alpha():
    """1 + alpha in the second term, as released: the program of alpha + 1."""
    learner = learn("lobsdice", rows(BY_PAIR), closed_form=False, alpha=1.1, penalty=0.0)
    ours = probabilities(learner, STATES)
    np.testing.assert_allclose(ours, policy(lobsdice(1.1)[1]), atol=0.02)
    assert np.abs(ours - policy(lobsdice(0.1)[1])).max() > 0.05


@cache
def iq_learn(alpha, temperature):
    """V, d: min alpha chi2(d || d_E) - T H(d), H the discounted entropy."""
    expert, d = share(BY_ACTION), cp.Variable(STATES * ACTIONS, nonneg=True)
    entropy = -cp.sum(cp.rel_entr(d, OUT.T @ (OUT @ d)))
    cost = cp.sum(cp.square(d - expert) @ np.diag(1 / expert))
    return solved(temperature * entropy - alpha * cost, flow(d)), d.value


@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 0.3), (2.0, 0.1)])
def test_iq_learn_reaches_its_program(alpha, temperature):
    V, d = iq_learn(alpha, temperature)
    options = {"alpha": alpha, "temperature": temperature, "gamma": GAMMA, "value": "initial"}
    learner = learn("iq_learn", rows(BY_ACTION), **options)
    np.testing.assert_allclose(probabilities(learner, STATES), policy(d), atol=0.02)
    ours = learner.value(one_hot(STATES).unsqueeze(0), "").detach()[0].numpy()
    assert close(ours, V), (ours, V)


def test_iq_learn_values_of_expert_states_are_those_of_starts_when_they_are_an_occupancy():
    """E_E V(s) - gamma V(s') = (1 - gamma) E V(s0) for every V, so that Q is the same."""
    count = np.array([[2, 2], [1, 4], [2, 4]])  # of a flow, with starts of its own
    net = count.sum(1) - GAMMA * INTO @ count.ravel()
    starts = np.repeat(np.arange(STATES), (5 * net).round().astype(int))
    table = rows(count) | {"start_obs": one_hot(STATES)[starts].unsqueeze(0)}
    ours = [
        probabilities(learn("iq_learn", table, temperature=0.3, value=value), STATES) for value in ("initial", "expert")
    ]
    np.testing.assert_allclose(*ours, atol=1e-3)


def test_released_iq_learn_starts_in_every_expert_state():
    """loss=v0 takes (1 - gamma) E V at all states of demonstrations, which is the optimum of other starts."""
    ours = policy(iq_learn(0.5, 0.3)[1])
    table = rows(BY_ACTION)
    released = learn(
        "iq_learn", table | {"start_obs": table["expert_obs"]}, alpha=0.5, temperature=0.3, value="initial"
    )
    assert np.abs(probabilities(released, STATES) - ours).max() > 0.05


BETA = 0.4
SHOWN, REST = np.array([[4, 0], [1, 3], [0, 4]]), np.array([[2, 2], [4, 0], [1, 3]])


@cache
def recoil(nonneg):
    """V, d, w: max - chi2(beta d + (1 - beta) d_S || mixture) over signed flows d; nonneg: w >= 0."""
    expert, rest = share(SHOWN), share(REST)
    mixture = BETA * expert + (1 - BETA) * rest
    d = cp.Variable(STATES * ACTIONS)
    w = cp.multiply(BETA * d + (1 - BETA) * rest, 1 / mixture)
    cost = cp.sum(cp.square(w - 1) @ np.diag(mixture))
    V = solved(-cost, flow(d), *([w >= 0] if nonneg else []))
    return V / BETA, d.value, w.value


@pytest.mark.parametrize("nonneg", [True, False])
def test_recoil_reaches_the_program_of_mixtures(nonneg):
    V, _, w = recoil(nonneg)
    options = {"value": "dual", "beta": BETA, "nonneg": nonneg}
    learner = learn("recoil", rows(SHOWN, REST), **options)
    assert close(values(learner, STATES), V), (values(learner, STATES), V)
    mass = BETA * share(SHOWN) * w.clip(0) + (1 - BETA) * share(REST) * (w.clip(0) - 1).clip(0)
    np.testing.assert_allclose(probabilities(learner, STATES), policy(mass), atol=0.02)


def test_recoil_is_value_iteration_with_the_chance_of_a_demonstration_as_reward():
    """Q = 2 beta d_E / mixture + gamma V(s'), V = T log E exp(Q / T) and pi = exp(3 (Q - V)) under the mixture."""
    expert, rest = share(SHOWN), share(REST)
    mixture = BETA * expert + (1 - BETA) * rest
    behaviour, v = policy(mixture), np.zeros(STATES)
    for _ in range(60):
        q = (2 * BETA * expert / mixture).reshape(STATES, ACTIONS) + GAMMA * v[NEXT]
        v = 0.5 * np.log((behaviour * np.exp(q / 0.5)).sum(1))
    learner = learn("recoil", rows(SHOWN, REST), beta=BETA, temperature=0.5)
    assert close(values(learner, STATES), v), (values(learner, STATES), v)
    weight = behaviour * np.exp(3 * (q - v[:, None]))
    np.testing.assert_allclose(probabilities(learner, STATES), policy(weight), atol=0.02)


def test_released_recoil_reaches_its_least_squares():
    """Q between 200 and - 2 + gamma V(s'), -200 after an end; V the released maximum over the offline rows alone."""
    expert, rest, T = share(SHOWN).reshape(STATES, ACTIONS), share(REST).reshape(STATES, ACTIONS), 100.0
    alive = np.ones((STATES, ACTIONS))
    alive[END[0]] = 0
    behaviour, v = policy(rest), np.zeros(STATES)
    for _ in range(60):
        backup = -2 + GAMMA * np.where(alive, v[NEXT], -200)
        q = (expert * 200 + rest * backup) / (expert + rest)
        v = T * np.log((behaviour * np.exp(q / T)).sum(1))
    options = {
        "variant": "official",
        "temperature": T,
        "inverse_temperature": 0.02,
        "lr": 3.0,
        "steps": 900,
        "parts": (1.0, 0.1, 0.01),
    }
    learner = learn("recoil", rows(SHOWN, REST, END), **options)
    assert close(values(learner, STATES), v), (values(learner, STATES), v)
    weight = behaviour * np.exp(0.02 * (q - v[:, None]))
    np.testing.assert_allclose(probabilities(learner, STATES), policy(weight), atol=0.02)
