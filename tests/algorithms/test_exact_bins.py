"""Critics as classifiers on tables: they reach the values that squared errors reach, and stay there under outliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tables import batch, learn, one_hot

from fenchel.algorithms.networks import Bins, Critic
from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.theory.rng import Streams

STATES, ACTIONS, GAMMA = 3, 2, 0.6
REWARD = np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.4]])
NEXT = np.array([[1, 2], [2, 0], [0, 1]])
COUNT = np.array([[3, 1], [2, 2], [1, 3]])  # rows of the data per (s, a)
SPAN = (-8.0, 8.0)


def rows():
    s, a = (np.repeat(x.ravel(), COUNT.ravel()) for x in np.indices((STATES, ACTIONS)))
    return batch(s, a, REWARD[s, a], NEXT[s, a], GAMMA, STATES)


def data_values():
    """Q of the policy that made the data."""
    policy = COUNT / COUNT.sum(1, keepdims=True)
    move = np.zeros((STATES, ACTIONS, STATES, ACTIONS))
    for s, a in np.ndindex(STATES, ACTIONS):
        move[s, a, NEXT[s, a]] = policy[NEXT[s, a]]
    size = STATES * ACTIONS
    return np.linalg.solve(np.eye(size) - GAMMA * move.reshape(size, size), REWARD.ravel()).reshape(STATES, ACTIONS)


@pytest.mark.parametrize("loss", ["hl_gauss", "two_hot"])
def test_iql_at_the_mean_evaluates_the_data(loss):
    """expectile = 1/2: V is the mean of Q over the data's actions."""
    options = {"value_loss": loss, "value_range": SPAN, "expectile": 0.5, "gamma": GAMMA, "lr": 0.1}
    learner = learn("iql", rows(), 600, parts=(1.0, 0.3, 0.1), **options)
    q = learner.critic.table(one_hot(STATES).unsqueeze(0)).detach().mean(1)[0].numpy()
    np.testing.assert_allclose(q, data_values(), atol=0.02)


def test_cql_without_its_penalty_is_q_learning():
    options = {"value_loss": "hl_gauss", "value_range": SPAN, "alpha": 0.0, "gamma": GAMMA, "lr": 0.1}
    learner = learn("cql", rows(), 600, parts=(1.0, 0.3, 0.1), **options)
    q = learner.critic.table(one_hot(STATES).unsqueeze(0)).detach().mean(1)[0].numpy()
    exact = np.zeros((STATES, ACTIONS))
    for _ in range(60):
        exact = REWARD + GAMMA * exact.max(1)[NEXT]
    np.testing.assert_allclose(q, exact, atol=0.02)


@pytest.mark.parametrize(
    "spec", [Spec(4, Box((-1.0, -1.0), (1.0, 1.0))), Spec(4, Discrete(3))], ids=["box", "discrete"]
)
def test_a_critic_with_bins_has_the_shapes_of_one_without(spec):
    rng, like = Streams([3, 5]), {"dtype": torch.float64}
    bins = Bins("hl_gauss", SPAN, **like)
    plain, critic = (Critic(rng, "q", spec, (6,), members=3, bins=b, **like) for b in (None, bins))
    obs, action = rng.normal("o", (7, 4), dtype=torch.float64), rng.normal("a", (7, 2), dtype=torch.float64)
    action = rng.integers("a", 3, (7,)) if spec.discrete else action
    own = {"obs": obs, "action": action} if spec.discrete else {"obs_action": torch.cat([obs, action], -1)}
    raw = critic.raw(own)
    assert raw.shape == (2, 3, 7, 101)
    assert torch.equal(critic.of(obs, action), critic(own))
    assert critic(own).shape == plain(own).shape == plain.raw(own).shape == (2, 3, 7)
    assert torch.equal(plain.raw(own), plain(own))
    mean = (raw.softmax(-1) * bins.centres).sum(-1)
    torch.testing.assert_close(critic(own), mean)
    assert (mean.abs() < 8).all()
    if spec.discrete:
        assert critic.table(obs).shape == plain.table(obs).shape == (2, 3, 7, 3)
        picked = critic.table(obs)[1, 2, 4, action[1, 4]]
        assert critic(own)[1, 2, 4] == picked


@pytest.mark.parametrize("loss", ["hl_gauss", "two_hot"])
def test_the_error_is_least_at_the_backup_and_its_gradient_is_bounded(loss):
    bins = Bins(loss, SPAN, dtype=torch.float64)
    logits = torch.zeros(1, 1, 3, 101, dtype=torch.float64, requires_grad=True)
    backup = torch.tensor([[[0.37, -5.0, 400.0]]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(bins.error(logits, backup).sum(), logits)
    assert (gradient.abs().sum(-1) <= 2).all()  # of the outlier too
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(400):
        optimiser.zero_grad()
        bins.error(logits, backup).sum().backward()
        optimiser.step()
    assert backup.grad is None
    np.testing.assert_allclose(bins.mean(logits)[0, 0, :2].detach(), [0.37, -5.0], atol=0.01)
