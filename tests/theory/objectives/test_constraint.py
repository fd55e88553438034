"""Constraints on problems whose optimum and multiplier are known by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from fenchel.theory.objectives import constraint as losses


def quadratic(x):
    """min (x - 3)^2 subject to x <= 1: x* = 1, lam* = 4."""
    return (x - 3) ** 2


def argmin(loss):
    def value(x):
        return loss(torch.tensor([x], dtype=torch.float64)).item()

    return minimize_scalar(value, bounds=(-5, 8), method="bounded", options={"xatol": 1e-12}).x


def test_lagrangian_and_ascent_reach_the_kkt_point():
    x, lam = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for _ in range(1500):
        x = x.requires_grad_()
        gradient = torch.autograd.grad(losses.lagrangian(quadratic(x), x, lam, budget=1.0).sum(), x)[0]
        x = (x - 0.02 * gradient).detach()
        lam = losses.projected_ascent(lam, x, budget=1.0, lr=0.02)
    assert x.item() == pytest.approx(1.0, abs=1e-4)
    assert lam.item() == pytest.approx(4.0, abs=1e-3)


def test_multiplier_rises_with_violation_and_stays_in_range():
    lam = torch.tensor([0.5], requires_grad=True)
    loss = losses.multiplier_loss(lam, torch.tensor([3.0, 2.0]), budget=1.0)
    assert torch.autograd.grad(loss.mean(), lam)[0].item() == pytest.approx(-1.5)
    assert losses.projected_ascent(torch.tensor(0.1), torch.tensor(0.0), budget=1.0, lr=1.0) == 0
    assert losses.projected_ascent(torch.tensor(9.0), torch.tensor(8.0), budget=1.0, lr=1.0, ceiling=10.0) == 10


def test_pid_multiplier():
    integral, lam = torch.tensor(0.5), torch.tensor(0.5)
    for cost in (2.0, 0.3, 5.0):  # only the integral: projected ascent
        lam = losses.projected_ascent(lam, torch.tensor(cost), budget=1.0, lr=1.0)
        got, integral = losses.pid_multiplier(
            integral, torch.tensor(0.0), torch.tensor(cost), budget=1.0, proportional=0.0, integral_gain=1.0
        )
        assert got == lam == integral
    got, integral = losses.pid_multiplier(
        torch.tensor(1.0),
        torch.tensor(2.0),
        torch.tensor(3.0),
        budget=1.0,
        proportional=0.5,
        integral_gain=0.1,
        derivative=10.0,
    )
    assert integral == 3.0
    assert got.item() == pytest.approx(0.5 * 2 + 0.1 * 3 + 10 * 1)
    falling, _ = losses.pid_multiplier(  # a falling cost takes nothing away
        torch.tensor(0.0),
        torch.tensor(9.0),
        torch.tensor(3.0),
        budget=1.0,
        proportional=0.5,
        integral_gain=0.1,
        derivative=10.0,
    )
    assert falling.item() == pytest.approx(0.5 * 2 + 0.1 * 2)


def test_penalties():
    """A hinge is exact above the multiplier 4; its square is violated by 4 / weight."""
    assert argmin(lambda x: quadratic(x) + 6 * losses.hinge(x, budget=1.0)) == pytest.approx(1.0, abs=1e-5)
    assert argmin(lambda x: quadratic(x) + 2 * losses.hinge(x, budget=1.0)) == pytest.approx(2.0, abs=1e-6)
    x = argmin(lambda x: quadratic(x) + 20 * losses.squared_hinge(x, budget=1.0))
    assert 20 * (x - 1) == pytest.approx(-2 * (x - 3), abs=1e-6)


def test_log_barrier_ends_feasible_with_the_multiplier():
    t = 50.0
    x = argmin(lambda x: quadratic(x) + losses.log_barrier(x, budget=1.0, sharpness=t))
    assert x < 1
    assert 1 - x < 1 / t
    assert 1 / (t * (1 - x)) == pytest.approx(-2 * (x - 3), rel=1e-4)


def test_log_barrier_is_the_logarithm_inside_and_its_tangent_outside():
    cost = torch.tensor([0.0, 0.9, 0.999, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    value = losses.log_barrier(cost, budget=1.0, sharpness=5.0)
    torch.testing.assert_close(value[:2].detach(), -torch.tensor([1.0, 0.1]).double().log() / 5)
    slack = 1 - np.array([0.999, 1.0, 3.0])
    np.testing.assert_allclose(value[2:].detach(), -np.log(1 / 25) / 5 + 5 * (1 / 25 - slack))
    (gradient,) = torch.autograd.grad(value.sum(), cost)
    torch.testing.assert_close(gradient, torch.tensor([0.2, 2.0, 5.0, 5.0, 5.0]).double())


@pytest.mark.parametrize("level", [0.0, 0.5, 0.9])
def test_cvar(level):
    """Minimum over the threshold: the mean of the worst 1 - level of 1000 costs, at their level-quantile."""
    cost = torch.tensor(np.random.default_rng(0).gamma(2.0, size=1000))
    ordered = np.sort(cost.numpy())
    values = [losses.cvar(torch.tensor(eta), cost, level=level).mean().item() for eta in ordered]
    assert min(values) == pytest.approx(ordered[int(1000 * level) :].mean(), rel=1e-9)
    if level:
        assert ordered[int(np.argmin(values))] == pytest.approx(np.quantile(ordered, level), abs=0.02)
