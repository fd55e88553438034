"""Certificate of a utility of several objectives: the policy's own value, and a bound for every other policy."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.coverage_checks import vectors_of
from fenchel.theory.solvers.solution import Solution


def value(utility: str, J: Float[Tensor, "*b K"], weights: Float[Tensor, " K"], ideal: Float[Tensor, " K"]) -> Tensor:
    """u(J), by its definition."""
    if utility == "chebyshev":
        return -(weights * (ideal - J)).amax(-1)
    if utility == "gini":
        return (weights * (J - ideal).sort(-1).values).sum(-1)
    return (weights * (J - ideal)).sum(-1)


def outside(utility: str, lam: Float[Tensor, " K"], weights: Float[Tensor, " K"]) -> Tensor:
    """How far lam is from the polytope L of the utility (see `utility.py`)."""
    negative = (-lam).clamp(min=0).max()
    if utility == "linear":
        return (lam - weights).abs().max()
    if utility == "chebyshev":
        return torch.maximum(negative, ((lam / weights).sum() - 1).abs())
    # majorisation (Rado): the k largest entries sum to at most the k largest weights, all to exactly the same
    surplus = lam.sort(descending=True).values.cumsum(0) - weights.sort(descending=True).values.cumsum(0)
    return torch.stack([negative, surplus.max().clamp(min=0), surplus[-1].abs()]).max()


def check_utility(
    mdp: TabularMDP, answer: Solution, utility: str, weights: Any, ideal: Any = None
) -> dict[str, Tensor]:
    """reached: the policy, evaluated by its own occupancy, has the vector stated, and u of it is `lower`.

    dual, multipliers: V >= sum_k lam_k r_k + kernel V and lam in L prove u(J) <= mu0 . V - lam . z for all policies.
    """
    w = torch.as_tensor(weights, dtype=mdp.dtype, device=mdp.device)
    z = answer.extra["ideal"] if ideal is None else torch.as_tensor(ideal, dtype=mdp.dtype, device=mdp.device)
    J, V, lam = vectors_of(mdp, answer.policy[None])[0], answer.V, answer.multipliers
    backup = torch.einsum("k,ksa->sa", lam, mdp.r) + torch.einsum("sat,t->sa", mdp.kernel, V)
    excess = (backup - V[:, None]).masked_fill(~mdp.mask, 0.0)
    off = (answer.policy * ~mdp.mask).abs().max()
    return {
        "reached": torch.maximum(
            (J - answer.extra["vectors"][0]).abs().max(), (value(utility, J, w, z) - answer.lower).abs()
        ),
        "policy": torch.maximum(off, (answer.policy.sum(-1) - 1).abs().max()),
        "dual": excess.clamp(min=0).max(),
        "multipliers": outside(utility, lam, w),
        "gap": ((mdp.mu0 @ V - lam @ z) - answer.lower).clamp(min=0),
    }
