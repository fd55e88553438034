"""What scalarisations, constraints, archives and common directions of several objectives reach."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory import fronts
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Twin
from fenchel.theory.claims.fronts import area
from fenchel.theory.claims.reference_fronts import walked
from fenchel.theory.claims.tools import worst
from fenchel.theory.instances import deep_sea_treasure
from fenchel.theory.instances.generated import garnet
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.min_norm import min_norm

ANGLES = 256


def policies(rng: Rng, n: int) -> Problem:
    """Vectors J (n, 27, 2) of all deterministic policies of Garnets with three states and three actions."""
    mdp = garnet(rng, n, 3, 3, 2, 0.9, 2)
    choice = torch.cartesian_prod(*[torch.arange(3)] * 3)
    states, eye = torch.arange(3), torch.eye(3, dtype=mdp.dtype)
    kernel = mdp.kernel[:, states, choice]  # (n, 27, 3, 3)
    reward = mdp.r[:, :, states, choice].permute(0, 2, 3, 1)  # (n, 27, 3, 2)
    return dict(x=torch.einsum("ns,npsk->npk", mdp.mu0, torch.linalg.solve(eye - kernel, reward)))


def below_hull(x: Tensor) -> Tensor:
    """(n, N): how far each point lies below the upper right hull of all: its height under the highest chord, else 0.

    For a pair (a, b) around point p in the first objective, the chord's height at p minus p's second objective; and
    what lies to the left of the highest point or below the rightmost one counts by its distance to that point.
    """
    u, v = x.unbind(-1)
    a, b = x[:, :, None], x[:, None]
    width = b[..., 0] - a[..., 0]  # (n, a, b)
    share = (u[:, None, None] - a[..., None, 0]) / width.clamp(min=1e-12)[..., None]  # (n, a, b, point)
    height = a[..., None, 1] + share * (b[..., 1] - a[..., 1])[..., None]
    between = (width > 1e-12)[..., None] & (share >= 0) & (share <= 1)
    gap = (height - v[:, None, None]).masked_fill(~between, 0.0).amax((1, 2))
    dominated = torch.minimum(u[:, None] - u[:, :, None], v[:, None] - v[:, :, None]).amax(-1)
    return torch.maximum(gap, dominated).clamp(min=0)


def _scalarisation(p: Problem, chebyshev: bool = False) -> ClaimReport:
    """Winners of 256 weights lie on the hull; and each point on the hull wins for the weights of an adjacent edge."""
    x = p["x"]
    angle = torch.linspace(0, torch.pi / 2, ANGLES, dtype=x.dtype)
    w = torch.stack([angle.cos(), angle.sin()], -1).clamp(min=1e-9)
    depth = below_hull(x)
    if chebyshev:
        z = x.amax(1, keepdim=True) + 0.1
        score = -(w[:, None, None] * (z - x)).amax(-1)  # (angle, n, N)
    else:
        score = torch.einsum("mk,npk->mnp", w, x)
    winners = depth.expand(ANGLES, -1, -1).gather(-1, score.argmax(-1, keepdim=True)).amax((0, 2))
    edges = x[:, :, None] - x[:, None]  # normals of all chords, turned to the positive quadrant
    normal = torch.stack([-edges[..., 1], edges[..., 0]], -1)
    normal = torch.where((normal <= 0).all(-1, keepdim=True), -normal, normal)
    axes = torch.eye(2, dtype=x.dtype).expand(len(x), 2, 2)
    normal = torch.cat([normal.flatten(1, 2), axes], 1)
    usable = (normal >= 0).all(-1) & (normal.sum(-1) > 1e-12)
    normal = normal / normal.sum(-1, keepdim=True).clamp(min=1e-12)
    value = normal @ x.mT  # (n, chords, N)
    lack = (value.amax(-1, keepdim=True) - value).masked_fill(~usable[..., None], torch.inf).amin(1)
    return ClaimReport(worst(winners, torch.where(depth <= 1e-12, lack, 0.0).amax(-1)), 1e-9)


SCALARISATION = Claim(
    paper=45,
    kind="theorem",
    statement="over the policies of an MDP, weighted sums of the objectives select points of the upper hull of their "
    "returns, every such point for some weight, and nothing below it",
    problems=policies,
    check=_scalarisation,
    twin=Twin("linearity (Tchebycheff weights)", check=lambda p: _scalarisation(p, True)),
    source="derived",
)


def ties(rng: Rng, n: int) -> Problem:
    """Fifteen points of three objectives on a grid, where many are weakly Pareto and dominated."""
    return dict(x=(4 * rng.uniform(n, 15, 3)).floor())


def _weakly(p: Problem, linear: bool = False) -> ClaimReport:
    """Weakly Pareto (no point is better in all objectives) <=> optimal for w_i ~ 1 / (z_i - x_i), z beyond the ideal
    point; for other positive weights too the optimum is weakly Pareto."""
    x = p["x"]
    weak = ~(x[:, None] > x[:, :, None]).all(-1).any(-1)
    z = x.amax(1, keepdim=True) + 0.5
    w = 1 / (z - x)
    lack = (w[:, :, None] * (z - x)[:, None]) if not linear else -(w[:, :, None] * x[:, None])
    lack = lack.sum(-1) if linear else lack.amax(-1)  # (n, weight of, point)
    own = lack.diagonal(dim1=1, dim2=2) - lack.amin(-1)
    reached = torch.where(weak, own, 0.0).amax(-1)
    optimal = lack <= lack.amin(-1, keepdim=True) + 1e-12
    wrong = (optimal & ~weak[:, None]).any(-1).any(-1)
    return ClaimReport(worst(reached, wrong.to(x)), 1e-12)


WEAKLY_PARETO = Claim(
    paper=45,
    kind="theorem",
    statement="the weakly Pareto points are the minima of max_i w_i (z_i - x_i), w > 0, z beyond the ideal point, and "
    "nothing else is",
    problems=ties,
    check=_weakly,
    twin=Twin("the maximum (a weighted sum)", check=lambda p: _weakly(p, True)),
    source="derived",
)


def concave_seas(rng: Rng, n: int) -> Problem:
    """Returns (n, 10, 2) of the ten ways of concave deep sea treasure, at discounts from .95 to .995."""
    gammas = rng.uniform(min(n, 16), low=0.95, high=0.995)
    return dict(x=torch.stack([walked(deep_sea_treasure("concave", float(g))) for g in gammas]))


def _constrained(p: Problem, floors: bool = True) -> ClaimReport:
    """For every Pareto point v: how far the best time among points with treasure >= v's, and the best treasure among
    those with time >= v's, are from v. Without floors: the least that v lacks to the best weighted sum."""
    x = p["x"]
    pareto = ~((x[:, None] >= x[:, :, None]).all(-1) & (x[:, None] > x[:, :, None]).any(-1)).any(-1)
    if not floors:
        angle = torch.linspace(0, torch.pi / 2, 4 * ANGLES, dtype=x.dtype)
        score = x @ torch.stack([angle.cos(), angle.sin()])
        return ClaimReport(torch.where(pareto, (score.amax(1, keepdim=True) - score).amin(-1), 0.0).amax(-1), 1e-9)
    off = torch.zeros_like(pareto, dtype=x.dtype)
    for k in range(2):
        allowed = x[:, None, :, 1 - k] >= x[:, :, None, 1 - k]  # (n, floor of, point)
        best = x[:, None, :, k].masked_fill(~allowed, -torch.inf).argmax(-1)
        chosen = torch.take_along_dim(x, best[..., None], 1)
        off = torch.maximum(off, (chosen - x).abs().amax(-1))
    return ClaimReport(torch.where(pareto, off, 0.0).amax(-1), 1e-12)


CONSTRAINED = Claim(
    paper=6,
    kind="theorem",
    statement="every point of concave deep sea treasure's front is the best of one objective subject to a floor on the "
    "other, although weighted sums select only two of the ten",
    problems=concave_seas,
    check=_constrained,
    twin=Twin("the floor (a weighted sum)", check=lambda p: _constrained(p, False)),
    source="derived",
    n=16,
)


def arrivals(rng: Rng, n: int) -> Problem:
    """Twelve points of two objectives that arrive one by one."""
    return dict(x=rng.normal(n, 12, 2))


def _archive(p: Problem, cap: int | None = None) -> ClaimReport:
    """The largest fall of the hypervolume above (-3, -3) and of the expected utility while points arrive."""
    x, fall = p["x"], p["x"].new_zeros(len(p["x"]))
    weights = fronts.lattice(2, 10).to(x)
    volumes, utilities = [], []
    for k in range(1, x.shape[1] + 1):
        held = x[:, max(0, k - cap) if cap else 0 : k]  # the nondominated part has the same volume and utility
        volumes.append(area(held))
        utilities.append((held @ weights.T).amax(1).mean(-1))
    for curve in (torch.stack(volumes, -1), torch.stack(utilities, -1)):
        fall = torch.maximum(fall, (-curve.diff(dim=-1)).amax(-1))
    return ClaimReport(fall, 1e-12)


ARCHIVE = Claim(
    paper=6,
    kind="theorem",
    statement="while an archive without a cap takes in policies, its hypervolume and its expected utility never fall",
    problems=arrivals,
    check=_archive,
    twin=Twin("the missing cap (the oldest of four leaves)", check=lambda p: _archive(p, 4)),
    source="derived",
)


def gradients(rng: Rng, n: int) -> Problem:
    """Four gradients in six dimensions; in every other problem two of them point against each other."""
    g = rng.normal(n, 4, 6)
    g[::2, 1] = -g[::2, 0] * (0.5 + rng.uniform(len(g[::2]), 1))
    return dict(g=g, rivals=rng.simplex(n, 200, 4))


def _mgda(p: Problem, mean: bool = False) -> ClaimReport:
    g = p["g"]
    w = torch.full_like(g[..., 0], 0.25) if mean else min_norm(g)
    d = torch.einsum("nm,nmd->nd", w, g)
    length = d.square().sum(-1)
    short = (length[:, None] - torch.einsum("nmd,nd->nm", g, d)).amax(-1)
    rivals = torch.einsum("nrm,nmd->nrd", p["rivals"], g).square().sum(-1).amin(-1)
    simplex = torch.maximum((-w).amax(-1), (w.sum(-1) - 1).abs())
    return ClaimReport(worst(short, length - rivals, simplex), 1e-9)


MGDA = Claim(
    paper=34,
    kind="theorem",
    statement="the shortest d of the gradients' convex hull has g_i . d >= |d|^2 for every i: it improves all "
    "objectives, or is 0 where they conflict",
    problems=gradients,
    check=_mgda,
    twin=Twin("the least norm (the mean gradient)", check=lambda p: _mgda(p, True)),
    source="derived",
)
