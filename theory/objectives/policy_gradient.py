"""Policy-gradient losses, advantages and ratios. Per element, lower is better, nothing is reduced.

Shapes: `log_prob`, `log_ratio` = log pi - log pi_old and `advantage_target` are (..., B) or (..., B, T) over tokens;
groups are (..., G), the G answers to one prompt on the last axis. A hyper-parameter is a float or broadcasts, such as
(R, 1). Arguments named `*_target` are detached, nothing else is. "Gradient" means its expectation over pi_old = pi.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.objectives.returns import gae

__all__ = [
    "cispo",
    "entropy",
    "gae",
    "group_advantage",
    "ppo_clip",
    "ppo_value",
    "reinforce",
    "sequence_log_ratio",
    "truncated_ratio",
]

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Group = Float[Tensor, "*prompts answers"]

MAX_LOG_RATIO = 30.0  # beyond it exp is no longer followed: a ratio of 1e13 only means that something broke


def reinforce(log_prob: Values, advantage_target: Values) -> Values:
    """- A log pi(a|s). Gradient: that of - E_pi A, for any A that is fixed given (s, a). (Williams 1992.)"""
    return -advantage_target.detach() * log_prob


def ppo_clip(
    log_ratio: Values,
    advantage_target: Values,
    *,
    clip: Hyper = 0.2,
    clip_high: Hyper | None = None,
    dual_clip: Hyper | None = None,
) -> Values:
    """- min(rho A, clip(rho, 1 - clip, 1 + clip_high) A), rho = exp(log_ratio). (PPO, Schulman 2017 [232], eq. 7.)

    clip_high defaults to clip; larger is DAPO's clip-higher. dual_clip c > 1 bounds the loss by c |A| where A < 0
    (Ye 2020, eq. 3). Gradient at rho = 1: that of - E_pi A; it is 0 once rho has left the interval on the side of A.
    """
    advantage = advantage_target.detach()
    ratio = log_ratio.clamp(max=MAX_LOG_RATIO).exp()
    clipped = ratio.clamp(min=1 - clip).clamp(max=1 + (clip if clip_high is None else clip_high))
    gain = torch.minimum(ratio * advantage, clipped * advantage)
    if dual_clip is not None:
        gain = torch.where(advantage < 0, torch.maximum(gain, dual_clip * advantage), gain)
    return -gain


def cispo(log_ratio: Values, log_prob: Values, advantage_target: Values, *, high: Hyper, low: Hyper = 0.0) -> Values:
    """- sg(clip(rho, low, high)) A log pi: the weight is clipped, no token loses its gradient.

    (MiniMax-M1, 2025, eq. 4.)
    """
    weight = log_ratio.detach().clamp(max=MAX_LOG_RATIO).exp().clamp(min=low).clamp(max=high)
    return -weight * advantage_target.detach() * log_prob


def truncated_ratio(log_ratio: Values, *, cap: Hyper) -> Values:
    """min(exp(log_ratio), cap): truncated importance sampling, biased only where the ratio exceeds cap."""
    return log_ratio.clamp(max=torch.as_tensor(cap, dtype=log_ratio.dtype, device=log_ratio.device).log()).exp()


def sequence_log_ratio(
    log_ratio: Float[Tensor, "*batch tokens"],
    mask: Float[Tensor, "*batch tokens"],
    *,
    mode: Literal["sequence", "gspo", "gspo_token"] = "gspo",
) -> Float[Tensor, "*batch"] | Float[Tensor, "*batch tokens"]:
    """The log-ratio of a whole answer from those of its tokens, (..., B, T) -> (..., B).

    sequence: their sum, the true ratio. gspo: their mean, whose exp is the geometric mean of the ratios (GSPO, Zheng
    2025, eq. 7). gspo_token: (..., B, T), the value of gspo and the gradient of each token's own log-probability (eq.
    14).
    """
    total = (log_ratio * mask).sum(-1)
    if mode == "sequence":
        return total
    mean = total / mask.sum(-1).clamp(min=1)
    if mode == "gspo":
        return mean
    if mode == "gspo_token":
        return mean.detach().unsqueeze(-1) + log_ratio - log_ratio.detach()
    raise unknown("mode", mode, ("sequence", "gspo", "gspo_token"))


def group_advantage(
    reward: Group,
    *,
    baseline: Literal["loo", "mean", "zscore"] = "loo",
    epsilon: float = 1e-6,
    unbiased_std: bool = False,
) -> Group:
    """Advantages of the G answers to one prompt, which stand on the last axis.

    loo: r_i minus the mean of the others: the policy gradient is unbiased (RLOO, Ahmadian 2024 [294]).
    mean: r_i minus the mean of all = (G - 1) / G of loo: unbiased up to that factor (Dr. GRPO [193]).
    zscore: mean over (std + epsilon): GRPO [189]; biased, prompts are weighted by about 1 / std. unbiased_std divides
    the
        variance by G - 1, as some released code does.
    """
    centred = reward - reward.mean(-1, keepdim=True)
    count = reward.shape[-1]
    if baseline == "mean":
        return centred
    if baseline == "loo":
        if count < 2:
            raise UserError("baseline=loo needs groups of at least 2 answers; with 1 use baseline=mean or none.")
        return centred * (count / (count - 1))
    if baseline == "zscore":
        std = (centred.square().sum(-1, keepdim=True) / max(1, count - unbiased_std)).sqrt()
        return centred / (std + epsilon)
    raise unknown("baseline", baseline, ("loo", "mean", "zscore"))


def ppo_value(value: Values, old_value_target: Values, return_target: Values, *, clip: Hyper | None = None) -> Values:
    """max((v - R)^2, (v_old + clip(v - v_old, -clip, clip) - R)^2) / 2; without clip (v - R)^2 / 2, whose minimiser
    is E[R].

    (PPO's released code; clipping stops the gradient of a value that has moved by clip towards R.)
    """
    error = (value - return_target.detach()).square()
    if clip is None:
        return 0.5 * error
    old = old_value_target.detach()
    move = value - old
    clipped = old + move.clamp(max=clip).clamp(min=-clip)
    return 0.5 * torch.maximum(error, (clipped - return_target.detach()).square())


def entropy(logits: Float[Tensor, "*batch actions"]) -> Values:
    """The entropy in nats of softmax(logits), (..., A) -> (...): a bonus, to be subtracted. A logit may be -inf."""
    log_prob = logits.log_softmax(-1)
    prob = log_prob.exp()
    return -(prob * torch.where(prob > 0, log_prob, 0)).sum(-1)
