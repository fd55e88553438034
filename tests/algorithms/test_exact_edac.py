"""EDAC on one step whose optimum is a formula, and its loss and diversity penalty against NumPy without autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fenchel.algorithms import get_algorithm
from fenchel.envs.spec import Box, Spec

SPEC = Spec(1, Box((-1.0, -1.0), (1.0, 1.0)))
BEST, CURVATURE = torch.tensor([0.3, -0.4]), 1.5


def one_step(count=128):
    """One state, actions all over the box, reward - CURVATURE |a - BEST|^2, the end."""
    generator = torch.Generator().manual_seed(1)
    action = 2 * torch.rand(1, count, 2, generator=generator) - 1
    obs = torch.zeros(1, count, 1)
    reward = -CURVATURE * (action - BEST).square().sum(-1)
    rows = {"obs": obs, "next_obs": obs, "action": action, "reward": reward, "discount": torch.zeros(1, count)}
    return rows | {"obs_action": torch.cat([obs, action], -1)}


@pytest.mark.parametrize("diversity", [0.0, 0.01])
def test_one_step_ends_at_the_best_action_with_the_target_entropy(diversity):
    """pi = exp(Q / temperature) / Z is a Gaussian at BEST of variance temperature / (2 CURVATURE) per dimension; its
    entropy is -2 nats where that variance is exp(-3) / (2 pi)."""
    learner = get_algorithm("edac")(SPEC, {"hidden": (32, 32), "members": 3, "diversity": diversity})
    learner.log_temperature.frozen.weights[0].fill_(-3.0)  # nearer to its optimum than 0
    rows = one_step()
    for lr, steps in ((1e-2, 500), (1e-3, 300)):
        learner.optimiser.lr = [lr]
        learner.optimiser.freeze(set())
        for _ in range(steps):
            losses = learner.update(rows)
            learner.steps += 1
    with torch.no_grad():
        mean, log_std = (x[0, 0] for x in learner.policy.parameters(rows["obs"][:, :1]))
    variance = np.exp(-3) / (2 * np.pi)
    np.testing.assert_allclose(torch.tanh(mean), BEST, atol=0.05)
    deviation = log_std.exp() * (1 - torch.tanh(mean) ** 2)  # after tanh, to first order
    np.testing.assert_allclose(deviation, variance**0.5, rtol=0.1)
    assert losses["temperature"].item() == pytest.approx(2 * CURVATURE * variance, rel=0.15)


def forward(weights, x):
    """A critic's Q at rows x, relu in between."""
    for i in range(0, len(weights), 2):
        x = x @ weights[i] + weights[i + 1]
        x = np.maximum(x, 0) if i + 2 < len(weights) else x
    return x[:, 0]


def members(network, count):
    """Each critic's weights, as NumPy arrays."""
    return [[w.detach()[i].numpy() for w in network.weights] for i in range(count)]


def penalty(critics, x, step=1e-6):
    """mean over rows of sum_{i != j} cos(dQ_i/da, dQ_j/da) / (N - 1), derivatives by differences."""
    shifts = step * np.eye(3)[1:]
    g = np.array([[(forward(w, x + d) - forward(w, x - d)) / (2 * step) for d in shifts] for w in critics])
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    cosines = np.einsum("iab,jab->ijb", g, g)
    return (cosines.sum((0, 1)) - np.einsum("iib->b", cosines)).mean() / (len(critics) - 1)


def small():
    options = {"hidden": (6, 5), "members": 3, "gamma": 0.9}
    return get_algorithm("edac")(SPEC, options, dtype=torch.float64), {k: v.double() for k, v in one_step(9).items()}


def test_diversity_has_the_gradient_that_differences_have():
    learner, rows = small()
    x = rows["obs_action"][0].numpy()
    similarity = learner.evaluate(rows)[1].mean()
    assert similarity.item() == pytest.approx(penalty(members(learner.critic, 3), x), abs=1e-6)
    learner.critic.grad.zero_()
    similarity.backward()
    moved = 0
    for which, weight in enumerate(learner.critic.weights):
        at = (1, *np.unravel_index(weight.grad[1].abs().argmax().item(), weight.shape[1:]))
        sides = []
        for sign in (1, -1):
            critics = members(learner.critic, 3)
            critics[1][which] = critics[1][which].copy()
            critics[1][which][at[1:]] += sign * 1e-5
            sides.append(penalty(critics, x))
        difference = (sides[0] - sides[1]) / 2e-5
        assert weight.grad[at].item() == pytest.approx(difference, abs=2e-4)
        moved += abs(difference) > 1e-3
    assert moved == 3  # every matrix; biases move no gradient of a relu network


def test_critics_regress_to_the_smallest_target_less_entropy_and_the_policy_climbs_the_smallest_critic():
    learner, rows = small()
    rows["discount"] = torch.full((1, 9), 0.9, dtype=torch.float64)
    for i, bias in enumerate((0.5, -0.5, 0.1)):
        learner.target.weights[-1][i] += bias
    with torch.no_grad():
        action, log_prob = learner.policy.sample(rows["next_obs"], learner.noise("backup", (9, 2)))
    following = np.concatenate([rows["next_obs"][0], action[0]], axis=-1)
    lowest = np.min([forward(w, following) for w in members(learner.target, 3)], axis=0)
    y = rows["reward"][0].numpy() + 0.9 * (lowest - log_prob[0].numpy())  # the temperature starts at 1
    q = [forward(w, rows["obs_action"][0].numpy()) for w in members(learner.critic, 3)]
    with torch.no_grad():
        action, log_prob = learner.policy.sample(rows["obs"], learner.noise("policy", (9, 2)))
    here = np.concatenate([rows["obs"][0], action[0]], axis=-1)
    climbed = np.min([forward(w, here) for w in members(learner.critic, 3)], axis=0)
    losses = learner.update(rows)
    assert losses["critic_loss"].item() == pytest.approx(sum(((x - y) ** 2).mean() for x in q), rel=1e-9)
    assert losses["policy_loss"].item() == pytest.approx((log_prob[0].numpy() - climbed).mean(), rel=1e-9)


def test_no_diversity_is_sac_n_in_every_bit():
    """A swept weight of 0 moves the critics as the single run without the penalty does."""
    rows = one_step(32)
    alone = get_algorithm("edac")(SPEC, {"hidden": (16, 16), "diversity": 0.0}, [3])
    both = get_algorithm("edac")(SPEC, {"hidden": (16, 16), "diversity": [0.0, 1.0]}, [3, 3])
    for learner in (alone, both):
        for _ in range(5):
            learner.update({name: column.expand(learner.R, *column.shape[1:]).clone() for name, column in rows.items()})
            learner.steps += 1
    assert torch.equal(both.critic.flat[0], alone.critic.flat[0])
    assert not torch.equal(both.critic.flat[1], alone.critic.flat[0])
