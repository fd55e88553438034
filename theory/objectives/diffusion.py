"""Denoising diffusion of actions in few steps: the schedule, a noisy action, and the loss of the network that denoises.

Shapes: actions (..., B, A), everything else (..., B). Arguments named `*_target` are detached, nothing else is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, "*batch"]
Actions = Float[Tensor, "*batch action"]
LOW, HIGH = 0.1, 10.0


def vp_schedule(steps: int, **like) -> tuple[Tensor, Tensor]:
    """alpha_t and their running product, (steps,), t = 1 .. steps.

    alpha_t = exp(-0.1 / T - (10 - 0.1) (2 t - 1) / (2 T^2)): the variance-preserving diffusion whose rate grows from
    0.1 to 10, in T steps. (Song 2021; IDQL, Hansen-Estruch 2023; FISOR [10].)
    """
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    alpha = (-LOW / steps - 0.5 * (HIGH - LOW) * (2 * t - 1) / steps**2).exp()
    return alpha.to(**like), alpha.cumprod(0).to(**like)


def diffuse(action: Actions, noise: Actions, kept: Float[Tensor, "*batch one"]) -> Actions:
    """sqrt(k) a + sqrt(1 - k) noise, k the product of the alphas so far."""
    return kept.sqrt() * action + (1 - kept).sqrt() * noise


def denoising(predicted: Actions, noise_target: Actions, weight_target: Values) -> Values:
    """w |predicted - noise|^2, summed over action dimensions.

    The weight stands outside of the norm: its minimiser denoises actions of the law proportional to w beta(a|s),
    without a classifier's gradient. (FISOR [10].)
    """
    return weight_target.detach() * (predicted - noise_target.detach()).square().sum(-1)


def denoise(action: Actions, predicted: Actions, noise: Actions, alpha: Tensor, kept: Tensor) -> Actions:
    """One step back: (a_t - (1 - alpha_t) / sqrt(1 - k_t) eps) / sqrt(alpha_t) + sqrt(1 - alpha_t) noise. (DDPM, Ho
    2020, alg. 2, whose last step has no noise.)
    """
    mean = (action - (1 - alpha) / (1 - kept).sqrt() * predicted) / alpha.sqrt()
    return mean + (1 - alpha).sqrt() * noise
