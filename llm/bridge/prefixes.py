"""Scored sequences as transitions between prefixes, and batches of them.

A batch has the columns of `algorithms.sampler.Sampler`, but `obs` and `next_obs` are places in whole sequences, so
that a network reads each sequence once: with B sequences and K places in each, (R, B * K) transitions. A sequence is
drawn in proportion to its length and its places uniformly: every transition of the data is equally likely, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fenchel.errors import UserError

if TYPE_CHECKING:
    from fenchel.algorithms.learner import Learner


class Prefix(NamedTuple):
    """The prefixes before `place` (R, B, K) of `tokens` (R, B, L)."""

    tokens: Int[Tensor, "R B L"]
    place: Int[Tensor, "R B K"]


@dataclass(frozen=True)
class Scored:
    """n sequences, the same for all replicas.

    tokens (n, L) int64 with PAD = -1, mask (n, L) of the answers, as `sequences.join` makes them; reward (n,), which
    comes with an answer's last token, or (n, L), of every token; cost alike.
    """

    tokens: Int[Tensor, "n L"]
    mask: Bool[Tensor, "n L"]
    reward: Float[Tensor, "n ..."]
    cost: Float[Tensor, "n ..."] | None = None

    def __post_init__(self) -> None:
        if not self.mask.any(-1).all():
            raise UserError("A sequence has no answer: its mask is empty.")


class PrefixSampler:
    """`sampler(step)` -> batch of batch_size transitions: `places` in each of batch_size / places sequences.

    start, start_weight: each sequence's first place, and weights (R, B) under which all sequences are equally likely.
    """

    def __init__(self, data: Scored, learner: Learner, places: int | None = None):
        places = learner.config.places if places is None else places
        self.learner, self.places, self.rows = learner, places, learner.config.batch_size // places
        if self.rows < 1:
            raise UserError(f"places={places} is over batch_size={learner.config.batch_size}.")
        device, dtype = learner.device, learner.dtype
        self.tokens, mask = data.tokens.to(device), data.mask.to(device)
        self.length = mask.sum(-1)
        self.first = mask.long().argmax(-1)  # answers have no holes
        self.owner = torch.arange(len(mask), device=device).repeat_interleave(self.length)
        last = torch.arange(mask.shape[1], device=device) == (self.first + self.length - 1).unsqueeze(-1)
        columns = {"reward": data.reward} | ({} if data.cost is None else {"cost": data.cost})
        self.columns = {name: _per_token(x.to(device, dtype), last) for name, x in columns.items()}
        self.going = (~last).to(dtype)

    def __call__(self, step: int) -> dict[str, Any]:
        draw, gamma = self.learner.blocks.draw, self.learner.h.gamma
        row = self.owner[draw(step, "integers", "batch", (self.rows,), high=len(self.owner))]
        length, first = self.length[row].unsqueeze(-1), self.first[row].unsqueeze(-1)
        uniform = draw(step, "uniform", "places", (self.rows, self.places))
        place = first + (uniform * length).long().clamp(max=length - 1)
        tokens = self.tokens[row]

        def at(column: Tensor) -> Tensor:
            return column[row].gather(-1, place).flatten(1)

        batch = {name: at(column) for name, column in self.columns.items()}
        return batch | {
            "obs": Prefix(tokens, place),
            "next_obs": Prefix(tokens, (place + 1).clamp(max=tokens.shape[-1] - 1)),  # after the last it counts 0
            "action": tokens.gather(-1, place).flatten(1),
            "discount": at(self.going) * gamma,
            "start": Prefix(tokens, first),
            "start_weight": (self.length.max() / length.to(uniform.dtype)).squeeze(-1),
        }

    def at_checkpoint(self, index: int) -> None:
        """Nothing to do: what a step sees is a function of the step."""

    def state(self) -> dict[str, Tensor]:
        return {}


def _per_token(column: Tensor, last: Tensor) -> Tensor:
    return column if column.ndim == 2 else torch.where(last, column.unsqueeze(-1), 0.0)
