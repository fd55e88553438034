"""A linear-quadratic regulator: a small control problem whose optimum and whose linear policies are in closed form.

    s' = A s + B a,   r = - s' Q s - a' R a,   a in [-1, 1];   s_0 uniform in [-1, 1]^2;   25 steps, never terminal

Two states (a damped position and its speed), one action (a push). `lqr-mixed`: a = BEHAVIOUR s + noise uniform within
NOISE, which never leaves [-1, 1], so that the data's mean action is exactly linear in the state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.theory.rng import Streams

VERSION = 1
A = ((1.0, 0.2), (-0.1, 0.9))
B = ((0.0,), (0.3,))
Q = ((1.0, 0.0), (0.0, 0.2))
R = ((1.0,),)
BEHAVIOUR = ((0.1, 0.1),)
NOISE = 0.6
GAMMA, MAX_STEPS = 0.9, 25
OPTIMUM = ((-0.39508, -0.56586),)  # of GAMMA, by the Riccati equation: theory.referees.quadratic
# mean returns of uniform actions and of OPTIMUM over 1,000 starts: `reference()`
REFERENCE = (-20.1, -3.2)
LOWEST = -40.0


class LQR:
    """A BatchedEnv. Observation: s. Action: (n, 1), clamped to [-1, 1]."""

    def __init__(self, n: int, *, device: torch.device | str = "cpu"):
        self.n, self.device, self.max_steps = n, torch.device(device), MAX_STEPS
        self.spec = Spec(2, Box((-1.0,), (1.0,)))
        self.state = torch.zeros(n, 2, device=device)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)
        self._A, self._B, self._Q, self._R = (torch.tensor(matrix, device=device) for matrix in (A, B, Q, R))

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        start = 2 * Streams(seeds.to(self.device)).uniform("lqr/start", (2,)) - 1
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self.state = torch.where(mask[:, None], start, self.state)
        self.t = torch.where(mask, 0, self.t)
        return self.state

    def step(self, action: Tensor) -> Step:
        s, a = self.state, action.to(self.state).clamp(-1, 1)
        reward = -((s @ self._Q) * s).sum(-1) - ((a @ self._R) * a).sum(-1)
        self.state, self.t = s @ self._A.T + a @ self._B.T, self.t + 1
        return Step(self.state, reward, torch.zeros_like(self.t, dtype=torch.bool), self.t >= self.max_steps, {})


class Linear:
    """a = K s + noise uniform within `noise`, clamped to [-1, 1]."""

    def __init__(self, K: tuple[tuple[float, ...], ...], noise: float, n: int, seed: int = 0):
        self.K, self.noise, self.streams, self.t = torch.tensor(K), noise, copy_streams(seed, n), 0

    def __call__(self, obs: Tensor) -> Tensor:
        noise = self.noise * (2 * self.streams.uniform("lqr/action", (1,), counter=self.t) - 1)
        self.t += 1
        return (obs @ self.K.T + noise).clamp(-1, 1)


def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> LQR:
    return LQR(n, device=device)


def env_task(id: str) -> Task:
    """`lqr`: the environment without data."""
    return Task(id, LQR(1).spec, make_vec, reference=REFERENCE, max_steps=MAX_STEPS, metadata={"discount": GAMMA})


def task(id: str, *, transitions: int = 20_000, data_seed: int = 0) -> Task:
    """`lqr-mixed`. transitions and data_seed describe the data set."""
    config = {"transitions": transitions, "data_seed": data_seed}

    def build() -> OfflineDataset:
        n = max(1, min(200, transitions // MAX_STEPS))
        facts = {"reward_range": (LOWEST, 0.0), "max_steps": MAX_STEPS}
        return collect(LQR(n), Linear(BEHAVIOUR, NOISE, n, data_seed), transitions, seed=data_seed, meta=facts)

    dataset = lambda: build_once(id, VERSION, config, build)  # noqa: E731
    return Task(id, LQR(1).spec, make_vec, dataset, REFERENCE, max_steps=MAX_STEPS, metadata={"discount": GAMMA})


def reference(episodes: int = 1000) -> tuple[float, float]:
    """(uniform, optimal): mean returns."""
    means = []
    for K, noise in ((((0.0, 0.0),), 1.0), (OPTIMUM, 0.0)):
        env, policy = LQR(episodes), Linear(K, noise, episodes)
        obs, total = env.reset(torch.arange(episodes)), torch.zeros(episodes)
        for _ in range(MAX_STEPS):
            step = env.step(policy(obs))
            obs, total = step.obs, total + step.reward
        means.append(round(float(total.mean()), 1))
    return means[0], means[1]
