"""The native pendulum equals gymnasium's, step by step; its data are what they say."""

import gymnasium
import numpy as np
import torch

from fenchel.envs import make
from fenchel.envs.pendulum import NOISE, REFERENCE, Controller, Pendulum


def test_dynamics_equal_gymnasium():
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    rng = np.random.default_rng(0)
    n, steps = 20, 100
    ours = Pendulum(n, dtype=torch.float64)
    ours.reset(torch.arange(n))
    actions = torch.tensor(rng.uniform(-2.5, 2.5, (steps, n, 1)))
    start = torch.stack([ours.theta, ours.omega], -1).numpy()
    results = [ours.step(action) for action in actions]
    for i in range(n):
        theirs.reset(seed=0)
        theirs.state = start[i]
        for t in range(steps):
            obs, reward, *_ = theirs.step(actions[t, i].numpy())
            np.testing.assert_allclose(results[t].obs[i], obs, atol=2e-6)  # gymnasium rounds to float32
            np.testing.assert_allclose(results[t].reward[i], reward, atol=1e-9)


def test_starts_have_gymnasiums_distribution_and_episodes_its_length():
    env = Pendulum(4000)
    env.reset(torch.arange(4000))
    assert abs(float(env.theta.std()) - np.pi / 3**0.5) < 0.05
    assert float(env.theta.abs().max()) <= np.pi
    assert abs(float(env.omega.std()) - 1 / 3**0.5) < 0.02
    env = Pendulum(1)
    env.reset(torch.tensor([0]))
    flags = [env.step(torch.zeros(1, 1)) for _ in range(200)]
    assert [bool(s.timeout) for s in flags] == [False] * 199 + [True]
    assert not any(bool(s.terminal) for s in flags)


def test_sets_lie_between_random_and_expert(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    means = {}
    for kind in NOISE:
        data = make(f"pendulum-{kind}", transitions=12_000).dataset()
        assert (len(data), data.findings) == (12_000, [])
        means[kind] = float(data.episode_returns().mean())
    assert REFERENCE[0] < means["mixed"] < means["expert"]
    assert means["expert"] > -250


def test_the_controller_holds_the_top():
    env, policy = Pendulum(200), Controller(torch.zeros(200))
    obs = env.reset(torch.arange(200))
    for _ in range(199):
        obs = env.step(policy(obs)).obs
    assert float(obs[:, 0].min()) > 0.99
