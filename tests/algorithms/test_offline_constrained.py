"""Offline learners under a limit: what each of their terms does, and the faults of released code that ours have not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fenchel.algorithms import get_algorithm
from fenchel.algorithms.constrained.bc_safe import episode_costs
from fenchel.algorithms.networks.diffusion import Denoiser, DiffusionPolicy
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.errors import UserError
from fenchel.theory.rng import Streams

OPTIONS = {"hidden": (32, 32), "batch_size": 64, "lr": 3e-3, "gamma": 0.0}


# --- bc_safe --------------------------------------------------------------------------------------------------------


def three_episodes(costs=((1.0, 2.0), (0.0, 1.0), (4.0, 0.0, 2.0))):
    """Of total costs 3, 1 and 6."""
    rows = sum(map(len, costs))
    ends = np.cumsum([len(c) for c in costs]) - 1
    last = np.isin(np.arange(rows), ends)
    flat = np.concatenate(costs).astype(np.float32)
    obs = np.eye(3, dtype=np.float32)[np.arange(rows) % 3]
    return OfflineDataset.from_arrays(
        obs, np.arange(rows) % 2, flat, np.zeros(rows, bool), last, obs, extras={"cost": flat}, check=False
    )


@pytest.mark.parametrize(
    ("unit", "exact"),
    [
        ("episode", [3, 1, 6]),
        ("average", [1.5, 0.5, 2]),
        ("discounted", [2, 0.5, 4.5]),
        ("normalised", [1, 0.25, 2.25]),
    ],
)
def test_costs_of_episodes_are_counted_in_the_limits_unit(unit, exact):
    np.testing.assert_allclose(episode_costs(three_episodes(), unit, 0.5), exact, rtol=1e-12)


def test_bc_safe_keeps_whole_episodes_within_the_limit():
    learner = get_algorithm("bc_safe")(Spec(3, Discrete(2)), {"limit": 3.0, "unit": "episode"})
    assert learner.select(three_episodes()).tolist() == [0, 1, 2, 3]
    tight = get_algorithm("bc_safe")(Spec(3, Discrete(2)), {"limit": 0.9, "unit": "episode"})
    with pytest.raises(UserError, match=r"no episode .* within limit=0\.9 \(episode\): the cheapest of 3 costs 1\."):
        tight.select(three_episodes())
    with pytest.raises(UserError, match="needs limit=<number> and unit="):
        get_algorithm("bc_safe")(Spec(3, Discrete(2))).select(three_episodes())


# --- cpq ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_cpq_penalty_has_a_gradient_in_the_cost_critic_and_nowhere_else(kind, make, tasks):
    learner = make("cpq", kind, rare=0.9)
    batch = learner.source(tasks[kind])(0)
    cost, unseen = learner.unseen(batch)
    assert unseen.item() > 0.1
    learner.penalty(cost).sum().backward()
    assert learner.cost.grad.abs().max() > 1e-4
    assert all(net.grad.abs().max() == 0 for net in (learner.critic, learner.behaviour))


def test_cpq_penalty_makes_unseen_actions_dear_and_the_datas_own_not(make, tasks):
    learner = make("cpq", "box", **OPTIONS)
    data = tasks["box"].dataset()
    near = replace(data, action=0.2 * data.action, extras={"cost": torch.zeros(len(data))})
    source = learner.source(replace(tasks["box"], dataset=lambda: near))
    for _ in range(300):
        learner.step(source)
    batch = source(0)
    far = torch.where(batch["action"] >= 0, -1.0, 1.0)
    assert learner.cost.of(batch["obs"], far).mean() > 0.5
    assert learner.cost(batch).mean() < 0.2


def test_cpq_backs_up_the_dearer_twin(make, tasks):
    learner = make("cpq", "discrete", (3, 5), gamma=0.9)
    batch = learner.source(tasks["discrete"])(0)
    learner.cost_target.flat.mul_(torch.tensor([[0.5], [3.0]]))  # twins that differ
    following = learner.policy.mode(batch["next_obs"])
    ahead = learner.cost_target.of(batch["next_obs"], following).numpy()
    y = batch["cost"].numpy() + batch["discount"].numpy() * ahead.max(1)
    exact = ((learner.cost(batch).detach().numpy() - y[:, None]) ** 2).sum(1).mean(1)
    assert (abs(ahead[:, 0] - ahead[:, 1]) > 1e-3).any()
    np.testing.assert_allclose(learner.update(batch)["cost_loss"], exact, rtol=1e-4)


@pytest.mark.parametrize(("variant", "chosen"), [("corrected", 0), ("paper", 1)])
def test_cpq_with_negative_values(variant, chosen):
    """Action 0 earns -1 within the limit, action 1 earns -2 over it; [Q_c <= l] Q is -1 and 0."""
    options = {"variant": variant, "limit": 1.0, "unit": "discounted", "lr": 0.05, "hidden": (), "gamma": 0.0}
    learner = get_algorithm("cpq")(Spec(1, Discrete(2)), options)
    action = torch.tensor([[0, 1]])
    batch = {
        "obs": torch.ones(1, 2, 1),
        "next_obs": torch.ones(1, 2, 1),
        "action": action,
        "discount": torch.zeros(1, 2),
    }
    batch |= {"reward": torch.tensor([[-1.0, -2.0]]), "cost": torch.tensor([[0.0, 5.0]])}
    for _ in range(250):
        learner.update(batch)
    assert learner.policy.mode(torch.ones(1, 1, 1)).item() == chosen


def test_cpq_takes_the_cheapest_action_where_all_are_over_the_limit(make, tasks):
    learner = make("cpq", "discrete", limit=0.0)
    learner.source(tasks["discrete"])
    obs = torch.eye(3).unsqueeze(0)
    learner.budget.frozen().fill_(-100.0)
    cheapest = learner.cost.table(obs).amax(1).argmin(-1)
    assert torch.equal(learner.policy.mode(obs), cheapest)


# --- fisor ----------------------------------------------------------------------------------------------------------


def test_timeouts_are_neither_ends_nor_violations(tasks, make):
    """A row that stops by a time-out goes on to V_h(s'); only a terminal one is worth h alone, and h is of its cost."""
    data = tasks["discrete"].dataset()
    free = replace(data, extras={"cost": torch.zeros(len(data))})
    learner = make("fisor", "discrete", gamma=0.9, lr=0.01, tau=0.05)
    columns = learner.sampler(free)._columns(free)
    assert (columns["discount"][data.timeout] == 0.9).all()
    assert (columns["discount"][data.terminal] == 0).all()
    assert data.timeout.any()
    source = learner.sampler(free)
    for _ in range(200):
        learner.step(source)
    assert learner.reach_value(source(0)["obs"]).max() < 0  # nothing violates, whatever stopped


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_reach_expectile_leans_to_the_safest_action(kind, make, tasks):
    learner = make("fisor", kind, [3, 3, 3], reach_expectile=[0.1, 0.5, 0.9], **OPTIONS)
    source = learner.source(tasks[kind])
    for _ in range(250):
        learner.step(source)
    values = learner.reach_value(source(0)["obs"]).mean(1)
    assert values[0] > values[1] > values[2]


def test_fisor_policy_takes_the_least_dangerous_candidate():
    spec, rng = Spec(2, Box((-1.0,), (1.0,))), Streams([3, 4])
    denoiser = Denoiser(rng, "policy", spec, (8,), steps=5)
    obs = torch.randn(2, 6, 2)
    low = DiffusionPolicy(rng, "policy", denoiser, 16, lambda obs, action: action.squeeze(-1)).mode(obs)
    high = DiffusionPolicy(rng, "policy", denoiser, 16, lambda obs, action: -action.squeeze(-1)).mode(obs)
    one = DiffusionPolicy(rng, "policy", denoiser, 1, lambda obs, action: action.squeeze(-1)).mode(obs)
    assert (low <= high).all()
    assert (low < high).float().mean() > 0.9
    assert not torch.equal(one, low)


def test_denoised_actions_have_the_laws_of_the_data():
    """Half the actions at -0.6, half at 0.6; of the Gaussian with their variance 26% lie within 0.2 of 0."""
    spec, rng = Spec(1, Box((-1.0,), (1.0,))), Streams([3])
    options = {"hidden": (32, 32), "lr": 3e-3, "gamma": 0.0, "ema": 0.02, "candidates": 1}
    learner = get_algorithm("fisor")(spec, options, dtype=torch.float32)
    action = torch.where(torch.arange(128) % 2 == 0, -0.6, 0.6).view(1, -1, 1)
    zero = torch.zeros(1, 128)
    batch = {"obs": torch.zeros(1, 128, 1), "next_obs": torch.zeros(1, 128, 1), "action": action, "reward": zero}
    batch |= {"cost": zero, "discount": zero, "obs_action": torch.cat([torch.zeros(1, 128, 1), action], -1)}
    for _ in range(400):
        learner.update(batch)
        learner.steps += 1
    drawn, _ = learner.policy.sample(torch.zeros(1, 400, 1), rng.normal("test", (400, 1)))
    assert (drawn.abs() < 0.2).float().mean() < 0.17
    assert 0.3 < (drawn > 0).float().mean() < 0.7
