"""Worst transition rows: min p . z over a ball around a nominal row, exactly, batched over all leading axes.

    l1    sum |p - p0| <= radius           linf  max |p - p0| <= radius       interval  lower <= p <= upper
    chi2  sum (p - p0)^2 / p0 <= radius    kl    sum p log(p / p0) <= radius

p ranges over the whole simplex for l1, linf and interval (new successors may appear); for chi2 and kl it stays on the
support of p0. z is finite. The first three by sorting z, the others by bisection along their optimal tilt.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import unknown

SETS = ("l1", "linf", "interval", "kl", "chi2")
BISECTIONS = 64


def box_worst(low: Tensor, high: Tensor, z: Tensor) -> Tensor:
    """Start from the lower bounds and give what is left of the unit mass to the smallest z first."""
    order = z.argsort(-1)
    room = (high - low).gather(-1, order)
    before = room.cumsum(-1) - room
    left = 1 - low.sum(-1, keepdim=True)
    given = torch.minimum(room, (left - before).clamp(min=0))
    return low + torch.zeros_like(low).scatter(-1, order, given)


def l1_worst(p0: Tensor, z: Tensor, radius: Tensor) -> Tensor:
    """Move radius / 2 from the largest z to the smallest one."""
    order = z.argsort(-1, descending=True)
    mass = p0.gather(-1, order)
    move = torch.minimum(radius / 2, 1 - mass[..., -1])[..., None]
    taken = torch.minimum(mass, (move - (mass.cumsum(-1) - mass)).clamp(min=0))
    taken[..., -1] = 0
    moved = mass - taken
    moved[..., -1] = moved[..., -1] + taken.sum(-1)
    return torch.zeros_like(p0).scatter(-1, order, moved)


def _lowest(p0: Tensor, z: Tensor) -> Tensor:
    """p0 conditioned on the smallest z of its support: the limit of every ball that never leaves the support."""
    masked = z.masked_fill(p0 <= 0, torch.inf)
    p = p0 * (masked <= masked.amin(-1, keepdim=True) + 1e-13)
    return p / p.sum(-1, keepdim=True)


def support_range(p0: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(smallest z on the support of p0, spread of z there), each (...,)."""
    low = z.masked_fill(p0 <= 0, torch.inf).amin(-1)
    return low, z.masked_fill(p0 <= 0, -torch.inf).amax(-1) - low


def tilt(name: str, p0: Tensor, z: Tensor, log_rate: Tensor) -> Tensor:
    """The optimal family from p0 (rate 0) to the smallest z (rate infinite), z measured in units of its spread.

    kl: p ~ p0 exp(-rate z).  chi2: p ~ p0 max(0, 1 - rate z), with z counted from its minimum.
    """
    low, spread = support_range(p0, z)
    x = ((z - low[..., None]) / spread.clamp(min=1e-300)[..., None]).clamp(min=0) * log_rate.exp()[..., None]
    w = p0 * (torch.exp(-x) if name == "kl" else (1 - x).clamp(min=0))
    return w / w.sum(-1, keepdim=True)


def tilted_worst(name: str, p0: Tensor, z: Tensor, radius: Tensor) -> Tensor:
    """The tilt whose divergence is the radius, by bisection on the log rate; the divergence grows with the rate."""
    _, spread = support_range(p0, z)
    limit = _lowest(p0, z)
    low, high = torch.full_like(spread, -60.0), torch.full_like(spread, 60.0)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        over = distance(name, tilt(name, p0, z, middle), p0) > radius
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    inner = distance(name, limit, p0) > radius
    p = torch.where(inner[..., None], tilt(name, p0, z, low), limit)
    return torch.where(((spread > 0) & (radius > 0))[..., None], p, p0)


def worst_row(
    name: str, p0: Float[Tensor, "*b S"], z: Float[Tensor, "*b S"], radius: Float[Tensor, "*b"] | None = None,
    low: Tensor | None = None, high: Tensor | None = None,
) -> Float[Tensor, "*b S"]:  # fmt: skip
    """The minimiser of p . z over the set `name` (a key of SETS)."""
    if name not in SETS:
        raise unknown("ambiguity", name, SETS)
    if name == "interval":
        assert low is not None
        assert high is not None
        return box_worst(low, high, z)
    assert radius is not None
    if name == "linf":
        return box_worst((p0 - radius[..., None]).clamp(min=0), (p0 + radius[..., None]).clamp(max=1), z)
    return l1_worst(p0, z, radius) if name == "l1" else tilted_worst(name, p0, z, radius)


def distance(name: str, p: Tensor, p0: Tensor) -> Tensor:
    """How far p is from p0 in the measure that `radius` bounds; inf off the support of p0 for kl and chi2."""
    if name == "l1":
        return (p - p0).abs().sum(-1)
    if name == "linf":
        return (p - p0).abs().amax(-1)
    off = (p * (p0 <= 0)).sum(-1) > 1e-12
    ratio = p / p0.clamp(min=1e-300)
    inside = torch.special.xlogy(p, ratio).sum(-1) if name == "kl" else (p0 * (ratio - 1) ** 2 * (p0 > 0)).sum(-1)
    return torch.where(off, torch.full_like(inside, torch.inf), inside)
