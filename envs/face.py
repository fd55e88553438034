"""A batched environment as gymnasium sees it: `GymFace` is one copy, `GymVectorFace` is n copies.

env = GymFace(make("pointmaze-umaze"))            # passes gymnasium.utils.env_checker.check_env
envs = GymVectorFace(make("pointmaze-umaze"), 64)  # autoreset in the same step, final_obs in info
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from fenchel.envs.collect import copy_streams, episode_seeds
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Task
from fenchel.errors import UserError


def spaces(spec: Spec) -> tuple[gymnasium.Space, gymnasium.Space]:
    """(observation space, action space)."""
    seen = gymnasium.spaces.Box(-np.inf, np.inf, (spec.obs_dim,), np.float32)
    if isinstance(spec.action, Box):
        return seen, gymnasium.spaces.Box(np.float32(spec.action.low), np.float32(spec.action.high), dtype=np.float32)
    return seen, gymnasium.spaces.Discrete(spec.action.n)


def _make(task: Task, n: int) -> Any:
    if task.make_vec is None:
        raise UserError(f"env={task.id} is a data set without an environment.")
    return task.make_vec(n, 0)


def _array(x: torch.Tensor) -> np.ndarray:
    return x.detach().cpu().numpy().copy()


class GymFace(gymnasium.Env):
    """One copy with gymnasium's five-tuple; `reset(seed)` is the only source of randomness."""

    metadata = {"render_modes": []}  # noqa: RUF012  gymnasium's own class attribute
    render_mode = None

    def __init__(self, task: Task):
        self.env = _make(task, 1)
        self.observation_space, self.action_space = spaces(task.spec)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**62))
        return _array(self.env.reset(torch.tensor([start])))[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        step = self.env.step(torch.as_tensor(np.asarray(action))[None])
        info = {name: float(value[0]) for name, value in step.info.items()}
        return _array(step.obs)[0], float(step.reward[0]), bool(step.terminal[0]), bool(step.timeout[0]), info


class GymVectorFace(VectorEnv):
    """n copies that reset within the step that ends them (AutoresetMode.SAME_STEP): the returned observation is the
    next episode's first one, and the true successor stands in info["final_obs"] where info["_final_obs"] is True."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, task: Task, n: int):
        self.env, self.num_envs = _make(task, n), n
        self.single_observation_space, self.single_action_space = spaces(task.spec)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        self.seed, self.episode = 0, torch.zeros(n, dtype=torch.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.seed = self.seed + 1 if seed is None else seed
        self.streams, self.episode = copy_streams(self.seed, self.num_envs), torch.zeros_like(self.episode)
        return _array(self.env.reset(episode_seeds(self.streams, self.episode))), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        step = self.env.step(torch.as_tensor(np.asarray(actions)))
        over = step.terminal | step.timeout
        info: dict[str, Any] = {name: _array(value) for name, value in step.info.items()}
        obs = step.obs
        if bool(over.any()):
            info |= {"final_obs": _array(step.obs), "_final_obs": _array(over)}
            self.episode = self.episode + over
            obs = self.env.reset(episode_seeds(self.streams, self.episode), over)
        return _array(obs), _array(step.reward), _array(step.terminal), _array(step.timeout & ~step.terminal), info
