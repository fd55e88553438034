"""Tasks that cost 1 for every step beyond a speed: Safety-Gymnasium's velocity tasks, and a pendulum.

    {hopper,halfcheetah}-velocity    cost = 1[x velocity > threshold] on gymnasium's v5 robots, reward unchanged
    pendulum-velocity                cost = 1[|angular velocity| > 4], native and quick
    halfcheetah-velocity-mixed       data: actors of four strengths, their actions scaled to five paces

The robots' thresholds are those of the v1 tasks (half of what an unconstrained agent of theirs reached). The velocity
is `x_velocity` of the step, the mean over its simulated time; falling over pays nothing. A time-out is no violation.

In the data the paces are from 0.45, which never exceeds the threshold, to 0.8, which does nearly always: between them
reward and cost rise together. One actor and one pace per copy, 20 copies, the actors' own noise.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.gym import D4RL_REFERENCE, GymEnv, quiet_mujoco, task_of
from fenchel.envs.mujoco import Actor, actors_hash, make_one
from fenchel.envs.pendulum import MAX_STEPS, REFERENCE, Pendulum
from fenchel.envs.progress import progress
from fenchel.envs.spec import Spec
from fenchel.envs.task import Step, Task

VERSION = 1
THRESHOLD = {"hopper": 0.7402, "halfcheetah": 3.2096, "pendulum": 4.0}
LIMITS = {"hopper": (25.0, 100.0, 400.0), "halfcheetah": (25.0, 100.0, 400.0), "pendulum": (2.0, 5.0, 8.0)}
# least and greatest returns of the mixed data; without data those of the robot's or the pendulum's usual score
REWARDS = {"hopper": D4RL_REFERENCE["hopper"], "halfcheetah": (563.6, 5151.8), "pendulum": REFERENCE}
SNAPSHOTS = (2, 3, 4, 7)  # of envs/actors/halfcheetah: medium to expert
PACES = (0.45, 0.5, 0.55, 0.6, 0.8)


class SpeedCost(gymnasium.Wrapper):
    """info["cost"] of a robot that reports its `x_velocity`."""

    def __init__(self, env: gymnasium.Env, threshold: float):
        super().__init__(env)
        self.threshold = threshold

    def step(self, action: Any) -> tuple:
        obs, reward, terminal, truncated, info = self.env.step(action)
        return obs, reward, terminal, truncated, {**info, "cost": float(info["x_velocity"] > self.threshold)}


class SpeedPendulum(Pendulum):
    """The pendulum with info["cost"] (n,)."""

    def __init__(self, n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__(n, device=device, dtype=dtype)
        self.spec = _costly(self.spec)

    def step(self, action: Tensor) -> Step:
        result = super().step(action)
        return result._replace(info={"cost": (self.omega.abs() > THRESHOLD["pendulum"]).to(self.omega.dtype)})


class Paced:
    """SNAPSHOTS x PACES in equal groups of copies: the actor's action times the pace."""

    def __init__(self, n: int, seed: int = 0):
        self.actor = Actor("halfcheetah", [k for k in SNAPSHOTS for _ in PACES], n, seed, noise=1.0)
        self.pace = torch.tensor(PACES * len(SNAPSHOTS)).repeat_interleave(n // (len(SNAPSHOTS) * len(PACES)))[:, None]

    def __call__(self, obs: Tensor) -> Tensor:
        return self.pace * self.actor(obs)


def pendulum_task(id: str) -> Task:
    """`pendulum-velocity`: the environment without data."""
    return Task(
        id,
        SpeedPendulum(1).spec,
        lambda n, seed=0, device="cpu": SpeedPendulum(n, device=device),
        reference=REWARDS["pendulum"],
        max_steps=MAX_STEPS,
        metadata={"cost": {"unit": "episode", "limits": LIMITS["pendulum"]}},
    )


def env_task(id: str) -> Task:
    """`{hopper,halfcheetah}-velocity`: gymnasium's robot with a cost, 1,000 steps per episode, without data."""
    robot = id.partition("-")[0]
    quiet_mujoco()
    task = task_of(id, partial(make_one, robot), reference=REWARDS[robot], max_steps=1000)
    spec = _costly(task.spec)

    def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> GymEnv:
        env = GymEnv(lambda: SpeedCost(make_one(robot), THRESHOLD[robot]), n, id, device)
        env.spec = spec
        return env

    return replace(task, spec=spec, make_vec=make_vec, metadata={"cost": {"unit": "episode", "limits": LIMITS[robot]}})


def mixed_task(id: str, *, transitions: int = 200_000, data_seed: int = 0) -> Task:
    """`halfcheetah-velocity-mixed`. transitions and data_seed describe the data set."""
    task = env_task(id)

    def dataset() -> OfflineDataset:
        config = {"transitions": transitions, "data_seed": data_seed, "actors": actors_hash("halfcheetah")}
        return build_once(id, VERSION, config, build)

    def build() -> OfflineDataset:
        groups = len(SNAPSHOTS) * len(PACES)
        env = task.make_vec(groups * max(1, min(20, transitions) // groups))
        facts = {"max_steps": 1000, "budget_kind": "episode"}
        with progress(f"collecting {id}", transitions) as advance:
            data = collect(env, Paced(env.n, data_seed), transitions, seed=data_seed, meta=facts, advance=advance)
        env.close()
        return data

    return replace(task, dataset=dataset)


def _costly(spec: Spec) -> Spec:
    return replace(spec, extras={**spec.extras, "cost": ()})
