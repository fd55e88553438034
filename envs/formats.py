"""Foreign data: Minari in and out, D4RL's HDF5 in. Nothing is downloaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.gym import reference_of, task_of
from fenchel.envs.spec import Box, Discrete
from fenchel.envs.task import Task
from fenchel.errors import UserError

D4RL_ENV = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4"}


# Minari ------------------------------------------------------------------------------------------------------------
def from_minari(name: str, *, device: torch.device | str = "cpu", check: bool = True) -> OfflineDataset:
    """A local Minari set with array observations. Truncations are time-outs; an unmarked end is one too.

    Raises UserError if the set is not on this machine, has dictionary observations, or its contents differ from the
    hash that `to_minari` wrote.
    """
    source = _minari(name)
    parts: dict[str, list[np.ndarray]] = {key: [] for key in _KEYS}
    for episode in source.iterate_episodes():
        if isinstance(episode.observations, dict | tuple):
            raise UserError(f"minari:{name} has {type(episode.observations).__name__} observations; valid are arrays.")
        steps = len(episode.rewards)
        seen = np.asarray(episode.observations).reshape(steps + 1, -1)
        terminal = np.asarray(episode.terminations, dtype=bool)
        timeout = np.asarray(episode.truncations, dtype=bool) & ~terminal
        timeout[-1] |= not terminal[-1]
        row = (seen[:-1], np.asarray(episode.actions), np.asarray(episode.rewards), terminal, timeout, seen[1:])
        for key, value in zip(_KEYS, row, strict=True):
            parts[key].append(value)
        for key, value in (episode.infos or {}).items():
            if key.startswith("extra_"):
                parts.setdefault(key, []).append(np.asarray(value)[:steps])
    columns = {key: np.concatenate(values) for key, values in parts.items()}
    extras = {key.removeprefix("extra_"): columns.pop(key) for key in list(columns) if key.startswith("extra_")}
    facts = json.loads(source.storage.metadata.get("fenchel", "{}"))
    meta = {"name": name} | facts.get("meta", {})
    data = OfflineDataset.from_arrays(**columns, extras=extras, meta=meta, device=device, check=check)
    if facts and facts["hash"] != data.hash:
        raise UserError(f"minari:{name} is damaged: its contents differ from what was written.")
    return data


_KEYS = ("obs", "action", "reward", "terminal", "timeout", "next_obs")


def to_minari(data: OfflineDataset, name: str, *, env: str | None = None, description: str | None = None) -> Any:
    """Writes the Minari set `name` ("namespace/set-v0"); env: a gymnasium id that `recover_environment` shall make."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    columns = {key: column.cpu().numpy() for key, column in data.columns().items()}
    buffers = []
    for i, (a, b) in enumerate(zip(data.episode_starts.tolist(), data.episode_ends.tolist(), strict=True)):
        infos = {f"extra_{key}": np.concatenate([columns[key][a:b], columns[key][b - 1 : b]]) for key in data.extras}
        seen = np.concatenate([columns["obs"][a:b], columns["next_obs"][b - 1 : b]])
        rows = {key: columns[source][a:b] for key, source in _MINARI_COLUMNS}
        buffers.append(EpisodeBuffer(id=i, observations=seen, infos=infos, **rows))
    action = data.spec().action
    space: gymnasium.Space
    if isinstance(action, Discrete):
        space = gymnasium.spaces.Discrete(action.n)
    else:
        space = gymnasium.spaces.Box(np.float32(action.low), np.float32(action.high))
    made = minari.create_dataset_from_buffers(
        name,
        buffers,
        env=env,
        action_space=space,
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (data.obs.shape[1],), np.float32),
        description=description or "Written by Fenchel.",
        algorithm_name="fenchel",
        author="fenchel",
        author_email="fenchel",
        code_permalink="fenchel",
    )
    made.storage.update_metadata({"fenchel": json.dumps({"hash": data.hash, "meta": data.meta})})
    return made


_MINARI_COLUMNS = (
    ("actions", "action"),
    ("rewards", "reward"),
    ("terminations", "terminal"),
    ("truncations", "timeout"),
)


def _minari(name: str) -> Any:
    import minari

    try:
        return minari.load_dataset(name)
    except FileNotFoundError:
        here = ", ".join(sorted(minari.list_local_datasets())) or "none"
        raise UserError(f"minari:{name} is not on this machine (local sets: {here}); minari download {name}.") from None
    except (ValueError, AttributeError) as error:
        raise UserError(f"minari:{name} is no valid Minari name ({error}); valid is namespace/name-v0.") from None


def minari_task(id: str) -> Task:
    """`minari:<name>`: the local set with its environment, where the set says how to make one."""
    name = id.partition(":")[2]
    source = _minari(name)
    metadata = source.storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    reference = reference_of(name) if low is None or high is None else (float(low), float(high))
    load = cache(lambda: from_minari(name))
    if source.env_spec is not None:
        return task_of(id, source.recover_environment, dataset=load, reference=reference)
    return Task(id, load().spec(), None, load, reference)


# D4RL --------------------------------------------------------------------------------------------------------------
def from_d4rl_hdf5(
    path: str | Path,
    *,
    max_steps: int | None = None,
    repair: bool = False,
    device: torch.device | str = "cpu",
    check: bool = True,
) -> OfflineDataset:
    """observations, actions, rewards, terminals, and if present timeouts and next_observations of a D4RL file.

    max_steps: where the file has no timeouts, an episode is cut after so many steps (1,000 for D4RL's robots).
    repair: a row that is both terminal and time-out stays terminal; without it such a file is refused.
    """
    path = Path(path)
    columns = _read_hdf5(path)
    limit = max_steps or (1000 if reference_of(path.stem) else None)
    terminal = columns["terminal"].astype(bool).reshape(-1)
    meta: dict[str, Any] = {"name": path.name} | ({} if limit is None else {"max_steps": limit})
    if "timeout" not in columns:
        columns["timeout"] = _cut_after(terminal, limit)
        meta["derived_timeouts"] = True
    elif repair:
        columns["timeout"] = columns["timeout"].astype(bool).reshape(-1) & ~terminal
    columns["action"] = columns["action"].astype(np.float32) if columns["action"].ndim > 1 else columns["action"]
    return OfflineDataset.from_arrays(**columns, meta=meta, device=device, check=check)


_D4RL_COLUMNS = {
    "observations": "obs", "actions": "action", "rewards": "reward", "terminals": "terminal",
    "timeouts": "timeout", "next_observations": "next_obs",
}  # fmt: skip


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    if not path.is_file():
        raise UserError(f"d4rl:{path} does not exist.")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in list(_D4RL_COLUMNS)[:4] if key not in file]
            if missing:
                raise UserError(
                    f"d4rl:{path} has no column {missing[0]}; it needs {', '.join(list(_D4RL_COLUMNS)[:4])}."
                )
            return {to: np.asarray(file[key][()]) for key, to in _D4RL_COLUMNS.items() if key in file}
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"d4rl:{path} cannot be read: {error}.") from None


def _cut_after(terminal: np.ndarray, limit: int | None) -> np.ndarray:
    timeout = np.zeros(len(terminal), dtype=bool)
    steps = 0
    for i, end in enumerate(terminal):
        steps += 1
        timeout[i] = limit is not None and steps >= limit and not end
        steps = 0 if end or timeout[i] else steps
    return timeout


def d4rl_task(id: str, *, env: str = "", max_steps: int = 0, repair: bool = False) -> Task:
    """`d4rl:/path/hopper_medium-v2.hdf5`. env: the gymnasium id to evaluate in; for D4RL's robots the v4 one."""
    path = Path(id.partition(":")[2]).expanduser()
    data = from_d4rl_hdf5(path, max_steps=max_steps or None, repair=repair)
    words = path.stem.lower().replace("-", "_").split("_")
    name = env or next((D4RL_ENV[word] for word in words if word in D4RL_ENV), "")
    if not name:
        return Task(id, data.spec(), None, lambda: data, None, max_steps=max_steps or 1000)
    from fenchel.envs.gym import task as gym_task

    made = gym_task(f"gym:{name}")
    if made.spec.obs_dim != data.obs.shape[1] or isinstance(made.spec.action, Box) != data.action.is_floating_point():
        raise UserError(f"task.env={name} does not fit d4rl:{path.name}: the observations or actions differ.")
    return Task(id, made.spec, made.make_vec, lambda: data, reference_of(path.stem), max_steps=made.max_steps)
