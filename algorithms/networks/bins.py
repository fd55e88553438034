"""Values as laws over bins: what a critic predicts when it is fitted as a classifier.

    Q(s, a) = sum_k softmax(logits(s, a))_k z_k,   loss = cross-entropy of that softmax with a law that has the backup
                                                          as its mean

hl_gauss: the mass of Normal(backup, (3/4 h)^2) in each of 101 bins of width h that part the range; z are their centres.
two_hot: the backup's shares between its two neighbours among 101 numbers z, the ends included.

Farebrother et al. 2024, "Stop regressing: training value functions via classification for scalable deep RL"
(arXiv 2403.03950). A backup outside the range counts as its end; within some bins of an end the mean of `hl_gauss` is
drawn inwards (`fenchel verify value_functions`), so leave a margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.objectives import value

COUNT, RATIO = 101, 0.75


class Bins:
    """loss: "hl_gauss" or "two_hot"; span: the lowest and the highest value."""

    def __init__(self, loss: str, span: Sequence[float], **like: Any):
        low, high = span
        self.loss, self.count = loss, COUNT
        if loss == "two_hot":
            self.centres = torch.linspace(low, high, COUNT, **like)
            return
        self.edges = torch.linspace(low, high, COUNT + 1, **like)
        self.centres = (self.edges[1:] + self.edges[:-1]) / 2
        self.sigma = RATIO * (self.edges[1] - self.edges[0])

    def mean(self, logits: Tensor) -> Tensor:
        """(..., bins) -> (...)"""
        return (logits.softmax(-1) * self.centres).sum(-1)

    def error(self, logits: Tensor, backup_target: Tensor) -> Tensor:
        """(..., bins) against numbers that broadcast to (...)."""
        if self.loss == "two_hot":
            law = value.two_hot(backup_target, self.centres)
        else:
            law = value.hl_gauss(backup_target, self.edges, sigma=self.sigma)
        return value.categorical(logits, law.expand_as(logits))


def critic_bins(loss: str, span: Sequence[float] | None, **like: Any) -> Bins | None:
    """None for value_loss=mse. Raises UserError where the range is missing, has not two ends, or is empty."""
    if loss == "mse":
        return None
    if span is None:
        raise UserError(f"value_loss={loss} needs value_range, the lowest and the highest return, as in [-100,0].")
    if len(span) != 2 or not span[0] < span[1]:
        given = ",".join(f"{end:g}" for end in span)
        raise UserError(f"value_range=[{given}] is not valid; valid are two numbers, the lowest first.")
    return Bins(loss, span, **like)
