"""Fronts of several objectives, all maximised: which points count, and the numbers that compare two fronts.

Points are (N, K) tensors, rows are return vectors. A front may be given with dominated points or with copies; every
metric below is a function of the set of its nondominated points, except `maximum_utility_loss` and `igd`, which compare
it with a reference front.

    hypervolume(V, z)          volume of the union of the boxes [z, v], v in V
    expected_utility(V, W)     mean over w in W of max_v w . v
    maximum_utility_loss       max over w in W of  max_{u in front} w . u - max_{v in V} w . v
    igd                        mean over u in front of min_v |u - v|
    cardinality                number of nondominated points
    sparsity                   sum over objectives of the squared gaps between neighbours, over |V| - 1 (PGMORL)

Traps. The hypervolume's scale is that of the product of the objectives, and it weighs them by their ranges; it depends
on z, which must be fixed before anything is compared and must lie below the whole front in every objective, since a
point that does not beat z everywhere counts for nothing (`check_reference`). Linear utilities do not see points in
concave parts of a front: the expected utility of a front and of its `supported` part are equal. Sparsity compares
fronts only where their hypervolumes are close: it is small for few points near each other, and no number at all for
fewer than two (nan here; 0 in released code). Weights that are tested for `sum == 1` in floating point get lost: a
released lattice of step 0.1 keeps 62 of 66 for three objectives (docs/errata.md); `lattice` counts in integers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.rng import Streams

BOXES = 1_000_000  # above this an exact hypervolume is refused


def nondominated(vectors: Float[Tensor, "N K"], slack: float = 1e-12) -> Int[Tensor, " M"]:
    """Sorted indices of the nondominated vectors, equal ones (up to slack, relative) kept once.

    In lexicographic order from the best, a vector can only be dominated by one before it.
    """
    scale = slack * (1 + vectors.abs().max()) if len(vectors) else 0.0
    order = torch.arange(len(vectors), device=vectors.device)
    for k in reversed(range(vectors.shape[1])):
        order = order[torch.argsort(vectors[order, k], descending=True, stable=True)]
    if vectors.shape[1] == 2 and len(order):  # two objectives: keep what rises above everything before it
        second = vectors[order, 1]
        before = torch.cat([second.new_full((1,), -torch.inf), second.cummax(0).values[:-1]])
        return order[second > before + scale]
    kept: list[int] = []
    front = vectors[:0]
    for i in order.tolist():
        if not (front >= vectors[i] - scale).all(-1).any():
            kept.append(i)
            front = torch.cat([front, vectors[i][None]])
    return torch.tensor(kept, dtype=torch.int64, device=vectors.device)


def supported(vectors: Float[Tensor, "N K"], tol: float = 1e-10) -> Int[Tensor, " M"]:
    """Indices of the points that win alone for some weight on the simplex: the convex coverage set of the points.

    One linear program per point (HiGHS). Equal points are kept once.
    """
    from fenchel.theory.solvers.coverage import extreme

    keep = nondominated(vectors)
    winners, _ = extreme(vectors[keep].cpu().double().numpy(), tol)
    return keep[torch.as_tensor(winners, device=keep.device)]


def check_reference(
    points: Float[Tensor, "N K"], reference: Sequence[float] | Tensor, key: str = "reference_point"
) -> Float[Tensor, " K"]:
    """The reference point as a tensor. Raises UserError unless every point beats it in every objective."""
    try:
        point = torch.as_tensor(reference, dtype=points.dtype, device=points.device)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{key}={reference} is not valid; valid is a list of {points.shape[1]} numbers.") from None
    if point.shape != points.shape[1:]:
        raise UserError(f"{key} has {point.numel()} entries; valid is one per objective, {points.shape[1]}.")
    beaten = (points > point).all(0)
    if not bool(beaten.all()):
        k = int((~beaten).nonzero()[0])
        least = float(points[:, k].min())
        raise UserError(
            f"{key}={_text(point)} is not dominated by the whole front; valid is below {least:.4g} in objective {k}."
        )
    return point


def check_weights(weights: Sequence[float] | Tensor, objectives: int, key: str = "weights") -> Float[Tensor, "*N K"]:
    """The weights, float64. Raises UserError for a wrong length, a negative entry, or a sum that is not 1 to 1e-6."""
    w = torch.as_tensor(weights, dtype=torch.float64)
    if w.shape[-1:] != (objectives,):
        raise UserError(f"{key} has {w.shape[-1] if w.ndim else 1} entries; valid is one per objective, {objectives}.")
    wrong = ~((w >= 0).all(-1) & ((w.sum(-1) - 1).abs() <= 1e-6))
    if bool(wrong.any()):
        first = w.reshape(-1, objectives)[wrong.reshape(-1)][0]
        raise UserError(f"{key}={_text(first)} is off the simplex; valid are entries of at least 0 that sum to 1.")
    return w


def _text(point: Tensor) -> str:
    return "[" + ",".join(f"{x:g}" for x in point.tolist()) + "]"


def lattice(objectives: int, divisions: int) -> Float[Tensor, "M K"]:
    """All weights with entries in {0, 1/H, ..., 1} that sum to 1, H = divisions: (H + K - 1 choose K - 1) of them."""
    if objectives < 1 or divisions < 1:
        raise UserError(f"a lattice needs objectives >= 1 and divisions >= 1, not {objectives} and {divisions}.")
    bars = itertools.combinations(range(divisions + objectives - 1), objectives - 1)
    ends = torch.tensor([(-1, *bar, divisions + objectives - 1) for bar in bars], dtype=torch.int64)
    return (ends.diff(dim=1) - 1).double() / divisions


# -- metrics ---------------------------------------------------------------------------------------------------------


def hypervolume(
    points: Float[Tensor, "N K"], reference: Sequence[float] | Tensor, *, samples: int | None = None, seed: int = 0
) -> float:
    """The volume between the reference point and the points; 0 when none of them beats it everywhere.

    Exact (samples=None): sweeping the last objective from its best value down, the area of the others that is dominated
    so far is a union of boxes, one per local upper bound (Lacour, Klamroth, Fonseca 2017), of which a new point
    replaces those that it cuts. Their number grows as N^{(K - 1) / 2} at worst; above 1,000,000 a UserError asks for
    `samples`. With samples: an unbiased estimate with relative standard error below sqrt((N - 1) / samples), far below
    in practice (Karp, Luby, Madras 1989).
    """
    x = points.detach().to("cpu", torch.float64)
    ref = torch.as_tensor(reference, dtype=torch.float64, device="cpu")
    if ref.shape != x.shape[1:]:
        raise UserError(f"reference_point has {ref.numel()} entries; valid is one per objective, {x.shape[1]}.")
    x = x[(x > ref).all(1)] - ref
    x = x[nondominated(x, 0.0)]
    if not len(x):
        return 0.0
    if x.shape[1] == 1:
        return float(x.max())
    return _sampled(x, samples, seed) if samples else _exact(x)


def _exact(x: Float[Tensor, "N K"]) -> float:
    """x > 0. In the first d = K - 1 objectives, negated: `upper` (m, d) are the local upper bounds, `owner` (m, d) the
    rows of `corner` that define each coordinate; the last d rows are the walls of the bounding box."""
    x = x[torch.argsort(x[:, -1], descending=True, stable=True)]
    corner, d = -x[:, :-1], x.shape[1] - 1
    wall = torch.full((d, d), float(corner.min()) - 1.0, dtype=x.dtype)
    corner = torch.cat([corner, wall.fill_diagonal_(0.0)])
    upper, owner = x.new_zeros(1, d), torch.arange(len(x), len(x) + d)[None]
    area, volume = x.new_zeros(()), x.new_zeros(())
    heights = torch.cat([x[:, -1], x.new_zeros(1)])
    for i in range(len(x)):
        point = corner[i]
        hit = (point < upper).all(1)
        old, old_owner = upper[hit], owner[hit]
        if len(old):
            defining = corner[old_owner]  # (m, which coordinate it defines, coordinate)
            fresh, fresh_owner = [], []
            for k in range(d):
                others = defining[:, [j for j in range(d) if j != k], k]
                keep = (point[k] >= others).all(1)
                new, new_owner = old[keep].clone(), old_owner[keep].clone()
                new[:, k], new_owner[:, k] = point[k], i
                fresh.append(new)
                fresh_owner.append(new_owner)
            added, added_owner = torch.cat(fresh), torch.cat(fresh_owner)
            area = area + _areas(corner, added, added_owner).sum() - _areas(corner, old, old_owner).sum()
            upper, owner = torch.cat([upper[~hit], added]), torch.cat([owner[~hit], added_owner])
            if len(upper) > BOXES:
                raise UserError(f"the hypervolume of {len(x)} points needs over {BOXES:,} boxes; valid is samples=N.")
        volume = volume + area * (heights[i] - heights[i + 1])
    return float(volume)


def _areas(corner: Tensor, upper: Tensor, owner: Tensor) -> Tensor:
    """(m,): the box of each upper bound u: from u_1 to the wall, and for j > 1 from max_{k < j} z^k_j to u_j."""
    defining = corner[owner]
    d = upper.shape[1]
    area = -upper[:, 0]
    for j in range(1, d):
        area = area * (upper[:, j] - defining[:, :j, j].amax(1))
    return area


def _sampled(x: Float[Tensor, "N K"], samples: int, seed: int) -> float:
    """Draw a box by volume, a point in it, and count the boxes that hold the point: E[1 / count] sum of volumes."""
    volumes = x.prod(1)
    streams, total, drawn = Streams([seed]), 0.0, 0
    cumulative = volumes.cumsum(0)
    while drawn < samples:
        n = min(4096, samples - drawn)
        u = streams.uniform("hypervolume", (n, x.shape[1] + 1), counter=drawn, dtype=torch.float64)[0]
        box = torch.searchsorted(cumulative, u[:, 0].contiguous() * cumulative[-1]).clamp(max=len(x) - 1)
        inside = (u[:, None, 1:] * x[box][:, None] <= x).all(-1)
        total += float((1.0 / inside.sum(1)).sum())
        drawn += n
    return float(volumes.sum()) * total / samples


def utilities(points: Float[Tensor, "N K"], weights: Float[Tensor, "M K"]) -> Float[Tensor, " M"]:
    """max_v w . v for each weight."""
    return (weights.to(points) @ points.T).amax(1)


def expected_utility(points: Float[Tensor, "N K"], weights: Float[Tensor, "M K"]) -> float:
    return float(utilities(points, weights).mean())


def maximum_utility_loss(
    points: Float[Tensor, "N K"], front: Float[Tensor, "L K"], weights: Float[Tensor, "M K"]
) -> float:
    """Negative where the points beat the reference front at every weight."""
    return float((utilities(front.to(points), weights) - utilities(points, weights)).max())


def igd(points: Float[Tensor, "N K"], front: Float[Tensor, "L K"]) -> float:
    """Inverted generational distance; it says nothing about points that lie beyond the reference front."""
    mode = "donot_use_mm_for_euclid_dist"
    return float(torch.cdist(front.to(points), points, compute_mode=mode).amin(1).mean())


def cardinality(points: Float[Tensor, "N K"]) -> int:
    return len(nondominated(points))


def sparsity(points: Float[Tensor, "N K"]) -> float:
    """nan for fewer than two nondominated points."""
    front = points[nondominated(points)]
    if len(front) < 2:
        return math.nan
    return float(front.sort(0).values.diff(dim=0).square().sum() / (len(front) - 1))


def metrics(
    points: Float[Tensor, "N K"],
    reference: Sequence[float] | Tensor,
    weights: Float[Tensor, "M K"],
    front: Float[Tensor, "L K"] | None = None,
    samples: int | None = None,
) -> dict[str, float]:
    """hypervolume, expected_utility, cardinality, sparsity; with the exact `front` also hypervolume_ratio,
    maximum_utility_loss and igd."""
    x = points.detach().double().cpu()
    found = {
        "hypervolume": hypervolume(x, reference, samples=samples),
        "expected_utility": expected_utility(x, weights),
        "cardinality": cardinality(x),
        "sparsity": sparsity(x),
    }
    if front is not None:
        exact = front.double().cpu()
        found["hypervolume_ratio"] = found["hypervolume"] / hypervolume(exact, check_reference(exact, reference))
        found["maximum_utility_loss"] = maximum_utility_loss(x, exact, weights)
        found["igd"] = igd(x, exact)
    return found
