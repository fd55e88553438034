"""Checkpoints: tensors and a JSON header in one safetensors file, replaced atomically.

A reader sees the old file or the new one, never a part: the new one is written beside it, synced, then renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.errors import UserError

FORMAT = 1
TEMPORARY = ".tmp"


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, {"fenchel": json.dumps({"format": FORMAT, **header})})
    temporary = path.with_name(f"{path.name}{TEMPORARY}{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # make the rename itself durable; Windows has no handle of a directory
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, header); raises UserError for a file that is not there or not one of ours."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["fenchel"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} is not there.") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a checkpoint of Fenchel ({error}).") from None
    if header.get("format") != FORMAT:
        raise UserError(f"{path} has format {header.get('format')}; valid is {FORMAT}.")
    return tensors, header


def clean(folder: Path) -> None:
    """Remove what writers that were killed have left."""
    for stale in folder.glob(f"*{TEMPORARY}*"):
        stale.unlink(missing_ok=True)


def copy_into(mine: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the tensors of `mine`, all or none; raises UserError when names, shapes or dtypes differ."""
    for name in mine.keys() ^ state.keys():
        side = "is missing from" if name in mine else "is unknown to this learner, but stands in"
        raise UserError(f"The tensor {name} {side} the checkpoint.")
    for name, tensor in mine.items():
        if tensor.shape != state[name].shape or tensor.dtype != state[name].dtype:
            found = f"{tuple(state[name].shape)} {state[name].dtype}"
            raise UserError(
                f"The tensor {name} of the checkpoint is {found}, not {tuple(tensor.shape)} {tensor.dtype}."
            )
    for name, tensor in mine.items():
        tensor.copy_(state[name])


def spec_to_json(spec: Spec) -> dict[str, Any]:
    action = spec.action
    kind = {"n": action.n} if isinstance(action, Discrete) else {"low": action.low, "high": action.high}
    plain = {name: getattr(spec, name) for name in ("obs_dim", "extras", "goal", "objectives")}
    return plain | {"action": kind}


def spec_from_json(data: dict[str, Any]) -> Spec:
    kind = data["action"]
    action = Discrete(kind["n"]) if "n" in kind else Box(tuple(kind["low"]), tuple(kind["high"]))
    extras = {name: tuple(shape) for name, shape in data["extras"].items()}
    goal = tuple(data["goal"]) if data["goal"] is not None else None
    return Spec(data["obs_dim"], action, extras, goal, data["objectives"])
