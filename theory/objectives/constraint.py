"""Losses and updates for constraints E[cost] <= budget. Per element, lower is better, nothing is reduced.

Shapes: `loss`, `cost` are (..., B); a multiplier is () or broadcasts to (..., B), such as (R, 1), as `budget` does,
which is in the units of cost. Arguments named `*_target` are detached, nothing else is. Updates return new values.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Multiplier = Float[Tensor, "*other"]


def lagrangian(loss: Values, cost: Values, multiplier_target: Multiplier, *, budget: Hyper) -> Values:
    """loss + lam (cost - budget): the primal player's loss at a fixed multiplier lam >= 0."""
    return loss + multiplier_target.detach() * (cost - budget)


def multiplier_loss(multiplier: Multiplier, cost_target: Values, *, budget: Hyper) -> Values:
    """- lam (cost - budget): the dual player's loss. Its gradient step raises lam where the constraint is violated."""
    return -multiplier * (cost_target.detach() - budget)


def projected_ascent(
    multiplier: Multiplier, cost: Multiplier, *, budget: Hyper, lr: Hyper, ceiling: float = torch.inf
) -> Multiplier:
    """clip(lam + lr (cost - budget), 0, ceiling), with `cost` the mean over a batch. Fixed points: KKT."""
    return (multiplier + lr * (cost - budget)).clamp(0.0, ceiling).detach()


def pid_multiplier(
    integral: Multiplier,
    previous_cost: Multiplier,
    cost: Multiplier,
    *,
    budget: Hyper,
    proportional: Hyper,
    integral_gain: Hyper,
    derivative: Hyper = 0.0,
) -> tuple[Multiplier, Multiplier]:
    """(lam, new integral): I = (I + cost - budget)_+, lam = (K_P (cost - budget) + K_I I + K_D (cost - previous)_+)_+.

    K_P = K_D = 0 is projected ascent with step K_I. (PID Lagrangian, Stooke 2020, alg. 2.)
    """
    error = (cost - budget).detach()
    integral = (integral + error).relu()
    rise = (cost - previous_cost).detach().relu()
    return (proportional * error + integral_gain * integral + derivative * rise).relu(), integral


def hinge(cost: Values, *, budget: Hyper) -> Values:
    """(cost - budget)_+: an exact penalty once its weight exceeds the optimal multiplier."""
    return (cost - budget).relu()


def squared_hinge(cost: Values, *, budget: Hyper) -> Values:
    """(cost - budget)_+^2 / 2: smooth, and violated by lam* / weight at its optimum."""
    return (cost - budget).relu().square() / 2


def log_barrier(cost: Values, *, budget: Hyper, sharpness: Hyper) -> Values:
    """- log(budget - cost) / t, continued as its tangent where budget - cost < 1 / t^2, so that it is finite and
    pushes back.

    The minimiser of loss + barrier is feasible up to 1 / t, and lam* = 1 / (t (budget - cost)). (IPO, Liu 2020, eq. 9;
    the extension of Kervadec 2019, eq. 5.)
    """
    slack = budget - cost
    edge = sharpness**-2 * torch.ones_like(slack)
    inside = torch.maximum(slack, edge)
    return -inside.log() / sharpness + sharpness * (edge - slack).relu()


def cvar(threshold: Multiplier, cost: Values, *, level: Hyper) -> Values:
    """eta + (cost - eta)_+ / (1 - level). Minimiser over eta: the level-quantile of cost (VaR); its minimum is CVaR.

    level in [0, 1): 0 is the mean, near 1 the worst case. (Rockafellar and Uryasev 2000, eq. 4.)
    """
    return threshold + (cost - threshold).relu() / (1 - level)
