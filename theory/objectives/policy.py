"""Losses of policies that are improved or extracted from data. Per element, lower is better, nothing is reduced.

Shapes: `log_prob`, `q`, `*_target` are (..., B), actions (..., B, A); a hyper-parameter is a float or a tensor that
broadcasts to (..., B), such as (R, 1). Arguments named `*_target` are detached, nothing else is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
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


def information_projection(log_prob: Values, log_prob_data: Values, log_weight: Values) -> Values:
    """log pi - log beta - log w at an action of pi: its mean under pi is KL(pi, beta w) up to a constant.

    Minimiser: pi proportional to beta w, as of `weighted_nll`, which needs no beta but wastes the data where w = 0. All
    three depend on the action; a finite set is summed over pi itself. (OptiDICE, Lee 2021.)
    """
    return log_prob - log_prob_data - log_weight


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


def cfpi_action(mean: Actions, std: Float[Tensor, "*other action"], gradient: Actions, *, radius: Hyper) -> Actions:
    """mean + sqrt(2 radius) S g / sqrt(g' S g), S = diag(std^2): where g'a is largest inside the ellipsoid
    (a - mean)' S^-1 (a - mean) / 2 <= radius.

    `gradient` is that of Q at the mean; where it vanishes the action is the mean. `std` broadcasts to them.
    (CFPI [267], single Gaussian.)
    """
    scaled = std * gradient
    length = scaled.square().sum(-1).sqrt()
    size = (2 * radius * torch.ones_like(length)).sqrt() / torch.where(length > 0, length, 1)
    return mean + size.unsqueeze(-1) * std * scaled


def nearest_action(
    obs: Float[Tensor, "*batch obs"],
    action: Actions,
    data_obs: Float[Tensor, "rows obs"],
    data_action: Float[Tensor, "rows action"],
    *,
    scale: float,
) -> Int[Tensor, "*batch"]:
    """The row of the data nearest to [scale * obs, action] among [scale * data_obs, data_action], the first of equals.

    scale = 0 asks for the nearest action of the whole data, a large one for the nearest action at the nearest state.
    Memory (..., B, rows). (PRDC [73], whose KD-tree finds the same row.)
    """
    query = torch.cat([scale * obs, action], -1).unsqueeze(-2)
    rows = torch.cat([scale * data_obs, data_action], -1)
    return (query - rows).square().sum(-1).argmin(-1)


def ascend(
    action: Actions, q: Callable[[Tensor], Tensor], *, step: Hyper, rounds: int, low: float = -1.0, high: float = 1.0
) -> Actions:
    """The best action by `q` on the path a <- clip(a + step grad q(a), low, high), its start included.

    q maps (..., B, A) to (..., B), each value depending on its own action alone. (Local optimisation of PA-RL [56].)
    """
    here = best = action.detach()
    value = q(best).detach()
    size = (step * torch.ones_like(value)).unsqueeze(-1)
    for _ in range(rounds):
        with torch.enable_grad():
            here = here.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(q(here).sum(), here)
        here = (here.detach() + size * gradient).clamp(low, high)
        found = q(here).detach()
        better = found > value
        best, value = torch.where(better.unsqueeze(-1), here, best), torch.where(better, found, value)
    return best
