"""Collect transitions from a batched environment.

The environment never resets by itself, so that a row's successor is always the true one: a row ends an episode or its
successor is the next row's observation, and no row leads across a boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box
from fenchel.envs.task import BatchedEnv, Task
from fenchel.errors import UserError
from fenchel.theory.rng import Streams

Policy = Callable[[Tensor], Tensor]


def episode_seeds(copies: Streams, episode: Tensor) -> Tensor:
    """(n,) non-negative int64: the seed of episode number `episode[i]` of copy i."""
    return copies.bits("episode", (), counter=episode[:, None]) & (2**63 - 1)


def copy_streams(seed: int, n: int) -> Streams:
    """One stream per copy, a function of (seed, index of the copy) only."""
    return Streams(Streams([seed]).bits("copy", (n,))[0])


def collect(
    env: Task | BatchedEnv,
    policy: Policy,
    transitions: int,
    *,
    seed: int = 0,
    copies: int = 100,
    meta: dict[str, Any] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
    check: bool = True,
) -> OfflineDataset:
    """`transitions` rows of `policy` in `env`; the rows of each copy stand together, in order of time.

    A policy may have a method `begin(fresh (n,) bool)`, called before it acts whenever copies start an episode. What is
    unfinished at the end becomes a time-out. `advance(rows)` is told the number of new rows, for a progress bar.
    """
    if transitions < 1:
        raise UserError(f"transitions={transitions} must be at least 1.")
    facts = dict(meta or {})
    if isinstance(env, Task):
        facts.setdefault("max_steps", env.max_steps)
        if env.make_vec is None:
            raise UserError(f"env={env.id} has no environment to collect from.")
        env = env.make_vec(min(copies, transitions), seed)
    steps = -(-transitions // env.n)
    columns = _run(env, policy, steps, copy_streams(seed, env.n), advance)
    columns["timeout"][:, -1] |= ~columns["terminal"][:, -1]
    flat = {name: column.flatten(0, 1)[:transitions] for name, column in columns.items()}
    names = ("obs", "action", "reward", "terminal", "timeout", "next_obs")
    extras = {name: column for name, column in flat.items() if name not in names}
    if isinstance(env.spec.action, Box):
        facts.setdefault("action_range", (env.spec.action.low, env.spec.action.high))
    return OfflineDataset.from_arrays(**{k: flat[k] for k in names}, extras=extras, meta=facts, check=check)


def _run(
    env: BatchedEnv, policy: Policy, steps: int, streams: Streams, advance: Callable[[int], None]
) -> dict[str, Tensor]:
    """Columns (n, steps, ...)."""
    begin = getattr(policy, "begin", None)
    episode = torch.zeros(env.n, dtype=torch.int64)
    fresh = torch.ones(env.n, dtype=torch.bool)
    obs = env.reset(episode_seeds(streams, episode))
    columns: dict[str, Tensor] = {}
    for t in range(steps):
        if begin is not None and bool(fresh.any()):
            begin(fresh)
        action = policy(obs)
        step = env.step(action)
        row = {"obs": obs, "action": action, "reward": step.reward, "terminal": step.terminal}
        row |= {"timeout": step.timeout & ~step.terminal, "next_obs": step.obs}
        row |= {name: step.info[name] for name in env.spec.extras}
        for name, value in row.items():
            if name not in columns:
                columns[name] = value.new_empty((env.n, steps, *value.shape[1:]), device="cpu")
            columns[name][:, t] = value
        fresh = (step.terminal | step.timeout).cpu()
        obs = step.obs
        if bool(fresh.any()):
            episode = episode + fresh
            obs = env.reset(episode_seeds(streams, episode), fresh.to(obs.device))
        advance(env.n)
    return columns
