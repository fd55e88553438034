"""KL terms of a sampled policy: pairs of a value and a gradient, named by what these are on average.

log_ratio = log pi(y) - log ref(y) at y ~ pi, (..., B), of whole answers or of tokens. What the average over samples is:

| estimator of one sample | value | gradient of its average |
|---|---|---|
| k1: log_ratio | KL(pi, ref) | 0 |
| k2: log_ratio^2 / 2 | no divergence, KL to second order | KL(pi, ref), the reverse one |
| k3: exp(-log_ratio) - 1 + log_ratio | KL(pi, ref), always >= 0 | KL(ref, pi), the forward one |

Of whole answers these are exact. Summed over tokens, the gradient of k2 holds the distribution of prefixes fixed, so
that it is not that of the sequence's KL; `reward_with_kl` has the whole one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import unknown
from fenchel.theory.divergences import REVERSE_KL, Divergence, get_divergence

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]


def k1(log_ratio: Values) -> Values:
    """log_ratio: unbiased for KL(pi, ref); as a loss its gradient is 0 on average."""
    return log_ratio


def k2(log_ratio: Values) -> Values:
    """log_ratio^2 / 2: biased value; as a loss its gradient is that of KL(pi, ref). Minimiser: ref."""
    return log_ratio.square() / 2


def k3(log_ratio: Values) -> Values:
    """exp(-log_ratio) - 1 + log_ratio >= 0: unbiased for KL(pi, ref); as a loss its gradient is that of KL(ref, pi)."""
    return log_ratio - REVERSE_KL.score(log_ratio)


VALUES = {"k1": k1, "k2": k2, "k3": k3}
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {"reverse": k2, "forward": k3, "none": torch.zeros_like}


def kl(
    log_ratio: Values,
    *,
    value: Literal["k1", "k2", "k3"] = "k3",
    gradient: Literal["reverse", "forward", "none"] = "reverse",
) -> Values:
    """The number of one estimator with the gradient of KL(pi, ref) (reverse) or KL(ref, pi) (forward), on average."""
    if value not in VALUES:
        raise unknown("value", value, VALUES)
    if gradient not in GRADIENTS:
        raise unknown("gradient", gradient, GRADIENTS)
    slope = GRADIENTS[gradient](log_ratio)
    return VALUES[value](log_ratio).detach() + slope - slope.detach()


def reward_with_kl(reward: Values, log_ratio_target: Values, *, beta: Hyper) -> Values:
    """r - beta log_ratio: with `reinforce` the gradient of E r - beta KL(pi, ref) of whole answers."""
    return reward - beta * log_ratio_target.detach()


def f_policy_gradient(
    log_prob: Values, log_ratio_target: Values, *, divergence: str | Divergence, baseline: Hyper = 0.0
) -> Values:
    """(f'(pi / p) - baseline) log pi at y ~ pi, from log pi - log p.

    Gradient: that of D_f(pi || p), for any constant baseline. Minimiser: p. (f-DPG, Go 2023 [29], eq. 5.)
    """
    return (get_divergence(divergence).score(log_ratio_target.detach()) - baseline) * log_prob


def categorical_kl(log_p: Float[Tensor, "*batch actions"], log_q: Float[Tensor, "*batch actions"]) -> Values:
    """KL(p, q) of normalised log-probabilities over the last axis, exact; an action with p = 0 counts 0."""
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0).sum(-1)
