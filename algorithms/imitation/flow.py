"""The two halves of a dual over occupancies, and the weights of the policy that it implies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fenchel.algorithms.networks import Value
from fenchel.algorithms.sampler import Batch
from fenchel.errors import UserError
from fenchel.theory.objectives import dual


def check_gamma(gamma: float | Sequence[float]) -> None:
    """Raises UserError unless every gamma lies below 1: first states weigh 1 - gamma."""
    if not all(value < 1 for value in torch.as_tensor(gamma).flatten().tolist()):
        raise UserError(f"gamma={gamma} is not valid; it lies below 1, since first states weigh 1 - gamma.")


def advantage(value: Value, batch: Batch) -> Tensor:
    """gamma v(s') - v(s), (R, B): what a unit of occupancy earns from the multipliers of the flow; 0 for v(s') where
    the episode ended."""
    return batch["discount"] * value(batch["next_obs"]) - value(batch["obs"])


def start(value: Value, batch: Batch, gamma: Tensor) -> Tensor:
    """(1 - gamma) v(s0), (R, B), of episodes' first states; gamma (R, 1)."""
    return (1 - gamma) * value(batch["start_obs"])


def kl_conjugate(residual: Tensor, temperature: float | Tensor, normalised: bool) -> Tensor:
    """T log E exp(e / T), which holds the weights' mean at 1, or T (exp(e / T) - 1), which leaves it to the flow."""
    if normalised:
        return dual.donsker_varadhan(residual, temperature=temperature)
    return dual.residual_dual(residual, divergence="kl", temperature=temperature)


def kl_weight(residual: Tensor, temperature: float | Tensor) -> Tensor:
    """exp(e / T) over its mean on the batch, (R, B): the ratio d / d_O under kl, on the scale where its mean is 1."""
    weight = ((residual - residual.amax(-1, keepdim=True)) / temperature).exp()
    return weight / weight.mean(-1, keepdim=True)
