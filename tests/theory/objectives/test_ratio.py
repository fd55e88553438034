"""Density ratios from a classifier, against the ratio of the probabilities."""

import numpy as np
import torch
from scipy.optimize import minimize

from fenchel.theory.objectives import ratio


def test_the_best_logit_is_the_log_ratio():
    p, q = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.6, 0.3])
    count_p, count_q = (
        torch.repeat_interleave(torch.arange(3), torch.tensor((10 * x).round(), dtype=int)) for x in (p, q)
    )

    def loss(c):
        c = torch.tensor(c)
        return ratio.logistic_ratio(c[count_p], c[count_q]).mean().item()

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14}).x
    np.testing.assert_allclose(best, np.log(p / q), atol=1e-5)


def test_the_loss_is_the_logarithm_of_probabilities_without_overflow():
    c = torch.tensor([0.3, -2.0, 800.0, -800.0], dtype=torch.float64)
    expected = -np.log(1 / (1 + np.exp(-c[:2].numpy()))) - np.log(1 - 1 / (1 + np.exp(-c[:2].flip(0).numpy())))
    ours = ratio.logistic_ratio(c, c[[1, 0, 3, 2]])
    np.testing.assert_allclose(ours[:2], expected, rtol=1e-12)
    assert ours[2:].tolist() == [0.0, 1600.0]


def test_the_penalty_is_least_at_the_norm_and_has_a_slope_at_zero():
    gradient = torch.tensor([[0.6, 0.8], [0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    penalty = ratio.gradient_penalty(gradient)
    torch.testing.assert_close(penalty, torch.tensor([0.0, 1.0, 16.0], dtype=torch.float64), atol=1e-5, rtol=0)
    penalty.sum().backward()
    assert gradient.grad.isfinite().all()
