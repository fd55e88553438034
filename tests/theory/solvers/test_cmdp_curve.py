"""The value of a limit: against enumeration of all deterministic policies, and its slope against the multipliers."""

from __future__ import annotations

import itertools

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory import instances
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.cmdp_curve import dual_corners, dual_curve


def concave_value(points: list[tuple[float, float]], limit: float) -> float:
    """The best mixture of two (cost, return) points within the limit, by trying all pairs."""
    best = max((r for c, r in points if c <= limit + 1e-12), default=-float("inf"))
    for (c0, r0), (c1, r1) in itertools.product(points, repeat=2):
        if c0 < limit < c1:
            share = (limit - c0) / (c1 - c0)
            best = max(best, (1 - share) * r0 + share * r1)
    return best


def enumerated(mdp: TabularMDP) -> list[tuple[float, float]]:
    """(cost, return) of every deterministic policy, by a linear solve each."""
    S, A = mdp.num_states, mdp.num_actions
    found = []
    for actions in itertools.product(range(A), repeat=S):
        rows = torch.arange(S), torch.tensor(actions)
        V = torch.linalg.solve(torch.eye(S).double() - mdp.kernel[rows], mdp.r[:, rows[0], rows[1]].T)
        gained, cost = (mdp.mu0 @ V).tolist()
        found.append((cost, gained))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_curve_is_the_best_mixture_of_deterministic_policies(seed):
    mdp = instances.constrained_garnet(Rng(seed), 1, num_states=4, num_actions=3)[0]
    points = enumerated(mdp)
    least, most = min(c for c, _ in points), max(c for c, _ in points)
    limits = torch.linspace(least + 1e-6, most, 23).double()
    curve = dual_curve(mdp, limits)
    assert curve.values.tolist() == pytest.approx([concave_value(points, x) for x in limits.tolist()], abs=1e-7)
    assert curve.least == pytest.approx(least, abs=1e-9)
    best = max(r for _, r in points)
    assert curve.free == pytest.approx(min(c for c, r in points if r > best - 1e-9), abs=1e-7)
    corners = dual_corners(mdp)
    assert (torch.diff(corners, dim=0) > 0).all()
    for (c0, r0), (c1, r1) in itertools.pairwise(corners.tolist()):  # the multiplier is the slope inside each piece
        middle = dual_curve(mdp, torch.tensor([(c0 + c1) / 2], dtype=torch.float64))
        assert float(middle.multipliers) == pytest.approx((r1 - r0) / (c1 - c0), rel=1e-6)
        assert float(middle.values) == pytest.approx((r0 + r1) / 2, abs=1e-8)


def test_conveyors_have_three_corners():
    """Round (16 moves, free), past one hazard (12 moves), through three of them (8 moves)."""
    g = 0.95
    expected = [[0, g**15], [g**6, g**11], [g**3 + g**4 + g**5, g**7]]
    assert torch.allclose(dual_corners(instances.conveyors(gamma=g)), torch.tensor(expected).double(), atol=1e-9)


def test_a_limit_that_no_policy_meets_is_worth_nothing():
    mdp = instances.constrained_garnet(Rng(0), 1)[0]
    curve = dual_curve(mdp, torch.tensor([-1.0, 1e3]))
    assert curve.values[0] == -torch.inf
    assert curve.multipliers[0] == torch.inf
    assert curve.multipliers[1] == 0
    with pytest.raises(UserError, match="a dual curve takes one constrained MDP"):
        dual_corners(mdp.channel(0))
    with pytest.raises(UserError, match="more than 3 corners"):
        dual_corners(instances.constrained_garnet(Rng(1), 1, num_states=20)[0], most=3)
