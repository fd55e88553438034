"""Estimates of cost that err on the safe side. Per element, nothing is reduced."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Hyper = float | int | Tensor


def upper_confidence(cost: Float[Tensor, "*batch members size"], *, deviations: Hyper) -> Float[Tensor, "*batch size"]:
    """mean_i Q_i + k std_i Q_i over an ensemble of E >= 2, (..., E, B) -> (..., B); k >= 0 is never below the mean.

    The deviation is the sample's, with E - 1 below; where all members agree it has no gradient. (CAL [272].)
    """
    members = cost.unbind(-2)
    mean = sum(members, torch.zeros_like(members[0])) / len(members)
    squares = [(member - mean).square() for member in members]
    variance = sum(squares, torch.zeros_like(mean)) / (len(members) - 1)
    return mean + deviations * variance.clamp(min=torch.finfo(cost.dtype).tiny).sqrt()
