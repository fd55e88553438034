"""Returns and advantages along a trajectory, computed backwards over the last axis, (..., T) -> (..., T).

Three facts of a step are kept apart: `discount` = gamma * (1 - terminal) says whether the value of the next state
counts (a time-out keeps it); `cut` is 1 where the next step belongs to another episode (terminal or time-out);
`next_value` is the value of the true successor, which at a time-out is the final observation and not the first of the
next episode. `lam` broadcasts to (..., T).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Hyper = float | int | Tensor
Steps = Float[Tensor, "*batch time"]


def _backwards(inflow: Steps, decay: Steps, last: Tensor) -> Steps:
    """x_t = inflow_t + decay_t x_{t+1}, from x_T = last."""
    steps = []
    for t in reversed(range(inflow.shape[-1])):
        last = inflow[..., t] + decay[..., t] * last
        steps.append(last)
    return torch.stack(steps[::-1], -1)


def gae(reward: Steps, discount: Steps, value: Steps, next_value: Steps, cut: Steps, *, lam: Hyper) -> Steps:
    """A_t = delta_t + discount_t lam (1 - cut_t) A_{t+1}, delta_t = r_t + discount_t v(s_{t+1}) - v(s_t).

    lam = 0 is the TD error, lam = 1 the Monte Carlo return minus v. The return to regress on is A + v.
    (GAE, Schulman 2015, eq. 16.)
    """
    delta = reward + discount * next_value - value
    return _backwards(delta, discount * lam * (1 - cut), torch.zeros_like(delta[..., 0]))


def lambda_return(reward: Steps, discount: Steps, next_value: Steps, cut: Steps, *, lam: Hyper) -> Steps:
    """G_t = r_t + discount_t ((1 - lam) v(s_{t+1}) + lam G_{t+1}), with v(s_{t+1}) alone at a cut and at the end.

    Equal to GAE + v for every v(s_t) that is also the successor value of the step before. (Sutton 1988.)
    """
    keep = lam * (1 - cut)
    return _backwards(reward + discount * (1 - keep) * next_value, discount * keep, next_value[..., -1])


def n_step_return(reward: Steps, discount: Steps, next_value: Steps, cut: Steps, *, n: int) -> Steps:
    """n discounted rewards, or those up to a cut or the end, and then the discounted value of the state after them."""
    value = next_value
    for _ in range(n):
        total = reward + discount * value
        value = torch.cat(
            [torch.where(cut[..., :-1] > 0, next_value[..., :-1], total[..., 1:]), next_value[..., -1:]], -1
        )
    return total
