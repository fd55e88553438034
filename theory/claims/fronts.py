"""Fronts of several objectives: scalarisations that reach them, and the volume below them."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.tools import worst
from fenchel.theory.rng import Rng


def clouds(rng: Rng, n: int) -> Problem:
    """Twelve points of two objectives, and weights."""
    return dict(x=rng.normal(n, 12, 2))


def nondominated(x: Tensor) -> Tensor:
    beats = (x[:, :, None] >= x[:, None]).all(-1) & (x[:, :, None] > x[:, None]).any(-1)
    return ~beats.any(1)


def _chebyshev(p: Problem, linear: bool = False) -> ClaimReport:
    """Every non-dominated point wins for w_i ~ 1 / (z_i - x_i), z beyond the ideal point; residual: how far it is "
    "off."""
    x, keep = p["x"], nondominated(p["x"])
    z = x.amax(1, keepdim=True) + 0.5
    if linear:
        angle = torch.linspace(0, math.pi / 2, 721, dtype=x.dtype)
        score = x @ torch.stack([angle.cos(), angle.sin()])
        best = (score.amax(1, keepdim=True) - score).amin(-1)
        return ClaimReport(torch.where(keep, best, 0.0).amax(-1), 1e-6)
    w = 1 / (z - x)
    score = -(w[:, :, None] * (z - x)[:, None]).amax(-1)  # (n, weight of, point)
    own = score.diagonal(dim1=1, dim2=2)
    return ClaimReport(torch.where(keep, score.amax(-1) - own, 0.0).amax(-1), 1e-12)


CHEBYSHEV = Claim(
    paper=45,
    kind="theorem",
    statement="every Pareto point is optimal for some Tchebycheff weight, max_i w_i |z_i - x_i|",
    problems=clouds,
    check=_chebyshev,
    twin=Twin("the maximum (a weighted sum)", check=lambda p: _chebyshev(p, True)),
    source="derived",
)

LINEAR_MISS = Claim(
    paper=43,
    kind="counterexample",
    statement="linear weights never select the Pareto point (.4, .4) beside (1, 0) and (0, 1)",
    problems=lambda rng, n: dict(x=torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.4, 0.4]]], dtype=torch.float64)),
    check=lambda p: ClaimReport(0.09 - _chebyshev(p, True).residual, 0.0),
    source="derived",
)


def area(x: Tensor) -> Tensor:
    """Hypervolume above the reference (-3, -3) by a sweep, (n,)."""
    x = (x + 3).clamp(min=0)
    order = x[..., 0].argsort(-1, descending=True)
    a, b = (x[..., k].gather(-1, order) for k in (0, 1))
    height = b.cummax(-1).values
    return (a * torch.diff(height, dim=-1, prepend=torch.zeros_like(height[:, :1]))).sum(-1)


def _hypervolume(p: Problem, without_overlap: bool = True) -> ClaimReport:
    """The sweep against inclusion-exclusion over all subsets of five points, and it never falls when a point joins."""
    x = p["x"][:, :5]
    corner, total = (x + 3).clamp(min=0), torch.zeros(len(x), dtype=x.dtype)
    for size in range(1, 6 if without_overlap else 2):
        for subset in itertools.combinations(range(5), size):
            total = total - (-1) ** size * corner[:, subset].amin(1).prod(-1)
    return ClaimReport(worst((area(x) - total).abs(), area(x) - area(p["x"])), 1e-11)


HYPERVOLUME = Claim(
    paper=6,
    kind="theorem",
    statement="hypervolume = inclusion-exclusion over dominated boxes, and it never falls when a point joins the "
    "archive",
    problems=clouds,
    check=_hypervolume,
    twin=Twin("the overlaps", check=lambda p: _hypervolume(p, False)),
    source="derived",
)
