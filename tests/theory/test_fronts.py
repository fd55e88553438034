"""Metrics of fronts against other code: inclusion-exclusion, a staircase, plain Monte Carlo, loops over points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory import fronts
from fenchel.theory.rng import Rng


def cloud(seed: int, n: int, K: int, ties: bool = False) -> torch.Tensor:
    x = Rng(seed, f"cloud/{n}/{K}").uniform(n, K)
    return (3 * x).ceil() if ties else x


def inclusion_exclusion(x: np.ndarray, z: np.ndarray) -> float:
    sides = np.clip(x - z, 0, None)
    subsets = (c for size in range(1, len(x) + 1) for c in itertools.combinations(range(len(x)), size))
    return sum(-((-1) ** len(c)) * sides[list(c)].min(0).prod() for c in subsets)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("K", range(1, 10))
def test_hypervolume_is_inclusion_exclusion(K, ties):
    """With points below the reference, dominated ones, equal coordinates and copies."""
    x = cloud(K, 8, K, ties)
    x = torch.cat([x, x[:1]])
    for z in (np.zeros(K), np.full(K, 1.0 if ties else 0.3), np.arange(K) / 10):
        found = fronts.hypervolume(x, z)
        assert found == pytest.approx(inclusion_exclusion(x.numpy(), z), rel=1e-12, abs=1e-14)


def test_hypervolume_of_two_is_a_staircase():
    x = cloud(1, 400, 2)
    area, reached = 0.0, 0.0
    for a, b in sorted(x.tolist(), reverse=True):
        area, reached = area + a * max(b - reached, 0.0), max(b, reached)
    assert fronts.hypervolume(x, (0, 0)) == pytest.approx(area)


@pytest.mark.parametrize(("K", "n"), [(3, 60), (6, 64), (9, 40)])
def test_hypervolume_by_monte_carlo(K, n):
    """400,000 uniform points of the bounding box, within five standard errors; on a sphere every point counts."""
    x = cloud(2, n, K) + 0.1
    x = x / x.norm(dim=1, keepdim=True)
    top, rng = x.amax(0).numpy(), np.random.default_rng(0)
    hits, N = 0, 400_000
    for _ in range(40):
        u = rng.random((N // 40, K)) * top
        hits += (u[:, None] <= x.numpy()).all(-1).any(1).sum()
    share = hits / N
    exact = fronts.hypervolume(x, (0.0,) * K)
    assert abs(exact - share * top.prod()) < 5 * math.sqrt(share * (1 - share) / N) * top.prod()
    volumes = x.prod(1).sum()
    error = 5 * float(volumes) / 20_000**0.5
    assert abs(fronts.hypervolume(x, (0.0,) * K, samples=20_000) - exact) < error


def test_hypervolume_of_what_does_not_beat_the_reference():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 3.0]])
    assert fronts.hypervolume(x, (0, 0)) == 0.0
    assert fronts.hypervolume(torch.zeros(0, 3), (0, 0, 0)) == 0.0
    assert fronts.hypervolume(x, (-2, -1)) == pytest.approx(inclusion_exclusion(x.numpy(), np.array([-2.0, -1.0])))


def test_too_many_boxes_are_refused(monkeypatch):
    monkeypatch.setattr(fronts, "BOXES", 20)
    with pytest.raises(UserError, match=r"needs over 20 boxes; valid is samples=N\.$"):
        fronts.hypervolume(cloud(3, 30, 5), (0,) * 5)


@pytest.mark.parametrize("K", [1, 2, 3, 5])
def test_nondominated_by_pairs(K):
    x = torch.cat([cloud(4, 40, K, ties=True), cloud(5, 20, K) * 3])
    kept = fronts.nondominated(x)
    beaten = [any((v >= u).all() and (v > u).any() for v in x) for u in x]
    alive = {tuple(u.tolist()) for u, b in zip(x, beaten, strict=True) if not b}
    assert sorted(tuple(u.tolist()) for u in x[kept]) == sorted(alive)  # copies once
    assert fronts.cardinality(x) == len(alive)


def test_supported_points_win_somewhere_and_no_others_do():
    angle = torch.linspace(0, math.pi / 2, 9, dtype=torch.float64)
    arc = torch.stack([angle.cos(), angle.sin()], 1)
    hollow = torch.cat([arc, 0.9 * arc[3:6], arc[2:3]])
    assert set(fronts.supported(hollow).tolist()) - {2, 12} == set(range(9)) - {2}
    concave = torch.tensor([[1.0, 0.0], [0.4, 0.4], [0.0, 1.0]])
    assert sorted(fronts.supported(concave).tolist()) == [0, 2]
    weights = fronts.lattice(2, 50)
    assert fronts.expected_utility(concave, weights) == fronts.expected_utility(concave[[0, 2]], weights)


def test_metrics_by_loops():
    x, front, weights = cloud(6, 12, 3), cloud(7, 30, 3) + 0.2, fronts.lattice(3, 6)
    best = [max(float(w @ v) for v in x) for w in weights]
    loss = max(max(float(w @ u) for u in front) - b for w, b in zip(weights, best, strict=True))
    distance = [min(math.dist(u.tolist(), v.tolist()) for v in x) for u in front]
    assert fronts.expected_utility(x, weights) == pytest.approx(np.mean(best))
    assert fronts.maximum_utility_loss(x, front, weights) == pytest.approx(loss)
    assert fronts.maximum_utility_loss(front, front, weights) == 0.0
    assert fronts.igd(x, front) == pytest.approx(np.mean(distance))
    keep = x[fronts.nondominated(x)].numpy()
    gaps = sum((b - a) ** 2 for k in range(3) for a, b in itertools.pairwise(sorted(keep[:, k])))
    assert fronts.sparsity(x) == pytest.approx(gaps / (len(keep) - 1))
    assert fronts.sparsity(torch.cat([x, x - 1])) == fronts.sparsity(x)
    assert math.isnan(fronts.sparsity(x[:1]))
    found = fronts.metrics(x, (-1.0,) * 3, weights, front)
    exact = inclusion_exclusion(x[fronts.nondominated(x)].numpy(), -np.ones(3))
    assert found["hypervolume"] == pytest.approx(exact)
    assert found["hypervolume_ratio"] == pytest.approx(exact / fronts.hypervolume(front, (-1.0,) * 3))
    assert found["igd"] == pytest.approx(np.mean(distance))


@pytest.mark.parametrize(("K", "H"), [(1, 4), (2, 10), (3, 10), (4, 5), (9, 2)])
def test_lattice_loses_no_weight(K, H):
    weights = fronts.lattice(K, H)
    assert len(weights) == math.comb(H + K - 1, K - 1) == len(set(map(tuple, weights.tolist())))
    assert torch.equal((weights * H).round(), weights * H)
    assert torch.allclose(weights.sum(1), torch.ones(len(weights)).double(), atol=1e-15)
    fronts.check_weights(weights, K)


def test_released_lattice_loses_weights_to_rounding():
    """Every triple of np.arange(0, 1 + step, step) whose floating-point sum equals 1: four of 66 are lost."""
    grid = np.array(list(itertools.product(np.arange(0, 1.1, 0.1), repeat=3)))
    assert (grid.sum(1) == 1).sum() == 62 < len(fronts.lattice(3, 10)) == 66


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fronts.check_weights([0.5, 0.6], 2, "preference"), r"^preference=\[0.5,0.6\] is off the simplex; *"),
        (lambda: fronts.check_weights([0.5, 0.5001], 2), r"^weights=\[0.5,0.5001\] is off the simplex"),
        (lambda: fronts.check_weights([1.5, -0.5], 2), r"^weights=\[1.5,-0.5\] is off the simplex; valid are entries"),
        (lambda: fronts.check_weights([[0.5, 0.5], [float("nan"), 1]], 2), r"^weights=\[nan,1\] is off the simplex"),
        (lambda: fronts.check_weights([1.0], 2), r"^weights has 1 entries; valid is one per objective, 2\.$"),
        (lambda: fronts.check_weights(1.0, 2), r"^weights has 1 entries; valid is one per objective, 2\.$"),
        (lambda: fronts.check_reference(torch.eye(2), (0, -1)), r"^reference_point=\[0,-1\] is not dominated by the "
         r"whole front; valid is below 0 in objective 0\.$"),
        (lambda: fronts.check_reference(torch.eye(2), (0,)), r"^reference_point has 1 entries; valid is one per"),
        (lambda: fronts.hypervolume(torch.eye(2), (0,)), r"^reference_point has 1 entries; valid is one per objective"),
        (lambda: fronts.lattice(2, 0), r"^a lattice needs objectives >= 1 and divisions >= 1, not 2 and 0\.$"),
    ],
)  # fmt: skip
def test_what_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
