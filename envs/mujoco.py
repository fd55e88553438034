"""Locomotion data in D4RL's manner: gymnasium MuJoCo v5 robots driven by actors that the repository carries.

`envs/actors/<robot>.safetensors` holds about ten snapshots of one training run (`scripts/train_actors.py`): plain MLPs
in float16 with observation normalisation folded in. Actions are sampled with the snapshot's own standard deviation.

    random         uniform actions
    medium         the first snapshot above a third of the best one's return
    expert         the best snapshot, with a third of its standard deviation
    medium-expert  half of each
    medium-replay  equal shares of all snapshots up to medium: a stated mixture, not a literal replay buffer

Scores are normalised by D4RL's reference returns, and are not to be compared cell by cell with D4RL's own data.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.gym import D4RL_REFERENCE, GymEnv, quiet_mujoco, task_of
from fenchel.envs.progress import progress
from fenchel.envs.task import Task
from fenchel.errors import UserError

VERSION = 1
ROBOTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}
COPIES = 20
EXPERT_NOISE = 1 / 3
ACTORS = Path(__file__).resolve().parent / "actors"


@lru_cache
def snapshots(robot: str) -> tuple[str, list[dict[str, Any]], list[dict[str, Tensor]]]:
    """(algorithm, manifest rows {"steps", "return", "role"}, float32 tensors per snapshot), in order of training."""
    from safetensors import safe_open

    path = ACTORS / f"{robot}.safetensors"
    if not path.exists():
        raise UserError(f"the actors of {robot} are missing ({path.name}); make them with scripts/train_actors.py.")
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    rows = json.loads(facts["snapshots"])
    split = [{n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(f"{k}.")} for k in range(len(rows))]
    return facts["algorithm"], rows, split


def actors_hash(robot: str) -> str:
    snapshots(robot)  # the error for a missing file
    return hashlib.blake2b((ACTORS / f"{robot}.safetensors").read_bytes(), digest_size=5).hexdigest()


def members(robot: str, kind: str) -> list[int]:
    """Which snapshots drive equal shares of the copies."""
    _, rows, _ = snapshots(robot)
    role = {row["role"]: k for k, row in enumerate(rows)}
    if kind == "medium-replay":
        return list(range(role["medium"] + 1))
    return [role[word] for word in kind.split("-")]


class Actor:
    """Several snapshots at once: the copies stand in equal groups, group k is driven by member k.

    PPO: tanh MLP, normal action with one log std, clipped to [-1, 1]. SAC: relu MLP, tanh of a normal.
    noise scales the standard deviation, 0 is the deterministic policy; None: 1, and EXPERT_NOISE for the expert.
    """

    def __init__(self, robot: str, chosen: list[int], n: int, seed: int = 0, noise: float | None = None):
        self.algorithm, rows, tensors = snapshots(robot)
        scales = [EXPERT_NOISE if rows[k]["role"] == "expert" else 1.0 for k in chosen]
        self.noise = torch.tensor(scales if noise is None else [noise] * len(chosen))[:, None, None]
        self.p = {name: torch.stack([tensors[k][name] for k in chosen]) for name in tensors[0]}
        self.layers = sum(name.startswith("w") and name[1:].isdigit() for name in self.p)
        self.groups, self.streams, self.t = len(chosen), copy_streams(seed, n), 0

    @property
    def sizes(self) -> tuple[int, int]:
        """Dimensions of observations and actions."""
        return self.p["w0"].shape[-1], self.p[f"w{self.layers - 1}"].shape[-2]

    def __call__(self, obs: Tensor) -> Tensor:
        mean, std = self.law(obs.reshape(self.groups, -1, obs.shape[-1]))
        draw = self.streams.normal("action", mean.shape[-1:], counter=self.t).reshape(mean.shape)
        self.t += 1
        return self.squash(mean + std * draw).reshape(len(obs), -1)

    def law(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """obs (groups, n, O) -> mean and standard deviation of the normal law that `squash` brings into [-1, 1]."""
        x = obs
        for k in range(self.layers - 1):
            x = self._linear(x, f"w{k}", f"b{k}")
            x = x.tanh() if self.algorithm == "ppo" else x.relu()
        mean = self._linear(x, f"w{self.layers - 1}", f"b{self.layers - 1}")
        if self.algorithm == "ppo":
            log_std = self.p["log_std"][:, None]
        else:
            log_std = self._linear(x, "w_log_std", "b_log_std").clamp(-20, 2)
        return mean, self.noise * log_std.exp()

    def squash(self, raw: Tensor) -> Tensor:
        return raw.clamp(-1, 1) if self.algorithm == "ppo" else raw.tanh()

    def _linear(self, x: Tensor, weight: str, bias: str) -> Tensor:
        return torch.baddbmm(self.p[bias][:, None], x, self.p[weight].transpose(1, 2))


class RandomActor:
    def __init__(self, dim: int, n: int, seed: int = 0):
        self.dim, self.streams, self.t = dim, copy_streams(seed, n), 0

    def __call__(self, obs: Tensor) -> Tensor:
        self.t += 1
        return 2 * self.streams.uniform("action", (self.dim,), counter=self.t) - 1


def make_one(robot: str) -> Any:
    import gymnasium

    try:
        return gymnasium.make(ROBOTS[robot], disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled:
        raise UserError(f"env={robot}-... needs MuJoCo: pip install 'fenchel[data]'.") from None


def task(id: str, *, transitions: int = 200_000, data_seed: int = 0) -> Task:
    """`{hopper,halfcheetah,walker2d}-{random,medium,medium-replay,medium-expert,expert}`.

    transitions and data_seed describe the data set; the environment is gymnasium's, 1,000 steps per episode.
    """
    robot, _, kind = id.partition("-")
    one = partial(make_one, robot)
    quiet_mujoco()

    def dataset() -> OfflineDataset:
        source = "" if kind == "random" else actors_hash(robot)
        config = {"transitions": transitions, "data_seed": data_seed, "actors": source}
        return build_once(id, VERSION, config, build)

    def build() -> OfflineDataset:
        chosen = [] if kind == "random" else members(robot, kind)
        groups = max(1, len(chosen))
        n = groups * max(1, min(COPIES, transitions) // groups)
        env = GymEnv(one, n, id)
        policy = Actor(robot, chosen, n, data_seed) if chosen else RandomActor(len(env.spec.action.low), n, data_seed)
        with progress(f"collecting {id}", transitions) as advance:
            data = collect(env, policy, transitions, seed=data_seed, meta={"max_steps": 1000}, advance=advance)
        env.close()
        return data

    return task_of(id, one, dataset=dataset, reference=D4RL_REFERENCE[robot], max_steps=1000)
