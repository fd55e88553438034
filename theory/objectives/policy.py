"""Losses of policies that are improved or extracted from data. Per element, lower is better, nothing is reduced.

Shapes: `log_prob`, `q`, `*_target` are (..., B), actions (..., B, A); a hyper-parameter is a float or a tensor that
broadcasts to (..., B), such as (R, 1). Arguments named `*_target` are detached, nothing else is.
"""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Actions = Float[Tensor, "*batch action"]


def nll(log_prob: Values) -> Values:
    """- log pi(a|s). Minimiser: the law of the data's actions. (Behaviour cloning.)"""
    return -log_prob


def mse(action: Actions, action_target: Actions) -> Values:
    """The mean over action dimensions of (action - action_target)^2. Minimiser: E[a|s]."""
    return (action - action_target.detach()).square().mean(-1)


def weighted_nll(log_prob: Values, weight_target: Values) -> Values:
    """- w log pi(a|s), w >= 0. Minimiser: pi proportional to beta(a|s) E[w|s, a].

    With w = w*(y), the ratio of a divergence, it is the extraction of the dual methods (OptiDICE, eq. 17; ODICE).
    """
    return -weight_target.detach() * log_prob


def awr_weight(advantage: Values, *, inverse_temperature: Hyper, clip: float = 100.0) -> Values:
    """min(exp(inverse_temperature * advantage), clip), without overflow."""
    return (inverse_temperature * advantage).clamp(max=math.log(clip)).exp()


def awr(log_prob: Values, advantage_target: Values, *, inverse_temperature: Hyper, clip: float = 100.0) -> Values:
    """- min(exp(inverse_temperature A), clip) log pi(a|s).

    Minimiser: pi proportional to beta min(exp(inverse_temperature A), clip).
    (AWR, Peng 2019, eq. 11; AWAC, Nair 2020, eq. 9; IQL, Kostrikov 2021, eq. 7.)
    """
    weight = awr_weight(advantage_target, inverse_temperature=inverse_temperature, clip=clip)
    return weighted_nll(log_prob, weight)


def deterministic_q(q: Values) -> Values:
    """- Q(s, pi(s)). Minimiser: argmax_a Q. (DPG, Silver 2014; TD3.)"""
    return -q


def _scale(q: Tensor) -> Tensor:
    """mean |q| along the last axis, a constant for the gradient, bounded away from 0."""
    return q.detach().abs().mean(-1, keepdim=True).clamp(min=1e-6)


def td3_bc(q: Values, action: Actions, action_target: Actions, *, alpha: Hyper = 2.5) -> Values:
    """- alpha q / mean|q| + mse(action, action_target); the mean, a constant, runs along the last axis.

    Minimiser for Q = - |a - a1|^2 (mean over dimensions) and data at a0: the weighted mean of a1 and a0 with weights
    alpha / mean|q| and 1. (TD3+BC, Fujimoto and Gu 2021, eqs. 5 and 6.)
    """
    return -alpha * q / _scale(q) + mse(action, action_target)


def ddpg_bc(q: Values, log_prob: Values, *, alpha: Hyper) -> Values:
    """- q / mean|q| - alpha log pi(a_data|s); the mean, a constant, runs along the last axis.

    (DDPG+BC, Park 2024, "Is value learning really the main bottleneck", eq. 5; OGBench.)
    """
    return -q / _scale(q) - alpha * log_prob


def sac_actor(log_prob: Values, q: Values, *, temperature: Hyper) -> Values:
    """temperature log pi(a|s) - Q(s, a) at a reparametrised a ~ pi.

    Minimiser: pi proportional to exp(Q / temperature). (SAC, Haarnoja 2018b, eq. 7.)
    """
    return temperature * log_prob - q


def sac_temperature(
    log_temperature: Float[Tensor, "*other"], log_prob_target: Values, *, target_entropy: Hyper
) -> Values:
    """- log_temperature (log pi + target_entropy).

    Stationary where the policy's entropy is target_entropy (nats); the gradient of Haarnoja 2018b, eq. 18, with respect
    to the temperature, applied to its logarithm as released code does. `log_temperature` broadcasts to (..., B).
    """
    return -log_temperature * (log_prob_target.detach() + target_entropy)
