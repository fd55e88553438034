"""Networks, heads and the optimiser against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fenchel.algorithms.networks import (
    MLP,
    Adam,
    Categorical,
    Critic,
    Deterministic,
    Gaussian,
    Greedy,
    Schedule,
    Value,
    Vector,
)
from fenchel.algorithms.networks import adam as adam_module
from fenchel.algorithms.networks.network import affine
from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.theory.rng import Streams

RNG = Streams([3, 5, 7])
BOX = Spec(4, Box((-1.0,) * 2, (1.0,) * 2))
DISCRETE = Spec(4, Discrete(3))
F64 = {"dtype": torch.float64}


def draw(name, *shape):
    return RNG.normal(name, shape, dtype=torch.float64)


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_mlp_is_a_stack_of_linear_layers(members, layer_norm):
    net = MLP(RNG, "n", 4, 3, (6, 5), members=members, layer_norm=layer_norm, activation="tanh", **F64)
    x = draw("x", 8, 4)
    out = net(x)
    assert out.shape == ((3, 8, 3) if members is None else (3, 2, 8, 3))
    for row in range(3 * (members or 1)):
        weights = iter([w[row] for w in net.frozen.weights])
        y = x[row // (members or 1)]
        for width in (6, 5, 3):
            weight, bias = next(weights), next(weights)
            y = nn.functional.linear(y, weight.T, bias[0])
            if width != 3:
                if layer_norm:
                    y = nn.functional.layer_norm(y, (width,), next(weights)[0], next(weights)[0])
                y = torch.tanh(y)
        torch.testing.assert_close(out.flatten(0, -3)[row], y, rtol=1e-12, atol=1e-12)


def test_initial_values():
    net = MLP(RNG, "n", 16, 4, (300,), members=2, **F64)
    first, bias = net.frozen.weights[:2]
    assert first.abs().max() <= 16**-0.5
    assert first.std() == pytest.approx(16**-0.5 / 3**0.5, rel=0.02)  # uniform
    assert bias.abs().max() <= 16**-0.5
    assert bias.std() > 0
    assert not torch.equal(first[0], first[1])  # members differ
    other = MLP(Streams([5]), "n", 16, 4, (300,), members=2, **F64)
    assert torch.equal(other.frozen.weights[0], first[2:4])  # a function of the seed alone
    assert not torch.equal(MLP(Streams([5]), "m", 16, 4, (300,), members=2, **F64).flat, other.flat)


def test_orthogonal_initial_values():
    net = MLP(RNG, "n", 5, 2, (8,), init="orthogonal", last_gain=0.01, **F64)
    wide, _, tall, bias = net.frozen.weights
    torch.testing.assert_close(wide @ wide.mT, 2 * torch.eye(5, dtype=torch.float64).expand(3, -1, -1))
    torch.testing.assert_close(tall.mT @ tall, 1e-4 * torch.eye(2, dtype=torch.float64).expand(3, -1, -1))
    assert bias.abs().max() == 0


def test_frozen_has_the_numbers_without_the_gradient():
    critic = Critic(RNG, "q", BOX, (6,), **F64)
    obs, action = draw("obs", 8, 4), draw("action", 8, 2).requires_grad_()
    loss = critic.frozen.of(obs, action).sum()
    assert torch.equal(loss, critic.of(obs, action).sum())
    loss.backward()
    assert critic.grad.abs().max() == 0
    assert action.grad.abs().max() > 0
    critic.of(obs, action).sum().backward()
    assert critic.grad.abs().max() > 0


def test_frozen_sees_updates_and_target_does_not():
    net = Value(RNG, "v", BOX, (6,), **F64)
    target, obs = net.target(), draw("obs", 8, 4)
    before = net(obs).detach()
    Adam(net, lr=0.1).step(net(obs).mean(1))
    after = net(obs).detach()
    assert not torch.equal(before, after)
    assert torch.equal(net.frozen(obs), after)
    assert torch.equal(target(obs), before)
    assert not target(obs).requires_grad
    start = target.flat.clone()
    target.track(net, 0.25)
    torch.testing.assert_close(target.flat, 0.75 * start + 0.25 * net.flat)
    target.track(net, torch.tensor([[0.0], [1.0], [0.5]], dtype=torch.float64))
    assert torch.equal(target.flat[1], net.flat[1])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99)])
def test_adam_is_torch_adam(fused, clip, betas, monkeypatch):
    if not fused:
        monkeypatch.setattr(adam_module, "FUSED", ())
    net = Value(RNG, "v", BOX, (6,), **F64)
    mine = Adam(net, lr=[0.01, 0.02, 0.01], clip=clip, betas=betas)
    theirs = [[w[i].clone().requires_grad_() for w in net.frozen.weights] for i in range(3)]
    sizes = (0.01, 0.02, 0.01)
    optimisers = [torch.optim.Adam(row, lr=lr, betas=betas) for row, lr in zip(theirs, sizes, strict=True)]
    for t in range(5):
        obs = draw(f"obs{t}", 8, 4)
        mine.step(net(obs).square().mean(1))
        for i, (row, optimiser) in enumerate(zip(theirs, optimisers, strict=True)):
            hidden = torch.relu(obs[i] @ row[0] + row[1])
            optimiser.zero_grad()
            (hidden @ row[2] + row[3]).square().mean().backward()
            if clip:
                nn.utils.clip_grad_norm_(row, clip)
            optimiser.step()
    for i, row in enumerate(theirs):
        for weight, expected in zip(net.frozen.weights, row, strict=True):
            torch.testing.assert_close(weight[i], expected.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_scheduled_steps_are_torch_adams(kind, fused, monkeypatch):
    """Full size at the first update, nothing from the last on; a delayed network counts the learner's updates."""
    if not fused:
        monkeypatch.setattr(adam_module, "FUSED", ())
    share = {"linear": lambda t: 1 - t, "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2}[kind]
    net = Vector(RNG, (3,), **F64)
    mine, theirs = Adam(net, lr=[0.1, 0.2, 0.1], every=2), [torch.zeros(3, dtype=torch.float64) for _ in range(3)]
    mine.schedule = Schedule(kind, 8)
    optimisers = [torch.optim.Adam([x.requires_grad_()], lr=lr) for x, lr in zip(theirs, (0.1, 0.2, 0.1), strict=True)]
    fall = [torch.optim.lr_scheduler.LambdaLR(o, lambda t: share(min(2 * t / 8, 1))) for o in optimisers]
    for t in range(7):
        target = draw(f"target{t}", 3)
        before = net.flat.clone()
        mine.step((net() - target).square().sum(1))
        for x, optimiser, schedule, goal in zip(theirs, optimisers, fall, target, strict=True):
            optimiser.zero_grad()
            (x - goal).square().sum().backward()
            optimiser.step()
            schedule.step()
        assert torch.equal(before, net.flat) == (t >= 4)
    torch.testing.assert_close(net.frozen(), torch.stack(theirs).detach(), rtol=1e-6, atol=1e-9)


def test_clipping_is_joint_over_networks_and_separate_over_replicas():
    first, second = Vector(RNG, (2,), **F64), Vector(RNG, (1,), **F64)
    optimiser = Adam(first, second, lr=0.0, clip=1.0)
    loss = 3 * first().sum(1) * torch.tensor([1.0, 0.01, 0.0]) + 4 * second().sum(1) * torch.tensor([1.0, 0.01, 0.0])
    optimiser.step(loss)
    norm = torch.cat([first.grad, second.grad], 1).norm(dim=1)
    torch.testing.assert_close(norm[:2], torch.tensor([1.0, 0.01 * 34**0.5], dtype=torch.float64), rtol=1e-5, atol=0)
    assert norm[2] == 0


def test_single_output_has_the_bits_of_a_batch():
    """The product of one matrix with a single column is computed by another routine unless it is avoided."""
    x, weight, bias = (RNG.normal(name, shape) for name, shape in (("x", (256, 200)), ("w", (200, 1)), ("b", (1, 1))))
    many = affine(x, weight, bias)
    for i in range(3):
        assert torch.equal(affine(x[i : i + 1], weight[i : i + 1], bias[i : i + 1])[0], many[i])


@pytest.mark.parametrize("std", ["shared", "state"])
@pytest.mark.parametrize("squash", ["none", "mean", "sample"])
def test_gaussian_is_torch_distributions(std, squash):
    policy = Gaussian(RNG, "p", BOX, (6,), squash=squash, std=std, **F64)
    policy.flat.mul_(1.0 if squash == "sample" else 3.0)
    obs, noise = draw("obs", 8, 4), draw("noise", 8, 2)
    mean, log_std = policy.parameters(obs)
    law = torch.distributions.Normal(mean, log_std.exp())
    if squash == "sample":
        law = torch.distributions.TransformedDistribution(law, torch.distributions.TanhTransform())
    action, log_prob = policy.sample(obs, noise)
    expected = law.log_prob(action).sum(-1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(policy.log_prob(obs, action), expected, rtol=1e-5, atol=1e-5)
    if squash != "sample":
        torch.testing.assert_close(policy.entropy(obs), law.entropy().expand(3, 8, 2).sum(-1))
    several, log_several = policy.sample(obs, noise.unsqueeze(2).expand(-1, -1, 5, -1))
    assert several.shape == (3, 8, 5, 2)
    torch.testing.assert_close(log_several[:, :, 4], log_prob)


def test_squashed_log_prob_is_finite_at_the_faces():
    policy = Gaussian(RNG, "p", BOX, (6,), squash="sample", std="state")
    log_prob = policy.log_prob(RNG.normal("obs", (8, 4)), torch.ones(3, 8, 2))
    assert log_prob.isfinite().all()
    _, log_far = policy.sample(RNG.normal("obs", (8, 4)), torch.full((3, 8, 2), 60.0))
    assert log_far.isfinite().all()


def test_categorical_is_torch_distributions():
    policy = Categorical(RNG, "p", DISCRETE, (6,), **F64)
    obs, noise = draw("obs", 20_000, 4), RNG.uniform("noise", (20_000, 3), dtype=torch.float64)
    obs = obs[:, :1].expand(-1, 20_000, -1)
    law = torch.distributions.Categorical(logits=policy(obs))
    action, log_prob = policy.sample(obs, noise)
    torch.testing.assert_close(log_prob, law.log_prob(action))
    torch.testing.assert_close(policy.log_prob(obs, action), log_prob)
    torch.testing.assert_close(policy.entropy(obs), law.entropy())
    assert torch.equal(policy.mode(obs), law.probs.argmax(-1))
    share = nn.functional.one_hot(action, 3).double().mean(1)
    torch.testing.assert_close(share, law.probs[:, 0].detach(), rtol=0, atol=0.015)  # four standard errors


def test_critic_of_both_kinds():
    box, discrete = Critic(RNG, "q", BOX, (6,), **F64), Critic(RNG, "q", DISCRETE, (6,), members=3, **F64)
    obs, action = draw("obs", 8, 4), draw("action", 8, 2)
    batch = {"obs": obs, "action": action, "obs_action": torch.cat([obs, action], -1)}
    assert box(batch).shape == (3, 2, 8)
    assert torch.equal(box(batch), box.of(obs, action))
    chosen = RNG.integers("chosen", 3, (8,))
    table = discrete.table(obs)
    assert table.shape == (3, 3, 8, 3)
    q = discrete({"obs": obs, "action": chosen})
    for r, e, b in ((0, 0, 0), (2, 1, 7), (1, 2, 3)):
        assert q[r, e, b] == table[r, e, b, chosen[r, b]]
    assert torch.equal(Greedy(discrete).mode(obs), table.mean(1).argmax(-1))


def test_members_may_have_inputs_of_their_own():
    net = MLP(RNG, "m", 4, 2, (6,), members=3, **F64)
    x = draw("own", 24, 4).view(3, 3, 8, 4)
    own = net(x)
    for member in range(3):
        torch.testing.assert_close(own[:, member], net(x[:, member])[:, member])


def test_a_frozen_gaussian_is_the_whole_policy():
    policy = Gaussian(RNG, "p", BOX, (6,), squash="sample", std="state", **F64)
    obs, action = draw("obs", 8, 4), 2 * RNG.uniform("a", (8, 2), dtype=torch.float64) - 1
    frozen = policy.frozen.log_prob(obs, action)
    assert torch.equal(frozen, policy.log_prob(obs, action))
    assert not frozen.requires_grad


def test_deterministic_is_bounded():
    policy = Deterministic(RNG, "p", BOX, (6,))
    assert policy.mode(1e6 * RNG.normal("obs", (8, 4))).abs().max() <= 1
