"""gymnasium environments as BatchedEnv: `gym:Hopper-v5`, `mo:...`, `ogbench:...`, and the user's own functions.

Copies are plain `gymnasium.make` environments stepped in one process. None of them resets by itself (gymnasium's vector
environments do so one step late by default, which writes rows across boundaries); a copy that has ended stands still
until it is reset, which also makes evaluation cheaper.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError, did_you_mean

# D4RL's returns of a random and an expert policy (Fu et al. 2020, d4rl/infos.py): they define the normalised score
D4RL_REFERENCE = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}
EXTRA = {"gym": "data", "mo": "mo", "ogbench": "gc"}


def reference_of(name: str) -> tuple[float, float] | None:
    """D4RL's reference for any id that names one of its three robots: "gym:Hopper-v5", "mujoco/hopper/medium-v0"."""
    words = name.lower().replace("/", "-").replace(":", "-").replace("_", "-").split("-")
    return next((D4RL_REFERENCE[word] for word in words if word in D4RL_REFERENCE), None)


def quiet_mujoco() -> None:
    """MuJoCo prints its warnings and appends them to MUJOCO_LOG.TXT in the current directory; log them instead.

    Notes of its compiler about old model files are not for our users; what the simulation reports is.
    """
    if find_spec("mujoco") is None:
        return
    import mujoco

    log = logging.getLogger("mujoco")

    def hear(text: str) -> None:
        log.log(logging.DEBUG if text.startswith("compiler") else logging.WARNING, text)

    mujoco.set_mju_user_warning(hear)


def spec_of(env: Any, id: str) -> Spec:
    """Box observations are flattened, Discrete ones become one-hot vectors. Raises UserError for other spaces."""
    import gymnasium

    seen, acts = env.observation_space, env.action_space
    if isinstance(seen, gymnasium.spaces.Box):
        dim = int(np.prod(seen.shape))
    elif isinstance(seen, gymnasium.spaces.Discrete):
        dim = int(seen.n)
    else:
        raise UserError(f"env={id} has {type(seen).__name__} observations; valid are Box and Discrete.")
    if isinstance(acts, gymnasium.spaces.Discrete):
        if acts.start != 0:
            raise UserError(f"env={id} counts its actions from {acts.start}; valid is 0.")
        return Spec(dim, Discrete(int(acts.n)))
    if not isinstance(acts, gymnasium.spaces.Box) or len(acts.shape) != 1:
        raise UserError(f"env={id} has the action space {acts}; valid are Discrete and one-dimensional Box.")
    if not (np.isfinite(acts.low).all() and np.isfinite(acts.high).all()):
        raise UserError(f"env={id} has unbounded actions; wrap it so that the action box is finite.")
    return Spec(dim, Box(tuple(acts.low.astype(float).tolist()), tuple(acts.high.astype(float).tolist())))


class GymEnv:
    """n environments made by `make_one()`. `info` carries "cost" and "success" where the environments report them."""

    def __init__(
        self,
        make_one: Callable[[], Any],
        n: int,
        id: str = "gym",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.envs = [make_one() for _ in range(n)]
        self.n, self.spec, self.device, self.dtype = n, spec_of(self.envs[0], id), torch.device(device), dtype
        self.obs = np.zeros((n, self.spec.obs_dim))
        self.over = np.ones(n, dtype=bool)
        shape = getattr(self.envs[0].unwrapped, "reward_space", None)
        self.reward_shape = () if shape is None else shape.shape

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        for i in range(self.n) if mask is None else mask.nonzero()[:, 0].tolist():
            self.obs[i] = self._flat(self.begin(i, int(seeds[i])))
            self.over[i] = False
        return self._observed()

    def begin(self, i: int, seed: int) -> Any:
        """Start an episode in copy i; its first observation."""
        return self.envs[i].reset(seed=seed & 0x7FFFFFFF)[0]

    def step(self, action: Tensor) -> Step:
        numbers = action.detach().cpu().numpy()
        reward = np.zeros((self.n, *self.reward_shape))
        flags = np.zeros((2, self.n), dtype=bool)
        info: dict[str, np.ndarray] = {}
        for i, env in enumerate(self.envs):
            if self.over[i]:
                flags[1, i] = True
                continue
            act = int(numbers[i]) if self.spec.discrete else numbers[i].astype(env.action_space.dtype)
            obs, reward[i], terminal, truncated, facts = env.step(act)
            self.obs[i] = self._flat(obs)
            flags[:, i] = terminal, truncated and not terminal
            self.over[i] = terminal or truncated
            for name in ("cost", "success"):
                if name in facts:
                    info.setdefault(name, np.zeros(self.n))[i] = float(facts[name])
        out = {name: torch.as_tensor(value, dtype=self.dtype, device=self.device) for name, value in info.items()}
        terminal, timeout = torch.as_tensor(flags, device=self.device)
        return Step(self._observed(), self._tensor(reward), terminal, timeout, out)

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _flat(self, obs: Any) -> np.ndarray:
        if np.ndim(obs) == 0 and np.issubdtype(np.asarray(obs).dtype, np.integer):
            return np.eye(self.spec.obs_dim)[int(obs)]
        return np.asarray(obs).reshape(-1)

    def _observed(self) -> Tensor:
        return self._tensor(self.obs)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array.copy()).to(device=self.device, dtype=self.dtype)


def task_of(id: str, make_one: Callable[[], Any], **facts: Any) -> Task:
    """The task around `make_one() -> gymnasium.Env`; facts override the fields of Task."""
    env = make_one()
    spec = spec_of(env, id)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    rewards = getattr(env.unwrapped, "reward_space", None)
    env.close()

    def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> GymEnv:
        return GymEnv(make_one, n, id, device)

    metadata = {"objectives": int(rewards.shape[0])} if rewards is not None else {}
    fields: dict[str, Any] = {"reference": reference_of(id), "max_steps": limit or 1000, "metadata": metadata}
    return Task(id=id, spec=spec, make_vec=make_vec, **(fields | facts))


def task(id: str, **options: Any) -> Task:
    """`gym:<id>`: options are passed to gymnasium.make."""
    import gymnasium

    return registered(id, gymnasium, options)


def mo_task(id: str, **options: Any) -> Task:
    """`mo:<id>` of mo-gymnasium; rewards are vectors (n, K)."""
    return registered(id, foreign_module("mo", "mo_gymnasium"), options)


def registered(id: str, module: Any, options: dict[str, Any], given: str | None = None) -> Task:
    from gymnasium import error

    prefix, _, name = id.partition(":")

    entry = str(getattr(module, "registry", {}).get(name, "")).lower()
    if prefix != "gym" or "mujoco" in entry:
        quiet_mujoco()

    def make_one() -> Any:
        return module.make(name, **options)

    try:
        return task_of(given or id, make_one)
    except error.DependencyNotInstalled as missing:
        extra = EXTRA[prefix]
        raise UserError(f"env={given or id} needs more packages: pip install 'fenchel[{extra}]' ({missing}).") from None
    except error.UnregisteredEnv as unknown:
        import gymnasium

        hint = did_you_mean(name, gymnasium.registry)
        reason = str(unknown).partition(". Did you mean")[0].replace("`", "")
        raise UserError(f"env={given or id}: {reason}.{hint}") from None
    except TypeError as wrong:
        raise UserError(f"env={given or id} refuses task.* options {sorted(options)}: {wrong}") from None


def foreign_module(prefix: str, name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UserError(f"env={prefix}:... needs {name}: pip install 'fenchel[{EXTRA[prefix]}]'.") from None


def as_task(id: str, function: Callable[..., Any], options: dict[str, Any]) -> Task:
    """What a user's function returns: a Task as it is; a gymnasium.Env is wrapped (the function makes the copies)."""
    import gymnasium

    made = function(**options)
    if isinstance(made, Task):
        return made
    if isinstance(made, gymnasium.Env):
        return task_of(id, lambda: function(**options))
    raise UserError(f"env={id} returned a {type(made).__name__}; valid are fenchel.envs.task.Task and gymnasium.Env.")
