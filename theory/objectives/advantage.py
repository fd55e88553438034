"""How good an answer was: baselines, whitening, credits. Pure functions; advantages are data, so nothing is detached.

Shapes: groups are (..., G), the G answers to one prompt on the last axis; token quantities are (..., T) with a mask of
the same shape, 1 on the tokens of the answer. A hyper-parameter is a float or broadcasts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Group = Float[Tensor, "*prompts answers"]
Tokens = Float[Tensor, "*batch tokens"]


def weighted_baseline(reward: Group, weight: Group, *, leave_one_out: bool = False) -> Group:
    """b = sum_j w_j r_j / sum_j w_j per group, over j != i if leave_one_out (which keeps r_i - b unbiased).

    w = |grad log pi(y_j)|^2 estimates b* = E[|g|^2 r] / E|g|^2, the constant of least variance; w = the length is OPO's
    stand-in for it, exact where token gradients are orthogonal and of equal norm. (OPO [334], eq. 6; OBLR-PO [49].)
    """
    total, mass = (weight * reward).sum(-1, keepdim=True), weight.sum(-1, keepdim=True)
    if leave_one_out:
        total, mass = total - weight * reward, mass - weight
    tiny = torch.finfo(reward.dtype).tiny
    return (total / mass.clamp(min=tiny)).expand_as(reward)


def signed(reward: Values, *, positive: Hyper = 1.0, negative: Hyper = 1.0, threshold: Hyper = 0.0) -> Values:
    """+ positive where r > threshold, - negative elsewhere: a verifiable reward without a baseline.

    (1, 0) is PSR, (0, 1) is NSR, (lambda, 1) is W-REINFORCE. (Zhu 2025 [47].)
    """
    right = (reward > threshold).to(reward.dtype)
    return right * positive - (1 - right) * negative


def whiten(x: Float[Tensor, "replicas ..."], mask: Float[Tensor, "replicas ..."], *, epsilon: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + epsilon) over everything that counts but the first axis: mean 0, variance 1 - O(epsilon).

    The variance is that of the population. Elements that do not count come out as 0. (REINFORCE++, Hu 2025 [216].)
    """
    axes = tuple(range(1, x.ndim))
    count = mask.sum(axes, keepdim=True).clamp(min=1)
    centred = (x - (x * mask).sum(axes, keepdim=True) / count) * mask
    variance = centred.square().sum(axes, keepdim=True) / count
    return centred / (variance + epsilon).sqrt()


def return_to_go(reward: Tokens, *, gamma: Hyper = 1.0) -> Tokens:
    """G_t = sum_{s >= t} gamma^(s - t) r_s, where rewards beyond the answer are 0."""
    steps, following = [], torch.zeros_like(reward[..., 0])
    for t in reversed(range(reward.shape[-1])):
        following = reward[..., t] + gamma * following
        steps.append(following)
    return torch.stack(steps[::-1], -1)


def length_adaptive_lambda(length: Values, *, alpha: Hyper) -> Values:
    """lam = 1 - 1 / (alpha l), so that sum_t lam^t = alpha l; 0 for answers shorter than 1 / alpha. (VAPO [293].)"""
    return (1 - 1 / (alpha * length).clamp(min=1.0)).clamp(min=0.0)


def soft_value(reward: Group, *, beta: Hyper) -> Values:
    """beta log mean_i exp(r_i / beta) over samples of the reference: V* from below, exact as their number grows.

    (A*-PO, Brantley 2025 [242]; binary rewards of mean p give beta log(1 - p + p e^(1/beta)).)
    """
    scale = beta.unsqueeze(-1) if isinstance(beta, Tensor) and beta.ndim else beta
    mean = (reward / scale).logsumexp(-1) - torch.log(torch.full_like(reward[..., 0], reward.shape[-1]))
    return beta * mean


def beta_tracker(
    success: Values, failure: Values, reward: Group, drift: Values, *, half_life: Hyper, low: float, high: float
) -> tuple[Values, Values]:
    """Pseudo-counts of a success rate v = a / (a + b), forgotten the faster the further the policy has moved.

    a <- rho a + sum r, b <- rho b + sum (1 - r), rho = clip(2^(- drift / half_life), low, high); drift is the mean
    |log pi now - log pi then| per token. At a fixed rho, a + b tends to G / (1 - rho). (SPO [81].)
    """
    keep = torch.exp2(-drift / half_life).clamp(min=low, max=high)
    return keep * success + reward.sum(-1), keep * failure + (1 - reward).sum(-1)
