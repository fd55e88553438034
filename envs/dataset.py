"""Transitions recorded by somebody else: flat tensors on one device, with episode boundaries.

Row i is (obs, action, reward, next_obs) and two flags. `terminal`: the problem ended, nothing follows. `timeout`: we
stopped watching, the value goes on, so that time-outs are never terminals. The rows of an episode are consecutive.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fenchel.envs.audit import Finding, audit, refuse
from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.errors import UserError

FLAGS = ("terminal", "timeout")
COLUMNS = ("obs", "action", "reward", "terminal", "timeout", "next_obs")


class DataWarning(UserWarning):
    """The audit found something that does not forbid learning."""


@dataclass
class OfflineDataset:
    """obs, next_obs (N, O) float; action (N, A) float or (N,) int64; reward (N,) or (N, K); flags (N,) bool.

    extras: further columns (N, ...), such as "cost". meta: JSON facts declared with the data; the audit reads
    "reward_range" (low, high), "max_steps", "action_range" (lows, highs), "goals" (rewards may be all equal) and
    "jumps" (the dynamics make huge steps). Use the constructors below, which check.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    terminal: Tensor
    timeout: Tensor
    next_obs: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def __len__(self) -> int:
        return self.obs.shape[0]

    def columns(self) -> dict[str, Tensor]:
        """All columns by name, extras last."""
        return {name: getattr(self, name) for name in COLUMNS} | self.extras

    @property
    def device(self) -> torch.device:
        return self.obs.device

    @property
    def ends(self) -> Tensor:
        """(N,) bool: the last row of an episode."""
        return self.terminal | self.timeout

    @cached_property
    def episode_ends(self) -> Tensor:
        """(E,) int64: one past the last row of each episode, so that rows start:end are the episode."""
        return self.ends.nonzero()[:, 0] + 1

    @cached_property
    def episode_starts(self) -> Tensor:
        """(E,) int64: the first row of each episode."""
        return torch.cat([self.episode_ends.new_zeros(1), self.episode_ends[:-1]])

    def episode_returns(self) -> Tensor:
        """(E,) or (E, K): undiscounted sums of reward."""
        total = torch.cat([torch.zeros_like(self.reward[:1]), self.reward]).double().cumsum(0)
        return (total[self.episode_ends] - total[self.episode_starts]).to(self.reward.dtype)

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits of the contents (columns, not the metadata): equal data, equal hash."""
        digest = hashlib.blake2b(digest_size=8)
        for name, column in sorted(self.columns().items()):
            column = column.detach().cpu().contiguous()
            digest.update(f"{name} {column.dtype} {tuple(column.shape)};".encode())
            digest.update(column.view(torch.uint8).numpy().data if column.numel() else b"")
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> OfflineDataset:
        moved = {name: column.to(device) for name, column in self.columns().items()}
        extras = {name: moved.pop(name) for name in self.extras}
        return replace(self, **moved, extras=extras)

    def spec(self) -> Spec:
        """Read off the columns: the action box is the declared one, or the range of the data rounded outwards."""
        extras = {name: tuple(column.shape[1:]) for name, column in self.extras.items()}
        if not self.action.is_floating_point():
            return Spec(self.obs.shape[1], Discrete(int(self.action.max()) + 1), extras)
        if "action_range" in self.meta:
            low, high = (tuple(map(float, bound)) for bound in self.meta["action_range"])
        else:
            high = tuple(max(1.0, float(x)) for x in self.action.abs().amax(0).ceil())
            low = tuple(-x for x in high)
        return Spec(self.obs.shape[1], Box(low, high), extras)

    # constructors -----------------------------------------------------------------------------------------------
    @classmethod
    def from_arrays(
        cls,
        obs: Any,
        action: Any,
        reward: Any,
        terminal: Any,
        timeout: Any = None,
        next_obs: Any = None,
        *,
        extras: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        check: bool = True,
    ) -> OfflineDataset:
        """NumPy arrays or tensors, rows in order of time, episodes one after the other.

        A missing `timeout` means that only the last row may stop without a terminal. A missing `next_obs` is taken
        from the following row; the successor of a time-out is then unknown, so such a row is dropped and the row
        before it becomes the time-out. Raises UserError for shapes that do not match and for faults of the audit.
        """
        columns = {"obs": obs, "action": action, "reward": reward, "terminal": terminal}
        columns["timeout"] = np.zeros(len(obs), dtype=bool) if timeout is None else timeout
        columns |= {} if next_obs is None else {"next_obs": next_obs}
        tensors = {name: _tensor(name, value, device, dtype) for name, value in columns.items()}
        more = {name: _tensor(name, value, device, dtype) for name, value in (extras or {}).items()}
        _check_shapes(tensors | more)
        meta = json.loads(json.dumps(dict(meta or {})))
        if not bool(tensors["terminal"][-1]):
            tensors["timeout"] = tensors["timeout"].clone()
            tensors["timeout"][-1] = True
        if next_obs is None:
            tensors, more = _derive_next_obs(tensors, more)
            meta["derived_next_obs"] = True
        data = cls(**tensors, extras=more, meta=meta)
        return data.checked() if check else data

    def checked(self) -> OfflineDataset:
        """Runs the audit: raises UserError for a fault, warns (DataWarning) of the rest, keeps all in `findings`."""
        self.findings = audit(self)
        name = str(self.meta.get("name", "of arrays"))
        refuse(name, self.findings)
        for finding in self.findings:
            warnings.warn(f"data set {name}: {finding}.", DataWarning, stacklevel=3)
        return self

    @classmethod
    def from_policy(
        cls, env: Any, policy: Callable[[Tensor], Tensor], transitions: int, *, seed: int = 0, **options: Any
    ) -> OfflineDataset:
        """Runs `policy(obs (n, O)) -> action` in `env`, a Task or a BatchedEnv; see `fenchel.envs.collect`."""
        from fenchel.envs.collect import collect

        return collect(env, policy, transitions, seed=seed, **options)

    @classmethod
    def from_minari(cls, name: str, **options: Any) -> OfflineDataset:
        """A Minari data set on this machine; nothing is downloaded."""
        from fenchel.envs.formats import from_minari

        return from_minari(name, **options)

    def to_minari(self, name: str, **options: Any) -> Any:
        """Writes a Minari data set `namespace/name-v0` and returns it."""
        from fenchel.envs.formats import to_minari

        return to_minari(self, name, **options)

    @classmethod
    def from_d4rl_hdf5(cls, path: str | Path, **options: Any) -> OfflineDataset:
        """A D4RL HDF5 file (observations, actions, rewards, terminals[, timeouts, next_observations])."""
        from fenchel.envs.formats import from_d4rl_hdf5

        return from_d4rl_hdf5(path, **options)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> OfflineDataset:
        """A file written by `save`; a file that differs from what was written in any byte raises UserError."""
        from fenchel.envs.cache import load

        return load(path).to(device)

    def save(self, path: str | Path) -> None:
        from fenchel.envs.cache import save

        save(self, path)


def _tensor(name: str, value: Any, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"column {name} is not an array of numbers: {error}") from None
    if name in FLAGS:
        if tensor.is_floating_point() and not bool(((tensor == 0) | (tensor == 1)).all()):
            raise UserError(f"column {name} must hold 0 or 1, and it holds other numbers.")
        return tensor.bool().reshape(-1).to(device)
    if name == "action" and not tensor.is_floating_point():
        if tensor.dim() == 2 and tensor.shape[1] == 1:
            tensor = tensor[:, 0]
        return tensor.long().to(device)
    if name == "reward" and tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    return tensor.to(device=device, dtype=dtype)


def _check_shapes(tensors: dict[str, Tensor]) -> None:
    rows = tensors["obs"].shape[0] if tensors["obs"].dim() == 2 else 0
    if rows == 0:
        raise UserError(f"column obs must have shape (rows, dimension), and it has {tuple(tensors['obs'].shape)}.")
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or tensor.shape[0] != rows:
            raise UserError(f"column {name} must have {rows} rows like obs, and its shape is {tuple(tensor.shape)}.")
    if "next_obs" in tensors and tensors["next_obs"].shape != tensors["obs"].shape:
        raise UserError("column next_obs must have the shape of obs.")
    discrete = not tensors["action"].is_floating_point()
    if tensors["action"].dim() != (1 if discrete else 2):
        raise UserError("column action must have shape (rows,) of integers or (rows, dimension) of floats.")
    if discrete and bool((tensors["action"] < 0).any()):
        raise UserError("column action holds a negative integer; discrete actions are 0, 1, ...")


def _derive_next_obs(
    tensors: dict[str, Tensor], extras: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    obs, terminal, timeout = tensors["obs"], tensors["terminal"], tensors["timeout"]
    following = torch.cat([obs[1:], obs[-1:]])
    # the successor of a terminal row is never read, since its discount is 0
    tensors["next_obs"] = torch.where(terminal[:, None], obs, following)
    keep = ~(timeout & ~terminal)
    cut = torch.cat([~keep[1:], keep.new_zeros(1)]) & ~terminal
    tensors["timeout"] = cut
    if not bool(keep.any()):
        raise UserError("without next_obs every episode needs two rows, and no episode has them.")
    return {k: v[keep] for k, v in tensors.items()}, {k: v[keep] for k, v in extras.items()}
