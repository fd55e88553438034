"""Tabular environments against their MDP, the model read back from data, toy text, and the three mixed tasks."""

from __future__ import annotations

import gymnasium
import pytest
import torch

from fenchel.envs import make
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.tabular import TabularEnv, continuation, empirical_mdp, episode_return, states_of, visits
from fenchel.envs.tabular_tasks import PROBLEMS, Behaviour, Mixture, mixture, problem, uniform
from fenchel.envs.toy_text import IDS, from_table, toy_text_mdp
from fenchel.errors import UserError
from fenchel.theory.instances import (
    bandit,
    deep_sea_treasure,
    four_rooms,
    garnet,
    multi_objective_garnet,
    river_swim,
    stitching_maze,
)
from fenchel.theory.instances.build import from_outcomes
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value

MIXED = ("fourrooms-mixed", "garnet-mixed", "stitchmaze-mixed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def data_folder(folder, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(folder))


def test_frequencies_are_the_kernel():
    """20,000 copies from one state: start, successor and termination frequencies within five standard errors."""
    mdp = garnet(Rng(0), 1, 4, 2, 3)[0]
    gamma = torch.full((4, 2, 4), 0.8, dtype=torch.float64)
    gamma[:, :, 0] = 0.4
    mdp, n = TabularMDP(mdp.P, mdp.r, mdp.mu0, gamma), 20_000
    env = TabularEnv(mdp, n)
    s = env.reset(torch.arange(n)).argmax(-1)
    assert (torch.bincount(s, minlength=4) / n - mdp.mu0).abs().max() < 5 * 0.5 / n**0.5
    a = torch.ones(n, dtype=torch.int64)
    step = env.step(a)
    for state in range(4):
        rows = s == state
        next_states = step.obs[rows].argmax(-1)
        error = 5 * 0.5 / float(rows.sum()) ** 0.5
        assert (torch.bincount(next_states, minlength=4) / rows.sum() - mdp.P[state, 1]).abs().max() < error
        assert torch.allclose(step.reward[rows], mdp.r[state, 1].float())
    into = step.obs.argmax(-1) == 0
    assert abs(float(step.terminal[into].float().mean()) - 0.5) < 5 * 0.5 / float(into.sum()) ** 0.5
    assert not step.terminal[~into].any()
    assert torch.allclose(continuation(mdp), mdp.kernel / 0.8)


def test_copies_are_independent_of_their_number_and_of_each_other():
    mdp = river_swim()
    few, many, calm = TabularEnv(mdp, 3), TabularEnv(mdp, 50), TabularEnv(mdp, 50)
    seeds = torch.arange(100, 150)
    for env in (few, many, calm):
        env.reset(seeds[: env.n])
    for t in range(20):
        action = torch.full((50,), t % 2)
        a, b, c = few.step(action[:3]), many.step(action), calm.step(action)
        assert torch.equal(a.obs, b.obs[:3])
        assert torch.equal(b.obs[2:], c.obs[2:])  # also after copy 1 was reset
        assert torch.equal(a.terminal, b.terminal[:3])
        if t == 7:  # a reset of copy 1 starts it anew and leaves the others alone
            before = many.state.clone()
            few.reset(seeds[:3] + 5, torch.tensor([False, True, False]))
            many.reset(seeds + 5, torch.arange(50) == 1)
            assert torch.equal(many.state[2:], before[2:])
            assert many.t.tolist() == [8, 0] + [8] * 48
    assert len(set(many.state.tolist())) > 1


def test_impossible_successors_are_never_drawn():
    mdp = from_outcomes(5, 1, [(s, 0, t, 1 / 3, 0.0) for s in range(5) for t in (1, 2, 3)], 0.9)
    env = TabularEnv(mdp, 4000)
    env.reset(torch.arange(4000))
    for _ in range(5):
        assert set(env.step(torch.zeros(4000, dtype=torch.int64)).obs.argmax(-1).tolist()) == {1, 2, 3}


def test_goal_ends_and_time_limit_does_not():
    mdp = stitching_maze()
    env = TabularEnv(mdp, 2, max_steps=10)
    env.reset(torch.tensor([0, 1]))
    best = solve(mdp, "discounted").policy.argmax(-1)
    for t in range(1, 11):
        step = env.step(torch.stack([best[env.state[0]], torch.tensor(3)]))
        assert bool(step.terminal[0]) is (t == 10)
        assert bool(step.timeout[1]) is (t == 10)
    assert step.timeout.tolist() == [False, True]
    assert step.reward.tolist() == [1.0, 0.0]


def test_simulated_returns_are_the_exact_ones():
    """4,000 episodes per policy, within five standard errors; the discounted return is the MDP's own value."""
    mdp, H, n = four_rooms(slip=0.3, gamma=0.9), 40, 4000
    policy = 0.7 * solve(mdp, "discounted").policy + 0.3 * uniform(mdp)
    env = TabularEnv(mdp, n, max_steps=H)
    behaviour = Behaviour(Mixture(torch.ones(1).double(), policy[None]), n, 0)
    obs, alive, total, discounted = env.reset(torch.arange(n)), torch.ones(n), torch.zeros(n), torch.zeros(n)
    for t in range(H):
        step = env.step(behaviour(obs))
        obs, total, discounted = step.obs, total + alive * step.reward, discounted + 0.9**t * alive * step.reward
        alive = alive * ~(step.terminal | step.timeout)
    assert abs(float(total.mean()) - episode_return(mdp, policy, H)) < 5 * float(total.std()) / n**0.5
    value = float((mdp.mu0 * policy_value(mdp, policy)).sum())
    assert abs(float(discounted.mean()) - value) < 5 * float(discounted.std()) / n**0.5 + 0.9**H


def test_visits_by_enumeration():
    """Two steps of a two-state problem, by hand."""
    mdp = from_outcomes(
        3, 2, [(0, 0, 0, 0.5, 0), (0, 0, 1, 0.5, 0), (0, 1, 2, 1, 0), (1, 0, 1, 1, 0)], 0.9, terminal=[2]
    )
    policy = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]).double()
    expected = torch.tensor([[0.5 + 0.25 * 0.5, 0.5 + 0.25 * 0.5], [0.25, 0.0], [0.0, 0.0]]).double()
    assert torch.allclose(visits(mdp, policy, 2), expected)


def test_vector_rewards_and_refusals():
    env = TabularEnv(deep_sea_treasure(), 4)
    env.reset(torch.arange(4))
    assert env.step(torch.full((4,), 1)).reward.tolist() == [[1.0, -1.0]] * 4
    with pytest.raises(UserError, match="takes one MDP"):
        TabularEnv(multi_objective_garnet(Rng(0), 2), 1)
    mdp = from_outcomes(2, 2, [(0, 0, 1, 1.0, 1.0)], 0.9, terminal=[1])
    env = TabularEnv(mdp, 3)
    env.reset(torch.arange(3))
    with pytest.raises(UserError, match=r"^action 1 does not exist in state 0\.$"):
        env.step(torch.tensor([0, 1, 0]))


def test_bandit_is_one_step():
    env = TabularEnv(bandit((1.0, 0.5)), 2)
    env.reset(torch.arange(2))
    step = env.step(torch.tensor([0, 1]))
    assert step.reward.tolist() == [1.0, 0.5]
    assert step.terminal.all()


def test_empirical_mdp_converges_to_the_model():
    """60,000 uniform steps of a small Garnet: transition errors of the size that counting implies."""
    mdp = garnet(Rng(3), 1, 3, 2, gamma=0.9)[0]
    behaviour = Behaviour(Mixture(torch.ones(1).double(), uniform(mdp)[None]), 200, 0)
    data = OfflineDataset.from_policy(TabularEnv(mdp, 200, max_steps=50), behaviour, 60_000)
    answer = empirical_mdp(data, 0.9)
    error = 5 * 0.5 / answer.counts.min() ** 0.5
    assert (answer.mdp.P - mdp.P).abs().max() < error
    assert torch.allclose(answer.mdp.r, mdp.r, atol=1e-6)
    assert torch.allclose(answer.mdp.kernel, 0.9 * answer.mdp.P)
    assert (answer.mdp.mu0 - mdp.mu0).abs().max() < 5 * 0.5 / len(data.episode_starts) ** 0.5
    assert (answer.behaviour - 0.5).abs().max() < error
    assert int(answer.counts.sum()) == 60_000


def test_empirical_mdp_refuses_other_data():
    with pytest.raises(UserError, match="one-hot"):
        states_of(torch.tensor([[0.5, 0.5]]))
    data = OfflineDataset.from_arrays(torch.eye(3), torch.rand(3, 1), torch.zeros(3), [False, False, True], check=False)
    with pytest.raises(UserError, match="must hold integers"):
        empirical_mdp(data, 0.9)


# -- toy text --------------------------------------------------------------------------------------------------------
def test_table_by_hand():
    """An ending and a going on with the same successor: the discount is averaged, so that the backup is exact."""
    table = {0: {0: [(0.25, 1, 4.0, True), (0.75, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
    mdp = from_table(table, [1.0, 0.0], 0.8)
    assert mdp.P[0, 0].tolist() == [0.0, 1.0]
    assert float(mdp.r[0, 0]) == 1.0
    assert float(mdp.discount[0, 0, 1]) == pytest.approx(0.6)
    assert float(mdp.kernel[1, 0].sum()) == 0.0


@pytest.mark.parametrize("name", IDS)
def test_toy_text_agrees_with_gymnasium(name):
    """Value iteration on gymnasium's own table, in Python, gives our optimum."""
    env = gymnasium.make(IDS[name])
    mdp, table, gamma = toy_text_mdp(env, 0.9), env.unwrapped.P, 0.9
    V = solve(mdp, "discounted").V
    for s in list(table)[:: max(1, len(table) // 40)]:
        backup = max(
            sum(p * (r + gamma * (not ends) * float(V[t])) for p, t, r, ends in outcomes)
            for outcomes in table[s].values()
        )
        assert float(V[s]) == pytest.approx(backup, abs=1e-7)
    assert float(mdp.mu0.sum()) == pytest.approx(1)


def test_toy_text_known_values():
    assert make("cliff-walking").reference[1] == pytest.approx(-13.0)
    assert make("taxi").reference[1] == pytest.approx(7.93)  # mean over its 300 starts, as published for the optimum
    with pytest.raises(UserError, match="no transition table"):
        toy_text_mdp(gymnasium.make("CartPole-v1"))


# -- tasks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("id", PROBLEMS)
def test_tasks_without_data(id):
    task = make(id)
    low, high = task.reference
    assert low < high
    exact = task.metadata["exact"]
    assert exact["worst"] - 1e-9 <= exact["uniform"] < exact["best"]
    env = task.make_vec(5, 0)
    assert env.reset(torch.arange(5)).shape == (5, task.spec.obs_dim)


@pytest.mark.parametrize("id", MIXED)
def test_cloning_and_uniform_are_far_from_the_optimum(id):
    """The condition on which a task counts: both lose more than 10% of the range over deterministic policies."""
    exact = make(id).metadata["exact"]
    span = exact["best"] - exact["worst"]
    for name in ("cloned", "uniform"):
        assert exact["best"] - exact[name] > 0.1 * span, name
    assert exact["worst"] - 1e-9 <= exact["uniform"]


@pytest.mark.parametrize("id", MIXED)
def test_mixed_data(id):
    """The data come from the stated mix: action frequencies in common states are those of exact cloning."""
    task = make(id, transitions=30_000)
    data = task.dataset()
    assert len(data) == 30_000
    assert not [f for f in data.findings if f.level == "fault"]
    name = id.removesuffix("-mixed")
    mdp, H = problem(name)
    cloned = mixture(name, mdp).cloned(mdp, H)
    model = empirical_mdp(data, task.metadata["discount"], mdp.num_actions)
    # episodes, not steps, are independent; a state seen in many steps of one episode is worth one
    often = torch.topk(model.counts.sum(-1), 4).indices
    episodes = len(data.episode_starts)
    assert (model.behaviour[often] - cloned[often]).abs().max() < 5 * 0.5 / episodes**0.5
    assert data.hash == make(id, transitions=30_000).dataset().hash


@pytest.mark.parametrize("id", MIXED)
def test_the_optimum_is_in_the_data(id):
    """The empirical model's optimal policy is worth more than cloning: the task can be learnt from its data."""
    task = make(id, transitions=30_000)
    model = empirical_mdp(task.dataset(), task.metadata["discount"], task.mdp.num_actions)
    policy = solve(model.mdp, "discounted").policy
    exact = task.metadata["exact"]
    value = float((task.mdp.mu0 * policy_value(task.mdp, policy)).sum())
    assert value > exact["best"] - 0.1 * (exact["best"] - exact["worst"])


def test_stitching_needs_stitching():
    """No episode from the upper start reaches the good goal, and the optimum from there does."""
    data, mdp = make("stitchmaze-mixed", transitions=30_000).dataset(), stitching_maze(gamma=0.95)
    starts = states_of(data.obs[data.episode_starts])
    upper = int(torch.nonzero(mdp.mu0)[0])
    returns = data.episode_returns()
    assert 0 < float(returns[starts == upper].max()) <= 0.2 + 1e-6
    assert float(returns[starts != upper].max()) == 1.0
    assert float(solve(mdp, "discounted").V[upper]) == pytest.approx(0.95**9)
