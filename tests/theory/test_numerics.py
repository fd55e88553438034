"""softplus and sigmoid: torch's values, right derivatives everywhere, and bits that do not depend on the place."""

import pytest
import torch

from fenchel.theory.numerics import sigmoid, softplus


def test_values():
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    torch.testing.assert_close(softplus(x), torch.logaddexp(x, torch.zeros_like(x)), rtol=1e-14, atol=0)
    torch.testing.assert_close(sigmoid(x), torch.sigmoid(x), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivatives_at_zero_and_far_out(dtype):
    x = torch.tensor([0.0, -1e4, 1e4, -30.0, 30.0], dtype=dtype, requires_grad=True)
    (first,) = torch.autograd.grad(softplus(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(first.detach(), torch.sigmoid(x).detach())
    torch.testing.assert_close(second, (torch.sigmoid(x) * torch.sigmoid(-x)).detach())
    (slope,) = torch.autograd.grad(sigmoid(x).sum(), x)
    torch.testing.assert_close(slope, second)


@pytest.mark.parametrize("function", [softplus, sigmoid])
def test_an_element_has_the_same_bits_wherever_it_stands(function):
    x = torch.linspace(-9, 9, 37)
    whole = function(x)
    assert all(torch.equal(function(x[i : i + n]), whole[i : i + n]) for n in (1, 5, 8, 17) for i in range(20))
