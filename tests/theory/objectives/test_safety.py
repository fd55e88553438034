"""Conservative estimates against numpy."""

import numpy as np
import pytest
import torch

from fenchel.theory.objectives.safety import upper_confidence


def test_the_bound_is_the_mean_and_k_sample_deviations():
    cost = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4, 5)))
    k = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64).unsqueeze(1)
    expected = cost.numpy().mean(1) + k.numpy() * cost.numpy().std(1, ddof=1)
    np.testing.assert_allclose(upper_confidence(cost, deviations=k), expected, rtol=1e-12)
    assert (upper_confidence(cost, deviations=k)[1:] > cost.mean(1)[1:]).all()
    np.testing.assert_allclose(upper_confidence(cost, deviations=0.0), cost.mean(1), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_members_that_agree_have_a_finite_gradient(dtype):
    cost = torch.full((4, 2), 3.0, dtype=dtype, requires_grad=True)
    bound = upper_confidence(cost, deviations=0.5)
    torch.testing.assert_close(bound, torch.full((2,), 3.0, dtype=dtype))
    bound.sum().backward()
    torch.testing.assert_close(cost.grad, torch.full((4, 2), 0.25, dtype=dtype))
