"""The regulator's closed forms against simulation, minimisation and integration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from fenchel.theory.referees.quadratic import Quadratic, pulled, soft

RNG = np.random.default_rng(5)
PROBLEM = Quadratic(
    np.array([[1.0, 0.2], [-0.1, 0.9]]), np.array([[0.0], [0.3]]), np.diag([1.0, 0.2]), np.array([[0.5]]), 0.9
)
STATES = RNG.normal(size=(400, 2))
BEHAVIOUR = np.array([[0.1, -0.2]])


def rolled(K, state, penalty=0.0):
    """Discounted cost of a = K s from each state, step by step; penalty on |K s - BEHAVIOUR s|^2 as well."""
    total = np.zeros(len(state))
    for t in range(400):
        a, off = state @ K.T, state @ (K - BEHAVIOUR).T
        cost = np.einsum("ni,ij,nj->n", state, PROBLEM.Q, state) + np.einsum("ni,ij,nj->n", a, PROBLEM.R, a)
        total += 0.9**t * (cost + penalty * (off**2).sum(1))
        state = state @ PROBLEM.A.T + a @ PROBLEM.B.T
    return total


def test_costs_and_the_optimum():
    K = np.array([[-0.3, -0.4]])
    W = PROBLEM.cost(K)
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", STATES, W, STATES), rolled(K, STATES), rtol=1e-9)
    best = minimize(lambda k: rolled(k.reshape(1, 2), STATES[:20]).sum(), np.zeros(2), tol=1e-10).x
    np.testing.assert_allclose(PROBLEM.optimum()[0], best, atol=1e-4)


@pytest.mark.parametrize(("scale", "own", "critic"), [(2.5, 1.0, 0.0), (1.0, 0.1, 0.8)])
def test_pulled_gains_minimise_the_actors_loss_at_their_own_critic(scale, own, critic):
    variance = 0.12
    found = pulled(PROBLEM, BEHAVIOUR, variance, STATES, scale=scale, policy_penalty=own, critic_penalty=critic)

    def q(state, action):
        """- cost now - gamma (cost to go + penalty and its noise), by running the gain."""
        cost = np.einsum("ni,ij,nj->n", state, PROBLEM.Q, state) + PROBLEM.R[0, 0] * action[:, 0] ** 2
        following = state @ PROBLEM.A.T + action @ PROBLEM.B.T
        return -cost - 0.9 * (rolled(found.K, following, critic) + critic * variance / (1 - 0.9))

    few = STATES[:50]
    np.testing.assert_allclose(
        PROBLEM.values(found.W, found.constant, few, few @ BEHAVIOUR.T), q(few, few @ BEHAVIOUR.T)
    )
    norm = np.abs(q(STATES, STATES @ found.K.T)).mean()

    def loss(k):
        a = few @ k.reshape(1, 2).T
        return (-scale * q(few, a) / norm + own * ((a - few @ BEHAVIOUR.T) ** 2).sum(1)).mean()

    np.testing.assert_allclose(found.K[0], minimize(loss, BEHAVIOUR[0], tol=1e-10).x, atol=1e-4)


def test_without_a_next_step_the_gain_is_a_weighted_mean():
    problem = Quadratic(PROBLEM.A, PROBLEM.B, PROBLEM.Q, PROBLEM.R, 0.0)
    found = pulled(problem, BEHAVIOUR, 0.1, STATES, scale=2.5)
    cost = np.einsum("ni,ij,nj->n", STATES, PROBLEM.Q, STATES) + 0.5 * (STATES @ found.K.T)[:, 0] ** 2
    np.testing.assert_allclose(found.K, BEHAVIOUR / (1 + 2.5 * 0.5 / cost.mean()), rtol=1e-9)


def test_soft_policies_have_the_entropy_and_the_value():
    """pi proportional to exp(Q / temperature) on a grid; the critic is its own soft backup."""
    found, a = soft(PROBLEM, -1.0), np.linspace(-6, 6, 20_001)
    state = np.tile([[0.5, -0.3]], (len(a), 1))
    q = PROBLEM.values(found.W, found.constant, state, a[:, None])
    p = np.exp((q - q.max()) / found.temperature)
    p /= p.sum() * (a[1] - a[0])
    log_p, mass = np.log(np.maximum(p, 1e-300)), p * (a[1] - a[0])
    assert -(mass * log_p).sum() == pytest.approx(-1.0, abs=1e-6)
    assert mass @ a == pytest.approx(float(found.K[0] @ state[0]), abs=1e-6)
    value = mass @ (q - found.temperature * log_p)
    before = np.linalg.solve(PROBLEM.A, state[0])  # whence a = 0 leads here
    now = PROBLEM.values(found.W, found.constant, before[None], np.zeros((1, 1)))[0]
    assert now == pytest.approx(-before @ PROBLEM.Q @ before + 0.9 * value, abs=1e-6)
