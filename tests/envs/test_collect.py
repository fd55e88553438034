"""No collector writes a transition across a boundary; the gymnasium faces are what they say."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from fenchel.envs import make
from fenchel.envs.collect import collect
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.face import GymFace, GymVectorFace
from fenchel.envs.gym import GymEnv, as_task
from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError


class Clock:
    """Copy i observes (its episode's seed mod 1000, step): every row tells which episode it belongs to.

    Episodes end after 3 to 9 steps, the odd ones as terminal."""

    def __init__(self, n):
        self.n, self.spec = n, Spec(2, Box((-1.0,), (1.0,)), {"cost": ()})
        self.name, self.t = torch.zeros(n), torch.zeros(n)

    def reset(self, seeds, mask=None):
        mask = torch.ones(self.n, dtype=torch.bool) if mask is None else mask
        self.name, self.t = torch.where(mask, (seeds % 1000).float(), self.name), torch.where(mask, 0, self.t)
        return torch.stack([self.name, self.t], -1)

    def step(self, action):
        self.t = self.t + 1
        over = self.t >= 3 + self.name % 7
        terminal = over & (self.name % 2 == 1)
        info = {"cost": self.t}
        return Step(torch.stack([self.name, self.t], -1), self.name, terminal, over & ~terminal, info)


def crossings(data):
    """Rows whose successor is not the next moment of the same episode."""
    return int(((data.next_obs[:, 0] != data.obs[:, 0]) | (data.next_obs[:, 1] != data.obs[:, 1] + 1)).sum())


def idle(obs):
    return torch.zeros(len(obs), 1)


def test_no_row_leads_across_a_boundary():
    data = collect(Clock(13), idle, 1000)
    assert len(data) == 1000
    assert crossings(data) == 0
    assert data.findings == []
    lengths = data.episode_ends - data.episode_starts
    whole = data.obs[data.episode_starts, 0] % 7 + 3
    cut = lengths != whole
    assert int(cut.sum()) <= 13  # only where collection stopped
    assert not bool(data.terminal[data.episode_ends - 1][cut].any())
    assert torch.equal(data.extras["cost"], data.next_obs[:, 1])
    assert torch.equal(data.obs[data.episode_starts, 1], torch.zeros(len(lengths)))


def test_a_copys_rows_do_not_depend_on_how_many_run_beside_it():
    few, many = collect(Clock(2), idle, 80), collect(Clock(5), idle, 200)
    assert torch.equal(few.obs[:80], many.obs[:80])
    assert collect(Clock(2), idle, 80, seed=1).hash != few.hash


def test_policies_are_told_of_fresh_episodes():
    class Policy:
        begun = 0

        def begin(self, fresh):
            self.begun += int(fresh.sum())

        def __call__(self, obs):
            return idle(obs)

    policy = Policy()
    data = collect(Clock(4), policy, 400)
    assert policy.begun == int((data.obs[:, 1] == 0).sum())


class Counter(gymnasium.Env):
    """One-dimensional clock with terminals (even seeds) and a limit of its own."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.name, self.t = float(self.np_random.integers(1000)), 0.0
        return np.array([self.name, 0.0]), {}

    def step(self, action):
        self.t += 1
        over = self.t >= 3 + self.name % 7
        return np.array([self.name, self.t]), self.name, bool(over and self.name % 2), bool(over), {"cost": 1.0}


def test_gymnasium_environments_collect_no_crossing_rows():
    env = GymEnv(Counter, 7)
    data = collect(env, lambda obs: torch.zeros(len(obs), dtype=torch.int64), 700)
    assert crossings(data) == 0
    assert data.findings == []
    assert not bool((data.terminal & data.timeout).any())


def test_an_ended_copy_of_gymnasium_stands_still_until_it_is_reset():
    env = GymEnv(Counter, 3)
    env.reset(torch.arange(3))
    for _ in range(12):
        last = env.step(torch.zeros(3, dtype=torch.int64))
        assert not bool((last.terminal & last.timeout).any())  # Counter reports both at once
    assert bool(env.over.all())
    assert float(last.reward.abs().sum()) == 0
    obs = env.reset(torch.arange(3), torch.tensor([False, True, False]))
    assert obs[1, 1] == 0
    assert torch.equal(obs[[0, 2]], last.obs[[0, 2]])
    assert env.over.tolist() == [True, False, True]


@pytest.mark.parametrize("id", ["pointmaze-umaze", "pointmaze-medium-v0", "pendulum"])
def test_the_face_of_one_copy_passes_gymnasiums_checker(id):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(GymFace(make(id)), skip_render_check=True)
    known = ("infinity", "spec", "minimum", "maximum", "symmetric")
    assert [str(w.message) for w in caught if not any(word in str(w.message) for word in known)] == []


def test_the_face_of_many_copies_resets_in_the_same_step_and_crosses_no_boundary():
    envs = GymVectorFace(Task("clock", Clock(1).spec, lambda n, seed: Clock(n)), 6)
    obs, _ = envs.reset(seed=3)
    assert envs.observation_space.contains(obs)
    ended = 0
    for _ in range(60):
        before = obs
        obs, reward, terminal, timeout, info = envs.step(np.zeros((6, 1), np.float32))
        assert (obs.shape, reward.shape) == ((6, 2), (6,))
        over = terminal | timeout
        ended += over.sum()
        successor = np.where(over[:, None], info.get("final_obs", obs), obs)
        assert np.array_equal(successor, before + np.array([0, 1]))
        assert (obs[over, 1] == 0).all()
        assert np.array_equal(info.get("_final_obs", np.zeros(6, bool)), over)
    assert ended > 30
    assert not (obs[:, 0] == envs.reset(seed=4)[0][:, 0]).all()
    assert np.array_equal(envs.reset(seed=3)[0], envs.reset(seed=3)[0])


def test_from_policy_takes_a_task_and_discrete_tasks_work():
    data = OfflineDataset.from_policy(make("pendulum"), lambda obs: torch.zeros(len(obs), 1), 300, copies=3)
    assert len(data) == 300
    task = make("gym:CartPole-v1")
    assert isinstance(task.spec.action, Discrete)
    data = OfflineDataset.from_policy(task, lambda obs: (obs[:, 2] > 0).long(), 200, copies=4)
    assert data.action.dtype == torch.int64
    with pytest.raises(UserError, match="at least 1"):
        collect(Clock(2), idle, 0)


def test_users_functions_may_return_environments():
    task = as_task("mine:counter", Counter, {})
    assert task.spec == Spec(2, Discrete(2))
    with pytest.raises(UserError, match="returned a int"):
        as_task("mine:three", lambda: 3, {})
