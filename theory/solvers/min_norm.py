"""The shortest vector of a convex hull: min_w |sum_i w_i g_i|^2, w on the simplex (MGDA's direction, Desideri 2012).

Exact for few vectors: the support of the answer is one of the 2^m - 1 subsets T, and on it

    [ G_T G_T'  1 ] [ w ]   [ 0 ]
    [    1'     0 ] [ c ] = [ 1 ],

of which the best solution with w >= 0 is taken. All subsets of all problems are solved as one batch.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError

LIMIT = 10  # vectors


def min_norm(gradients: Float[Tensor, "*b m D"]) -> Float[Tensor, "*b m"]:
    """The weights. With d = sum_i w_i g_i every g_i . d >= |d|^2: a step along d raises (along -d: lowers) all
    functions with these gradients, unless d = 0. Vectors that depend on each other are allowed.

    Raises UserError for more than 10 vectors.
    """
    m = gradients.shape[-2]
    if m > LIMIT:
        raise UserError(f"{m} gradients need {2**m - 1} subsets; valid are at most {LIMIT}.")
    g = gradients.double()
    scale = g.square().sum(-1).amax(-1).clamp(min=1e-300)[..., None, None]
    gram = g @ g.mT / scale
    subsets = torch.tensor(list(itertools.product((0.0, 1.0), repeat=m))[1:], dtype=g.dtype, device=g.device)
    inside = subsets[:, :, None] * subsets[:, None]
    kkt = g.new_zeros(*gram.shape[:-2], len(subsets), m + 1, m + 1)
    kkt[..., :m, :m] = gram[..., None, :, :] * inside + torch.diag_embed(1 - subsets)  # w = 0 outside the subset
    kkt[..., :m, m] = subsets
    kkt[..., m, :m] = subsets
    w = torch.linalg.pinv(kkt, rtol=1e-12, hermitian=True)[..., :m, m]
    feasible = (w >= -1e-9).all(-1) & ((w.sum(-1) - 1).abs() < 1e-6)
    w = w.clamp(min=0)
    w = w / w.sum(-1, keepdim=True).clamp(min=1e-300)
    length = torch.einsum("...ti,...ij,...tj->...t", w, gram, w)
    best = length.masked_fill(~feasible, torch.inf).argmin(-1)
    return torch.take_along_dim(w, best[..., None, None], -2)[..., 0, :].to(gradients)
