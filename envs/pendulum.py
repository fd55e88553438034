"""Pendulum-v1 of gymnasium as a batched environment, and data from a scripted controller.

    angular velocity <- clip(omega + (3 g / 2 l sin(theta) + 3 torque / m l^2) dt, -8, 8);  theta <- theta + omega dt
    reward = -(theta^2 + 0.1 omega^2 + 0.001 torque^2) of the state before the motion; 200 steps, never terminal

The controller swings up by pumping energy and holds the top with a linear law. `pendulum-expert`: that controller with
little noise. `pendulum-mixed`: equal shares of copies with little, much and only noise, the last over three levels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.theory.rng import Streams

VERSION = 1
GRAVITY, DT, MAX_SPEED, MAX_TORQUE, MAX_STEPS = 10.0, 0.05, 8.0, 2.0, 200
LOWEST = -(math.pi**2 + 0.1 * MAX_SPEED**2 + 0.001 * MAX_TORQUE**2)
# noise levels, as shares of the copies; `inf` is uniform random torque
NOISE = {"expert": (0.1,), "mixed": (0.1, 1.0, math.inf)}
# mean returns of uniform random torque and of the noiseless controller over 1,000 starts: `reference()`
REFERENCE = (-1229.2, -153.1)


class Pendulum:
    """A BatchedEnv. Observation: cos theta, sin theta, omega (theta = 0 is upright). Action: torque in [-2, 2].

    Starts: theta uniform in [-pi, pi], omega uniform in [-1, 1]."""

    def __init__(self, n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self.n, self.device = n, torch.device(device)
        self.spec = Spec(3, Box((-MAX_TORQUE,), (MAX_TORQUE,)))
        self.max_steps = MAX_STEPS
        self.theta = torch.zeros(n, device=device, dtype=dtype)
        self.omega = torch.zeros(n, device=device, dtype=dtype)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        start = 2 * Streams(seeds.to(self.device)).uniform("pendulum/start", (2,), dtype=self.theta.dtype) - 1
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self.theta = torch.where(mask, math.pi * start[:, 0], self.theta)
        self.omega = torch.where(mask, start[:, 1], self.omega)
        self.t = torch.where(mask, 0, self.t)
        return self._obs()

    def step(self, action: Tensor) -> Step:
        torque = action.to(self.theta).reshape(-1).clamp(-MAX_TORQUE, MAX_TORQUE)
        angle = (self.theta + math.pi) % (2 * math.pi) - math.pi
        reward = -(angle**2 + 0.1 * self.omega**2 + 0.001 * torque**2)
        speed = self.omega + (1.5 * GRAVITY * torch.sin(self.theta) + 3 * torque) * DT
        self.omega = speed.clamp(-MAX_SPEED, MAX_SPEED)
        self.theta = self.theta + self.omega * DT
        self.t = self.t + 1
        return Step(self._obs(), reward, torch.zeros_like(self.t, dtype=torch.bool), self.t >= self.max_steps, {})

    def _obs(self) -> Tensor:
        return torch.stack([self.theta.cos(), self.theta.sin(), self.omega], -1)


class Controller:
    """noise (n,): standard deviation of the torque noise per copy; infinite: uniform torque."""

    def __init__(self, noise: Tensor, seed: int = 0):
        self.noise, self.streams, self.t = noise, copy_streams(seed, len(noise)), 0

    def __call__(self, obs: Tensor) -> Tensor:
        cos, sin, omega = obs.unbind(-1)
        theta = torch.atan2(sin, cos)
        # energy of rotation about the pivot (inertia 1/3) above the upright rest position
        energy = omega**2 / 6 + 0.5 * GRAVITY * (cos - 1)
        pump = -MAX_TORQUE * torch.sign(energy) * torch.where(omega >= 0, 1.0, -1.0)
        hold = -(10.0 * theta + 2.5 * omega)
        torque = torch.where((theta.abs() < 0.6) & (energy.abs() < 1.5), hold, pump)
        finite = torch.where(self.noise.isfinite(), self.noise, 0.0)
        torque = torque.clamp(-MAX_TORQUE, MAX_TORQUE) + finite * self.streams.normal("torque", (), counter=self.t)
        uniform = MAX_TORQUE * (2 * self.streams.uniform("uniform", (), counter=self.t) - 1)
        self.t += 1
        return torch.where(self.noise.isfinite(), torque, uniform).clamp(-MAX_TORQUE, MAX_TORQUE)[:, None]


def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> Pendulum:
    return Pendulum(n, device=device)


def env_task(id: str) -> Task:
    """`pendulum`: the environment without data."""
    return Task(id, Pendulum(1).spec, make_vec, reference=REFERENCE, max_steps=MAX_STEPS)


def task(id: str, *, transitions: int = 100_000, data_seed: int = 0) -> Task:
    """`pendulum-{mixed,expert}`. transitions and data_seed describe the data set."""
    levels = NOISE[id.split("-")[1]]
    config = {"transitions": transitions, "data_seed": data_seed}

    def build() -> OfflineDataset:
        n = max(1, min(500, transitions // MAX_STEPS))
        noise = torch.tensor(levels)[torch.arange(n) % len(levels)]
        facts: dict[str, Any] = {"reward_range": (LOWEST, 0.0), "max_steps": MAX_STEPS}
        return collect(Pendulum(n), Controller(noise, data_seed), transitions, seed=data_seed, meta=facts)

    return Task(
        id,
        Pendulum(1).spec,
        make_vec,
        dataset=lambda: build_once(id, VERSION, config, build),
        reference=REFERENCE,
        max_steps=MAX_STEPS,
    )


def reference(episodes: int = 1000) -> tuple[float, float]:
    """(random, controller): mean returns."""
    means = []
    for level in (math.inf, 0.0):
        env, policy = Pendulum(episodes), Controller(torch.full((episodes,), level))
        obs, total = env.reset(torch.arange(episodes)), torch.zeros(episodes)
        for _ in range(MAX_STEPS):
            step = env.step(policy(obs))
            obs, total = step.obs, total + step.reward
        means.append(round(float(total.mean()), 1))
    return means[0], means[1]
