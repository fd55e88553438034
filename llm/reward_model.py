"""Reward models: E transformers with a number for a head, fitted to preferences, and what an ensemble of them says.

    fit        min - log sigmoid(r_e(x, y_w) - r_e(x, y_l))        each member from its own seed and in its own order
    mean       mean over e of r_e(x, y)
    worst      min over e                                              (WCO)
    uncertainty   mean - weight * variance over e, the population's    (UWO)

Bradley and Terry 1952; the aggregates are those of Coste et al. 2024, "Reward model ensembles help mitigate
overoptimization" [20]. Preferences leave a member's offset free: members are centred on the answers they were fitted
to, or the least of them would be the one with the lowest offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.algorithms.networks import Adam, Schedule
from fenchel.errors import UserError, unknown
from fenchel.llm.policies.transformer import Transformer
from fenchel.llm.policies.value import PrefixValue
from fenchel.llm.sequences import PAD
from fenchel.theory.objectives.preference import bradley_terry
from fenchel.theory.objectives.reduce import reduce
from fenchel.theory.rng import Streams

Aggregate = Literal["mean", "worst", "uncertainty"]
AGGREGATES = ("mean", "worst", "uncertainty")


class RewardModel:
    """seeds: one per member. `model(tokens (*b, L))` -> (*b); `members(tokens (B, L))` -> (E, B)."""

    def __init__(
        self,
        seeds: Sequence[int],
        vocabulary: int,
        context: int,
        *,
        aggregate: Aggregate = "mean",
        weight: float = 1.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **sizes: Any,
    ):
        """sizes: width, layers and heads of the transformer. Raises UserError for an unknown aggregate."""
        if aggregate not in AGGREGATES:
            raise unknown("aggregate", aggregate, AGGREGATES)
        self.aggregate, self.weight = aggregate, weight
        self.rng = Streams(list(seeds), device)
        sizes |= {"eos": None, "name": "reward", "outputs": 1, "dtype": dtype}
        self.net = PrefixValue(Transformer(self.rng, vocabulary, context, **sizes))
        self.centre = self.net.flat.new_zeros(len(self.rng.seeds), 1)

    @torch.no_grad()
    def members(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "E B"]:
        """What each member says of whole sequences, padded on either side."""
        return self._raw(tokens.expand(len(self.centre), -1, -1)) - self.centre

    def _raw(self, tokens: Int[Tensor, "E B L"]) -> Float[Tensor, "E B"]:
        """The value behind the last token of each sequence."""
        padded = torch.nn.functional.pad(tokens, (0, 1), value=PAD)
        place = torch.arange(padded.shape[-1], device=tokens.device)
        last = torch.where(padded >= 0, place, 0).amax(-1, keepdim=True)
        return self.net(padded).gather(-1, last + 1).squeeze(-1)

    def __call__(self, tokens: Int[Tensor, "*b L"]) -> Float[Tensor, "*b"]:
        return aggregated(self.members(tokens.flatten(0, -2)), self.aggregate, self.weight).view(tokens.shape[:-1])

    def fit(
        self,
        chosen: Int[Tensor, "M L"],
        rejected: Int[Tensor, "M L"],
        *,
        steps: int = 300,
        batch: int = 64,
        lr: float = 1e-3,
    ) -> Float[Tensor, " E"]:
        """Fit every member to the pairs, and centre it on them; returns each one's share of pairs that it orders so.

        Raises UserError when there is no pair, or the sides do not match.
        """
        if chosen.shape != rejected.shape or not len(chosen):
            raise UserError(
                f"chosen {tuple(chosen.shape)} and rejected {tuple(rejected.shape)} must be pairs of sequences."
            )
        optimiser = Adam(self.net, lr=lr, clip=1.0)
        optimiser.schedule = Schedule("cosine", max(1, steps))
        for step in range(steps):
            index = self.rng.integers("pairs", len(chosen), (batch,), counter=step)
            scores = self._raw(torch.cat([chosen[index], rejected[index]], 1))
            optimiser.step(reduce(bradley_terry(*scores.split(batch, 1))))
        with torch.no_grad():
            every = len(self.centre)
            first, second = (self._raw(side.expand(every, -1, -1)) for side in (chosen, rejected))
            self.centre = (first.mean(1, keepdim=True) + second.mean(1, keepdim=True)) / 2
            return (first > second).to(first.dtype).mean(1)

    def state(self) -> dict[str, Tensor]:
        return {"flat": self.net.flat, "centre": self.centre}

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def aggregated(scores: Float[Tensor, " E *b"], how: Aggregate, weight: float = 1.0) -> Float[Tensor, "*b"]:
    """One number from those of the members; weight: of the variance in "uncertainty"."""
    if how == "worst":
        return scores.amin(0)
    mean = scores.mean(0)
    return mean if how == "mean" else mean - weight * (scores - mean).square().mean(0)
