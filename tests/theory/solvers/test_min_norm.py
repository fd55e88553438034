"""The shortest vector of a convex hull against cvxpy, and the vectors that depend on each other."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.min_norm import min_norm


@pytest.mark.parametrize(("m", "D"), [(1, 3), (2, 3), (3, 5), (4, 2), (5, 8), (9, 4)])
def test_min_norm_is_the_quadratic_program(m, D):
    g = Rng(m).normal(6, m, D) + 0.7
    found = min_norm(g)
    for one, w in zip(g.numpy(), found.numpy(), strict=True):
        x = cp.Variable(m, nonneg=True)
        best = cp.Problem(cp.Minimize(cp.sum_squares(one.T @ x)), [cp.sum(x) == 1]).solve(solver="CLARABEL")
        assert ((one.T @ w) ** 2).sum() == pytest.approx(best, abs=1e-7)
        assert w.min() >= 0
        assert w.sum() == pytest.approx(1)


def test_min_norm_of_degenerate_sets():
    opposite = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    assert torch.allclose(min_norm(opposite), torch.tensor([0.75, 0.25]))
    copies = torch.tensor([[1.0, 1.0], [1.0, 1.0], [5.0, 0.0]])
    assert torch.allclose(min_norm(copies) @ copies, torch.tensor([1.0, 1.0]), atol=1e-6)
    assert not (min_norm(torch.zeros(3, 2)) @ torch.zeros(3, 2)).any()
    tiny = 1e-20 * torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(min_norm(tiny), torch.tensor([0.5, 0.5]))
    batch = Rng(0).normal(2, 3, 4, 5)
    assert torch.allclose(min_norm(batch)[1, 2], min_norm(batch[1, 2]))
    with pytest.raises(UserError, match="11 gradients need 2047 subsets; valid are at most 10"):
        min_norm(torch.zeros(11, 2))
