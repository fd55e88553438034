"""Answers used again. State is a dict of tensors, changed by pure functions; shapes never depend on data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fenchel.llm.parts.part import Part, at
from fenchel.llm.rollout import Rollout

State = dict[str, Tensor]


def _columns(rollout: Rollout) -> dict[str, Tensor]:
    values = {f.name: getattr(rollout, f.name) for f in fields(rollout)}
    return {k: v for k, v in values.items() if isinstance(v, Tensor) and v.ndim > 1}


@dataclass(frozen=True)
class RingReplay(Part):
    """Past groups, mixed into every batch with the log-probabilities of the policies that gave them.

    For methods that are right on any data: a ratio to pi_old, a regression, a preference loss.
    """

    capacity: int = field(default=256, metadata={"range": (1, None)})
    """groups that are kept"""
    replayed: int = field(default=8, metadata={"range": (1, None)})
    """old groups per batch"""

    def init(self, rollout: Rollout) -> State:
        """Empty, for rollouts of this form."""
        shapes = {k: v.new_zeros(v.shape[0], self.capacity, *v.shape[2:]) for k, v in _columns(rollout).items()}
        return shapes | {"pushed": torch.zeros(rollout.mask.shape[0], 1, dtype=torch.int64, device=rollout.mask.device)}

    def push(self, state: State, rollout: Rollout) -> State:
        count = rollout.mask.shape[1]
        place = (state["pushed"] + torch.arange(count, device=rollout.mask.device)) % self.capacity  # (R, N)
        rows = torch.arange(place.shape[0], device=place.device)[:, None]
        new = {k: state[k].index_put((rows, place), v) for k, v in _columns(rollout).items()}
        return new | {"pushed": state["pushed"] + count}

    def mix(self, state: State, rollout: Rollout, uniforms: Tensor) -> Rollout:
        """The batch followed by `replayed` old groups; uniforms (R, replayed). Before anything was pushed, unchanged
        groups of the batch stand in."""
        filled = state["pushed"].clamp(max=self.capacity)
        ids = (uniforms * filled.clamp(min=1)).long().clamp(max=self.capacity - 1)
        rows = torch.arange(ids.shape[0], device=ids.device)[:, None]
        again = torch.arange(ids.shape[1], device=ids.device) % rollout.mask.shape[1]
        columns: dict[str, Any] = {}
        for name, new in _columns(rollout).items():
            old = state[name][rows, ids]
            empty = (filled == 0).reshape(-1, *[1] * (old.ndim - 1))
            columns[name] = torch.cat([new, torch.where(empty, new[:, again], old)], 1)
        return replace(rollout, **columns)


@dataclass(frozen=True)
class SuccessReplay(Part):
    """The last right answer to each prompt, put in the first answer's place when a whole group failed. (ARPO [170].)"""

    COLUMNS: ClassVar[tuple[str, ...]] = ("tokens", "mask", "old_logp", "ref_logp", "sampler_logp", "reward")
    success: float | list[float] = 0.0
    """an answer is right if its reward is larger"""

    def init(self, rollout: Rollout, prompts: int) -> State:
        columns = {k: v for k, v in _columns(rollout).items() if k in self.COLUMNS}
        state = {k: v.new_zeros(v.shape[0], prompts, *v.shape[3:]) for k, v in columns.items()}
        return state | {"filled": torch.zeros(rollout.mask.shape[0], prompts, dtype=torch.bool)}

    def _right(self, rollout: Rollout) -> Tensor:
        assert rollout.reward is not None
        return rollout.reward > at(self.success, rollout.reward)

    def push(self, state: State, ids: Tensor, rollout: Rollout) -> State:
        """Remember the best answer of every group that has a right one; ids (R, N)."""
        right = self._right(rollout)
        assert rollout.reward is not None
        best = rollout.reward.argmax(-1)
        rows, cols = torch.arange(ids.shape[0], device=ids.device)[:, None], torch.arange(ids.shape[1])[None]
        new, success = {}, right.any(-1)
        for name in state.keys() - {"filled"}:
            mine = getattr(rollout, name)[rows, cols, best]
            kept = state[name][rows, ids]
            chosen = torch.where(success.reshape(*success.shape, *[1] * (mine.ndim - 2)), mine, kept)
            new[name] = state[name].index_put((rows, ids), chosen)
        return new | {"filled": state["filled"].index_put((rows, ids), state["filled"][rows, ids] | success)}

    def mix(self, state: State, ids: Tensor, rollout: Rollout) -> Rollout:
        rows = torch.arange(ids.shape[0], device=ids.device)[:, None]
        rescue = ~self._right(rollout).any(-1) & state["filled"][rows, ids]  # (R, N)
        columns: dict[str, Any] = {}
        for name in state.keys() - {"filled"}:
            now = getattr(rollout, name)
            where = rescue.reshape(*rescue.shape, *[1] * (now.ndim - 3))
            first = torch.where(where, state[name][rows, ids], now[:, :, 0])
            columns[name] = torch.cat([first[:, :, None], now[:, :, 1:]], 2)
        return replace(rollout, **columns)
