"""Batches of an imitation learner: rows of the few expert episodes beside rows of the rest, and first states.

The data tell them apart by a column `expert`: 1 in the rows of the demonstrations, 0 elsewhere. Rewards stay in the
batch for whoever wants to look at them; no imitation learner reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fenchel.algorithms.sampler import Batch, Sampler
from fenchel.errors import UserError

if TYPE_CHECKING:
    from fenchel.algorithms.learner import Learner
    from fenchel.envs.dataset import OfflineDataset

PARTS = ("obs", "action", "next_obs", "discount", "obs_action")


class ImitationSampler(Sampler):
    """The batch of `Sampler`, from the offline rows, with as many rows of two more streams:

    expert_obs, expert_action, expert_next_obs, expert_discount[, expert_obs_action]   of demonstrations
    start_obs                                                                          of all episodes' first states

    union: the offline rows are all rows; otherwise those that are no demonstration. Raises UserError where a part is
    empty.
    """

    def __init__(self, data: OfflineDataset, learner: Learner, union: bool):
        rows = offline_rows(data, learner, union)
        super().__init__(data, learner, rows)
        self.expert = Sampler(data, learner, expert_rows(data, learner), "expert")
        self.start = Sampler(data, learner, data.episode_starts, "start")

    def __call__(self, step: int) -> Batch:
        batch, expert, start = super().__call__(step), self.expert(step), self.start(step)
        batch |= {f"expert_{name}": expert[name] for name in PARTS if name in expert}
        return batch | {"start_obs": start["obs"]}


def expert_part(batch: Batch) -> Batch:
    """The batch's demonstrations under the names of an ordinary batch."""
    return {name: batch[f"expert_{name}"] for name in PARTS if f"expert_{name}" in batch}


def expert_rows(data: OfflineDataset, learner: Learner) -> Tensor:
    """Indices of the demonstrations' rows."""
    rows = _is_expert(data, learner).nonzero()[:, 0]
    if len(rows) == 0:
        raise UserError(f"{type(learner).__name__} needs demonstrations, and no row has expert = 1.")
    return rows


def offline_rows(data: OfflineDataset, learner: Learner, union: bool) -> Tensor:
    """Indices of the rows beside which demonstrations are judged."""
    if union:
        return torch.arange(len(data), device=data.device)
    rows = (~_is_expert(data, learner)).nonzero()[:, 0]
    if len(rows) == 0:
        raise UserError(f"{type(learner).__name__} needs offline data beside the demonstrations, all rows are expert.")
    return rows


def _is_expert(data: OfflineDataset, learner: Learner) -> Tensor:
    """(N,) bool. Raises UserError when the column is not there or holds other numbers than 0 and 1."""
    if "expert" not in data.extras:
        raise UserError(f"{type(learner).__name__} needs the data column expert: 1 in demonstrations, 0 elsewhere.")
    column = data.extras["expert"].reshape(len(data), -1)
    if column.shape[1] != 1 or not bool(((column == 0) | (column == 1)).all()):
        raise UserError("column expert must hold one number per row, 0 or 1, and it holds others.")
    return column[:, 0] == 1
