"""Elementary functions whose every element is computed alike.

torch's fused kernels (softplus, sigmoid) treat the last elements of a tensor by another formula, so that bits would
depend on how many replicas stand beside one; exp and log1p do not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), with all derivatives right at 0 and without overflow."""
    above = x + torch.log1p(torch.exp(-x.clamp(min=0)))
    return torch.where(x > 0, above, torch.log1p(torch.exp(x.clamp(max=0))))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), precise in value and gradient however small it is."""
    return torch.exp(-softplus(-x))
