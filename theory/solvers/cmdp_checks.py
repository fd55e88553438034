"""Karush-Kuhn-Tucker residuals of a constrained MDP, from the problem's tensors and the answer alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.solution import Solution


def check_cmdp(mdp: TabularMDP, answer: Solution, budgets: Any, unit: str) -> dict[str, Tensor]:
    """Primal feasibility (flow, sign, budgets), dual sign, complementarity, stationarity, duality gap, the policy."""
    d, V, lam = answer.occupancy, answer.V, answer.multipliers
    budgets = torch.as_tensor(budgets, dtype=mdp.dtype, device=mdp.device).expand_as(lam)
    scale = 1 - mdp.discount.amax() if unit == "normalised" else mdp.discount.new_ones(())
    J = (mdp.r * d.unsqueeze(-3)).sum((-2, -1)) * scale
    price = mdp.r[..., 0, :, :] - (lam[..., None, None] * mdp.r[..., 1:, :, :]).sum(-3)
    if unit == "average":
        flow, reduced, total = _average(mdp, answer, price)
    else:
        arrive = (d[..., None] * mdp.kernel).sum((-3, -2))
        flow = (d.sum(-1) - arrive - mdp.mu0).abs().amax(-1)
        reduced = V[..., None] - price - (mdp.kernel * V[..., None, None, :]).sum(-1)
        total = (mdp.mu0 * V).sum(-1) * scale
    reduced = reduced.masked_fill(~mdp.mask, 0.0)
    ratio = d / d.sum(-1, keepdim=True).clamp(min=1e-300)
    visited = d.sum(-1, keepdim=True) > 1e-6
    return {
        "flow": flow,
        "nonnegative": torch.maximum((-d).amax((-2, -1)).clamp(min=0), (d * ~mdp.mask).abs().amax((-2, -1))),
        "budget": (J[..., 1:] - budgets).clamp(min=0).amax(-1),
        "dual_sign": (-lam).clamp(min=0).amax(-1),
        "dual_feasible": (-reduced).clamp(min=0).amax((-2, -1)),
        "complementarity": (lam * (budgets - J[..., 1:])).abs().amax(-1),
        "stationarity": (d * reduced).abs().sum((-2, -1)) * scale,
        "gap": (total + (lam * budgets).sum(-1) - J[..., 0]).abs(),
        "policy": ((answer.policy - ratio).abs() * visited * d.sum(-1, keepdim=True)).amax((-2, -1)),
    }


def _average(mdp: TabularMDP, answer: Solution, price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flow and reduced cost of the multichain program; both programs' dual constraints enter the reduced cost."""
    d, gain, bias, transient = answer.occupancy, answer.V, answer.extra["bias"], answer.extra["transient"]
    leave = d.sum(-1) - (d[..., None] * mdp.P).sum((-3, -2))
    start = d.sum(-1) + transient.sum(-1) - (transient[..., None] * mdp.P).sum((-3, -2)) - mdp.mu0
    flow = torch.maximum(leave.abs().amax(-1), start.abs().amax(-1))
    drift = gain[..., None] - (mdp.P * gain[..., None, None, :]).sum(-1)
    reduced = gain[..., None] + bias[..., None] - price - (mdp.P * bias[..., None, None, :]).sum(-1)
    # a negative drift breaks dual feasibility whatever the other constraint says
    reduced = torch.where(drift < 0, torch.minimum(reduced, drift), reduced)
    return flow, reduced, (mdp.mu0 * gain).sum(-1)


def check_farkas(
    mdp: TabularMDP, budgets: Any, weights: Float[Tensor, " K"], V: Float[Tensor, " S"]
) -> dict[str, Tensor]:
    """Residuals of the proof that no policy meets discounted budgets; "excess" < 0 is the proof's strength, negated.

    V <= weights . costs + kernel V gives  min_policy weights . J_c >= mu0 . V;  mu0 . V > weights . budgets refutes.
    """
    cost = (weights[:, None, None] * mdp.r[1:]).sum(0)
    violation = V[:, None] - cost - (mdp.kernel * V).sum(-1)
    budgets = torch.as_tensor(budgets, dtype=V.dtype, device=V.device)
    return {
        "bellman": violation.masked_fill(~mdp.mask, 0.0).clamp(min=0).max(),
        "sign": (-weights).clamp(min=0).max(),
        "excess": (weights * budgets).sum() - (mdp.mu0 * V).sum(),
    }
