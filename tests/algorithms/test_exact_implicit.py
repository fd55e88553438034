"""IQL and IVL on tables: expectiles against a scalar root, with transitions that are partly luck."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from tables import batch, close, learn, one_hot, probabilities, values

from fenchel.algorithms import get_algorithm
from fenchel.envs.spec import Discrete, Spec

STATES, ACTIONS, GAMMA, EXPECTILE = 3, 2, 0.6, 0.8
S = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
A = np.array([0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1])
FOLLOWING = np.array([1, 1, 2, 2, 2, 0, 0, 0, 0, 1, 1, 2])  # (0, 0), (1, 0) and (2, 1) lead to two states
END = np.arange(len(S)) == 7
REWARD = np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.4]])[S, A]
DISCOUNT = GAMMA * ~END


def expectile(q):
    def slope(v):
        return EXPECTILE * np.maximum(q - v, 0).sum() - (1 - EXPECTILE) * np.maximum(v - q, 0).sum()

    return brentq(slope, -9, 9)


def weight(q, v):
    return np.where(q < v, 1 - EXPECTILE, EXPECTILE)


def backups(v, average):
    """r + gamma V(s') of every row; average: the mean over the rows of its (s, a), which is Q."""
    q = REWARD + DISCOUNT * v[FOLLOWING]
    return np.array([q[(s == S) & (a == A)].mean() for s, a in zip(S, A, strict=True)]) if average else q


def fixed_point(average):
    v = np.zeros(STATES)
    for _ in range(60):
        q = backups(v, average)
        v = np.array([expectile(q[s == S]) for s in range(STATES)])
    return v


@pytest.mark.parametrize(("key", "average"), [("iql", True), ("ivl", False)])
def test_value_is_the_expectile_and_w_the_policy_that_it_implies(key, average):
    exact = fixed_point(average)
    rows = batch(S, A, REWARD, FOLLOWING, DISCOUNT, STATES)
    learner = learn(key, rows, steps=600, expectile=EXPECTILE, extraction="w", gamma=GAMMA)
    assert close(values(learner, STATES), exact), (values(learner, STATES), exact)
    q = backups(exact, average)
    policy = np.zeros((STATES, ACTIONS))
    np.add.at(policy, (S, A), weight(q, exact[S]))
    policy /= policy.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(learner, STATES), policy, atol=0.02)
    implied = np.array([np.average(q[s == S], weights=weight(q, exact[s])[s == S]) for s in range(STATES)])
    np.testing.assert_allclose(implied, exact, atol=1e-6)  # V is that policy's own mean of the backup


def test_ivl_weighs_by_the_smaller_target_and_each_head_follows_its_own():
    """The loss at the first update, in NumPy: linear values of one-hot states."""
    rows = batch(S, A, REWARD, FOLLOWING, DISCOUNT, STATES)
    options = {"hidden": (), "expectile": EXPECTILE, "gamma": GAMMA}
    learner = get_algorithm("ivl")(Spec(STATES, Discrete(ACTIONS)), options, dtype=torch.float64)
    learner.target.flat.add_(torch.linspace(-1, 1, learner.target.flat.numel(), dtype=torch.float64))
    v, slow = (net(one_hot(STATES)[None])[0].detach().numpy() for net in (learner.value, learner.target))
    advantage = REWARD + DISCOUNT * slow.min(0)[FOLLOWING] - slow.mean(0)[S]
    loss = sum(weight(advantage, 0) @ (REWARD + DISCOUNT * slow[i][FOLLOWING] - v[i][S]) ** 2 for i in range(2))
    assert (advantage < 0).any()
    assert learner.update(rows)["value_loss"].item() == pytest.approx(loss / len(S), rel=1e-9)


def test_ivl_counts_luck_as_skill():
    """With noisy transitions its value lies above IQL's everywhere."""
    assert (fixed_point(average=False) > fixed_point(average=True) + 0.01).all()


def test_awr_weighs_by_the_advantage_with_reward_and_discount():
    exact = fixed_point(average=False)
    rows = batch(S, A, REWARD, FOLLOWING, DISCOUNT, STATES)
    learner = learn("ivl", rows, steps=600, expectile=EXPECTILE, temperature=0.7, gamma=GAMMA)
    policy = np.zeros((STATES, ACTIONS))
    np.add.at(policy, (S, A), np.exp(0.7 * (backups(exact, average=False) - exact[S])))
    np.testing.assert_allclose(probabilities(learner, STATES), policy / policy.sum(1, keepdims=True), atol=0.02)
