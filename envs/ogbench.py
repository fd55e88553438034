"""OGBench's environments with goals, and its data from files: `ogbench:pointmaze-medium-navigate-v0`.

OGBench names tasks by data set: `pointmaze-medium-navigate-v0` acts in the environment `pointmaze-medium-v0`, towards
the environment's own goals in turn; a `...-singletask-...` name has one reward and no goals. Nothing is downloaded: the
data set NAME is read from NAME.npz in task.folder, whose rows hold observations, actions and ends of episodes. With
task.data=native a point maze takes our own data set of the same generator (`fenchel.envs.goalmaze`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fenchel.envs import goalmaze
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.gym import GymEnv, foreign_module, registered
from fenchel.envs.task import Task
from fenchel.errors import UserError, unknown

KINDS = ("navigate", "stitch", "explore", "play", "noisy", "easy", "hard")
COLUMNS = ("observations", "actions", "terminals")
GOALS = 5  # evaluation problems of every environment with goals


class GoalGymEnv(GymEnv):
    """Copy i acts towards the environment's goal i mod GOALS; `goal` (n, obs_dim) is an observation."""

    def __init__(self, make_one: Callable[[], Any], n: int, id: str, device: torch.device | str = "cpu"):
        super().__init__(make_one, n, id, device)
        self.goals = np.zeros_like(self.obs)

    def begin(self, i: int, seed: int) -> np.ndarray:
        np.random.seed(seed & 0x7FFFFFFF)  # noqa: NPY002  OGBench draws starts and goals from numpy's global state
        obs, info = self.envs[i].reset(seed=seed & 0x7FFFFFFF, options={"task_id": 1 + i % GOALS})
        self.goals[i] = self._flat(info["goal"])
        return obs

    @property
    def goal(self) -> Tensor:
        return self._tensor(self.goals)


def task(id: str, *, data: Literal["file", "native"] = "file", folder: str = "~/.ogbench/data", **options: Any) -> Task:
    """`ogbench:<data set>`. folder: where NAME.npz lies; the other options go to gymnasium.make."""
    foreign_module("ogbench", "ogbench")
    import gymnasium

    name = id.partition(":")[2]
    if data not in ("file", "native"):
        raise unknown("task.data", data, ("file", "native"))
    words = [word for word in name.split("-") if word not in KINDS]
    options = {"render_mode": None} | options
    base = registered("ogbench:" + "-".join(words), gymnasium, options, given=id)
    if "singletask" in words:
        return base
    own = name.removesuffix("-v0")

    def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> GoalGymEnv:
        return GoalGymEnv(lambda: gymnasium.make("-".join(words), **options), n, id, device)

    def dataset() -> OfflineDataset:
        return _native(id, own)() if data == "native" else read(Path(folder).expanduser() / f"{name}.npz")

    if data == "native":
        _native(id, own)  # a name without one is refused before anything is written
    spec = replace(base.spec, goal=tuple(range(base.spec.obs_dim)))
    return replace(base, spec=spec, make_vec=make_vec, dataset=dataset, reference=(0.0, 1.0), metadata={"goals": GOALS})


def _native(id: str, name: str) -> Callable[[], OfflineDataset]:
    parts = name.split("-")
    if len(parts) != 3 or parts[0] != "pointmaze" or parts[1] not in goalmaze.PROBLEMS:
        raise UserError(f"task.data=native is there for point mazes only, not for env={id}; use task.data=file.")
    made = goalmaze.task(name).dataset
    assert made is not None
    return made


def read(path: Path) -> OfflineDataset:
    """OGBench's compact files: a row (o_t, a_t); the last row of an episode holds its last state, and no transition."""
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in COLUMNS if name not in file]
            columns = {name: file[name] for name in COLUMNS if name in file}
    except FileNotFoundError:
        raise UserError(f"{path} is not there; put OGBench's file into task.folder, nothing is downloaded.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a file of OGBench ({error}).") from None
    if missing:
        raise UserError(f"{path} has no {missing[0]}; OGBench's files have {', '.join(COLUMNS)}.")
    end = columns["terminals"].astype(bool)
    rows = np.flatnonzero(~end)
    if len(end) < 2 or not end[-1] or not len(rows):
        raise UserError(f"{path} must hold whole episodes of two rows or more: its last row has to end one.")
    return OfflineDataset.from_arrays(
        columns["observations"][rows],
        columns["actions"][rows],
        np.zeros(len(rows), np.float32),
        np.zeros(len(rows), bool),
        end[rows + 1],
        columns["observations"][rows + 1],
        meta={"goals": True, "jumps": True},
    )
