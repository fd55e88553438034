"""Losses of density ratios from samples of two laws: a classifier's logit is log p / q where it is optimal.

Shapes: logits are (..., B), gradients (..., B, D).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fenchel.theory.numerics import softplus

Hyper = float | int | Tensor
Values = Float[Tensor, "*batch"]


def logistic_ratio(logit_p: Values, logit_q: Values) -> Values:
    """- log sigmoid(c(x)) - log(1 - sigmoid(c(y))), x ~ p and y ~ q. Minimiser: c = log p / q.

    (The discriminator of GAN, Goodfellow 2014, eq. 1; of GAIL, DemoDICE and SMODICE.)
    """
    return softplus(-logit_p) + softplus(logit_q)


def gradient_penalty(gradient: Float[Tensor, "*batch inputs"], *, norm: Hyper = 1.0) -> Values:
    """(|g| - norm)^2 of the gradient g of a function with respect to its inputs. (WGAN-GP, Gulrajani 2017, eq. 3.)"""
    size = (gradient.square().sum(-1) + 1e-12).sqrt()  # the root's slope at 0 is infinite
    return (size - norm).square()
