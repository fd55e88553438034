"""Powers as regularisers, against suprema over a grid of signed ratios."""

import numpy as np
import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.divergences import CHI2
from fenchel.theory.regularisers import get_regulariser

W = np.linspace(-40, 40, 800_001)
Y = [-6.0, -1.3, -0.2, 0.0, 0.4, 1.0, 5.0]


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_conjugates_of_a_power_are_suprema(p):
    f, y = get_regulariser(f"power:{p:g}"), torch.tensor(Y, dtype=torch.float64, requires_grad=True)
    cost = abs(W) ** p / p
    for found, grid in ((f.conjugate(y), W), (f.conjugate_nonneg(y), W[W >= 0])):
        gains = [grid * v - cost[-len(grid) :] if len(grid) < len(W) else grid * v - cost for v in Y]
        best = [grid[gain.argmax()] for gain in gains]
        np.testing.assert_allclose(found.detach(), [gain.max() for gain in gains], atol=1e-6)
        (slope,) = torch.autograd.grad(found.sum(), y)
        np.testing.assert_allclose(slope, best, atol=2e-4)
    np.testing.assert_allclose(f.ratio(y).detach(), best, atol=2e-4)
    w = torch.tensor([-2.0, -0.5, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    np.testing.assert_allclose(f.f(w).detach(), abs(w.detach().numpy()) ** p / p)
    (slope,) = torch.autograd.grad(f.f(w).sum(), w)
    torch.testing.assert_close(f.f_prime(w), slope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_treat_every_element_alike_and_are_finite(dtype):
    """torch.pow computes the last elements of a tensor by another formula, so that bits depended on their number."""
    f, x = get_regulariser("power:1.5"), torch.rand(4, 33, dtype=dtype)
    assert all(torch.equal(f.f(x)[i], f.f(x[i])) for i in range(4))
    huge = torch.tensor([-1e15, -1.0, 0.0, 1.0, 1e15], dtype=dtype, requires_grad=True)
    value = f.conjugate_nonneg(huge)
    value.sum().backward()
    assert value.isfinite().all()
    assert huge.grad.isfinite().all()


def test_names():
    assert get_regulariser("chi2") is CHI2
    assert get_regulariser("alpha:1.5").name == "alpha:1.5"
    for name in ("power:1", "power:x", "power:inf", "power"):
        with pytest.raises(UserError, match="power takes a number above 1"):
            get_regulariser(name)
    with pytest.raises(UserError, match=r"regulariser=chi is unknown.*Did you mean 'chi2'"):
        get_regulariser("chi")
