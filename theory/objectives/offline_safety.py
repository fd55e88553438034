"""Losses of offline learners that keep a limit on cost, or stay where no cost is ever paid.

Shapes: values are (..., B); a hyper-parameter is a float or broadcasts to (..., B), such as (R, 1). Arguments named
`*_target` are detached, nothing else is. Multipliers of expected costs stand in `constraint`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.objectives.dual import donsker_varadhan

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]


def within(q: Values, cost: Values, *, budget: Hyper, floor: Hyper = 0.0) -> Values:
    """q where cost <= budget, else `floor`; neither gets a gradient through the comparison.

    floor = 0 is CPQ's 1(Q_c <= l) Q as printed, under which an action over the limit is the best one as soon as Q < 0.
    A floor at or below every q makes such actions the worst. (CPQ, Xu 2022.)
    """
    return torch.where(cost <= budget, q, floor + torch.zeros_like(q))


def flow_cost(
    cost: Values, weight_target: Values, value: Values, next_value: Values, start_value: Values, *,
    discount: Values, gamma: Hyper,
) -> Values:  # fmt: skip
    """(1 - gamma) chi(s0) + w (c + discount chi(s') - chi(s)): its mean is E w c for every chi, if w is a flow.

    (COptiDICE, Lee 2022.)
    """
    return (1 - gamma) * start_value + weight_target.detach() * (cost + discount * next_value - value)


def cost_bound(element: Values, temperature: Hyper, *, radius: Hyper) -> Values:
    """tau log mean exp(x / tau) + tau epsilon, the mean along the last axis, at every element.

    Its minimum over tau > 0 is the largest mean of x under laws p with KL(p, data) <= epsilon; with x of `flow_cost`
    and minimised over chi too, under those p alone for which w p is a flow. Every tau and chi give an upper bound.
    (COptiDICE, Lee 2022; Donsker and Varadhan.)
    """
    return donsker_varadhan(element, temperature=temperature) + temperature * radius


def violation(cost: Values, *, unsafe: float = 25.0) -> Values:
    """h: `unsafe` where there is a cost, -1 elsewhere. (FISOR [10]; 25 and 1 are its released numbers.)"""
    return torch.where(cost > 0, unsafe, -1.0).to(cost.dtype)


def reach_backup(violation: Values, discount: Values, next_value: Values) -> Values:
    """(1 - gamma) h + gamma max(h, V_h(s')), and h at a terminal: discount = gamma (1 - terminal), a time-out goes on.

    With gamma = 1 its least fixed point over policies is min over pi of max over t of h: at most 0 exactly in the
    states from which some policy never pays. (FISOR [10]; Fisac 2019.)
    """
    return (1 - discount) * violation + discount * torch.maximum(violation, next_value)


def feasibility_weight(
    reach_q: Values, reach_v: Values, advantage: Values, *,
    safe_temperature: Hyper = 3.0, unsafe_temperature: Hyper = 5.0,
    safe_clip: float = 100.0, unsafe_clip: float = 150.0,
) -> Values:  # fmt: skip
    """What an action of the data counts: in infeasible states (V_h > 0) min(exp(k (V_h - Q_h)), clip), whatever it
    earns; in feasible ones min(exp(k A), clip) if it stays feasible (Q_h <= 0), else 0. (FISOR [10].)
    """
    flee = (unsafe_temperature * (reach_v - reach_q)).clamp(max=math.log(unsafe_clip)).exp()
    seek = (safe_temperature * advantage).clamp(max=math.log(safe_clip)).exp()
    return torch.where(reach_v > 0, flee, torch.where(reach_q <= 0, seek, 0.0))
