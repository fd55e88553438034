"""Losses of value functions. Each returns one number per element, lower is better; nothing is reduced.

Shapes: `value`, `q`, `*_target` are (..., B); a hyper-parameter is a float or a tensor that broadcasts to (..., B),
such as (R, 1). Arguments named `*_target` are detached, nothing else is.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import unknown

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]
Atoms = Float[Tensor, "*batch atoms"]


def bellman_backup(reward: Values, discount: Values | float, next_value: Values) -> Values:
    """reward + discount * next_value; `discount` = gamma * (1 - terminal), and a time-out is not terminal."""
    return reward + discount * next_value


def td(q: Values, backup_target: Values) -> Values:
    """(q - y)^2. Minimiser: E[y]. (Sutton 1988; fitted Q.)"""
    return (q - backup_target.detach()).square()


def huber(q: Values, backup_target: Values, *, delta: Hyper = 1.0) -> Values:
    """u^2 / 2 for |u| <= delta, delta (|u| - delta / 2) beyond, u = q - y.

    Minimiser: the Huber location, the root of E[clip(u, -delta, delta)]; the mean as delta grows, the median as it
    falls. (Huber 1964, eq. 3.)
    """
    error = (q - backup_target.detach()).abs()
    inner = error.clamp(max=delta)
    return inner * (error - 0.5 * inner)


def expectile(value: Values, q_target: Values, *, expectile: Hyper) -> Values:
    """|expectile - 1(u < 0)| u^2, u = q_target - value.

    Minimiser: the expectile m of q, expectile E(q - m)_+ = (1 - expectile) E(m - q)_+; 0.5 is the mean and 1 the
    maximum. (IQL, Kostrikov 2021, eq. 5.)
    """
    error = q_target.detach() - value
    return expectile_weight(error, expectile=expectile) * error.square()


def expectile_weight(advantage: Values, *, expectile: Hyper) -> Values:
    """|expectile - 1(A < 0)|, A = q - v: up to a factor per state, pi / beta of the policy that an expectile implies.

    The expectile v of q is that policy's mean of q: v = E[w q] / E[w]. (IDQL, Hansen-Estruch 2023.)
    """
    return ((advantage < 0).to(advantage.dtype) - expectile).abs()


def ensemble_similarity(gradient: Float[Tensor, "*batch members action"]) -> Values:
    """sum over i != j of cos(g_i, g_j) / (E - 1), of the gradients dQ_i/da of E critics: (..., E, A) -> (...).

    Between - E / (E - 1) and E; a gradient of length 0 counts as orthogonal to all. In one dimension cosines are signs
    and have no gradient. (EDAC, An 2021.)
    """
    unit = gradient / (torch.linalg.vector_norm(gradient, dim=-1, keepdim=True) + 1e-10)
    cosines = unit @ unit.mT
    pairs = cosines.flatten(-2).sum(-1) - cosines.diagonal(dim1=-2, dim2=-1).sum(-1)
    return pairs / (gradient.shape[-2] - 1)


def quantile(value: Values, q_target: Values, *, level: Hyper) -> Values:
    """|level - 1(u < 0)| |u|, u = q_target - value. Minimiser: the quantile of q. (Koenker and Bassett 1978.)"""
    error = q_target.detach() - value
    return (level - (error < 0).to(error.dtype)) * error


def quantile_huber(quantiles: Atoms, atoms_target: Float[Tensor, "*batch other"], *, delta: Hyper = 1.0) -> Values:
    """(..., B, N) against (..., B, M) -> (..., B): sum_i mean_j |tau_i - 1(u < 0)| huber(u, delta) / delta.

    tau_i = (2 i + 1) / 2 N. Minimiser as delta -> 0: the quantiles at tau_i. (QR-DQN, Dabney 2017, eq. 10.)
    """
    count = quantiles.shape[-1]
    levels = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / count
    error = atoms_target.detach().unsqueeze(-2) - quantiles.unsqueeze(-1)
    size = error.abs()
    inner = size.clamp(max=delta)
    weight = torch.where(error < 0, 1 - levels[:, None], levels[:, None])
    return (weight * inner * (size - 0.5 * inner) / delta).mean(-1).sum(-1)


def gumbel(
    value: Values,
    q_target: Values,
    *,
    temperature: Hyper,
    clip: float = 20.0,
    variant: Literal["corrected", "official"] = "corrected",
) -> Values:
    """exp(z) - z - 1, z = (q_target - value) / temperature.

    Minimiser: temperature * log E exp(q / temperature). (XQL, Garg 2023, eq. 10.)

    corrected: above z = clip the exponential goes on as its tangent, so that it neither overflows nor loses the
        gradient of the best actions; the minimiser is the exact one while every q stays below it + clip * temperature.
    official: z is cut at `clip`, which drops the gradient of what is above, and each loss is multiplied by exp(-m),
        m = max(-1, largest z along the last axis), as in Div99/XQL.
    """
    z = (q_target.detach() - value) / temperature
    if variant == "official":
        z = z.clamp(max=clip)
        top = z.detach().amax(-1, keepdim=True).clamp(min=-1.0)
        return (z - top).exp() - z * (-top).exp() - (-top).exp()
    if variant != "corrected":
        raise unknown("variant", variant, ("corrected", "official"))
    low = z.clamp(max=clip)
    return torch.expm1(low) - low + (z - low) * (torch.exp(low) - 1)


def cql_penalty(
    q_sampled: Float[Tensor, "*batch actions"],
    q_data: Values,
    *,
    temperature: Hyper = 1.0,
    log_prob: Float[Tensor, "*batch actions"] | None = None,
) -> Values:
    """temperature * log sum_a exp(q(s, a) / temperature) - q(s, a_data). (CQL(H), Kumar 2020, eq. 4.)

    q_sampled (..., B, K): without `log_prob` all K actions of a finite set; with it K samples whose log-density it is,
    and the sum becomes the importance-weighted mean, a consistent estimate of the integral over actions.
    Minimiser of the penalty alone: softmax(q / temperature) is the law of the data's actions.
    """
    exponent = q_sampled / (temperature.unsqueeze(-1) if isinstance(temperature, Tensor) else temperature)
    if log_prob is None:
        total = exponent.logsumexp(-1)
    else:
        total = (exponent - log_prob).logsumexp(-1) - math.log(q_sampled.shape[-1])
    return temperature * total - q_data


def two_hot(value: Values, support: Float[Tensor, " atoms"]) -> Atoms:
    """Weights on the two neighbouring atoms whose mean is `value`, clamped to the (increasing) support.

    (MuZero, Schrittwieser 2020, app. F; paper [124].)
    """
    value = value.clamp(support[0], support[-1])
    upper = torch.searchsorted(support, value.contiguous()).clamp(1, len(support) - 1)
    low, high = support[upper - 1], support[upper]
    share = (value - low) / (high - low)
    index = torch.arange(len(support), device=support.device)
    below, above = index == (upper - 1).unsqueeze(-1), index == upper.unsqueeze(-1)
    return below * (1 - share).unsqueeze(-1) + above * share.unsqueeze(-1)


def hl_gauss(value: Values, edges: Float[Tensor, " edges"], *, sigma: Hyper) -> Atoms:
    """The mass of Normal(value, sigma^2), truncated to the support, in each bin between `edges`.

    (HL-Gauss, Imani and White 2018; Farebrother 2024, eq. 6.) sigma in units of value; 0.75 bin widths is usual.
    """
    sigma = torch.as_tensor(sigma, dtype=value.dtype, device=value.device)
    value = value.clamp(edges[0], edges[-1])
    cdf = torch.special.ndtr((edges - value.unsqueeze(-1)) / sigma.unsqueeze(-1))
    return cdf.diff() / (cdf[..., -1:] - cdf[..., :1])


def categorical_projection(
    probs: Atoms, atoms: Float[Tensor, "*batch atoms"], support: Float[Tensor, " bins"]
) -> Float[Tensor, "*batch bins"]:
    """The law with mass `probs` on `atoms`, each atom shared between its two neighbours in `support` by `two_hot`.

    With atoms r + discount * support it is the target of C51 (Bellemare 2017, alg. 1). Keeps the mean of what lies
    inside the support; what lies outside is moved to its end.
    """
    return (probs.unsqueeze(-1) * two_hot(atoms, support)).sum(-2)


def categorical(logits: Atoms, probs_target: Atoms) -> Values:
    """- sum_k p_k log softmax(logits)_k. Minimiser: softmax(logits) = E[p]. (C51, Bellemare 2017, alg. 1.)"""
    return -(probs_target.detach() * logits.log_softmax(-1)).sum(-1)
