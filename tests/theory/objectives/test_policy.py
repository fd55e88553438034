"""Population minimisers of the policy losses in tables, and their gradients against hand-written ones."""

import math

import pytest
import torch

from fenchel.theory.objectives import policy as losses

BETA = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
ADVANTAGE = torch.tensor([2.0, -1.0, 0.5, 0.0], dtype=torch.float64)


def fit(loss):
    """The policy softmax(theta) that minimises loss(log_pi)."""
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = loss(theta.log_softmax(-1))
        value.backward()
        return value

    optimiser.step(closure)
    return theta.detach().softmax(-1)


def normalised(weights):
    return weights / weights.sum()


def test_nll_is_minimised_by_the_data():
    torch.testing.assert_close(fit(lambda logp: (BETA * losses.nll(logp)).sum()), BETA, atol=1e-6, rtol=0)


def test_awr_is_minimised_by_the_clipped_exponential_tilt():
    pi = fit(lambda logp: (BETA * losses.awr(logp, ADVANTAGE, inverse_temperature=3.0, clip=50.0)).sum())
    weights = [min(math.exp(3 * a), 50.0) for a in ADVANTAGE.tolist()]
    assert weights[0] == 50.0
    torch.testing.assert_close(pi, normalised(BETA * torch.tensor(weights)), atol=1e-6, rtol=0)


def test_awr_weight_does_not_overflow():
    weight = losses.awr_weight(torch.tensor([1e4, -1e4, 0.0]), inverse_temperature=10.0)
    torch.testing.assert_close(weight, torch.tensor([100.0, 0.0, 1.0]))


def test_weighted_nll_is_minimised_by_the_tilt():
    weights = torch.tensor([0.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    pi = fit(lambda logp: (BETA * losses.weighted_nll(logp, weights)).sum())
    torch.testing.assert_close(pi, normalised(BETA * weights), atol=1e-5, rtol=0)


def test_information_projection_is_minimised_by_the_tilt():
    weights = torch.tensor([0.1, 2.0, 0.5, 1.0], dtype=torch.float64)
    pi = fit(lambda logp: (logp.exp() * losses.information_projection(logp, BETA.log(), weights.log())).sum())
    torch.testing.assert_close(pi, normalised(BETA * weights), atol=1e-6, rtol=0)


def test_mse_is_the_mean_over_dimensions_and_minimised_by_the_mean_action():
    actions = torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    mean = torch.tensor([[2.0, 2.0]], dtype=torch.float64, requires_grad=True)
    loss = losses.mse(mean.expand(2, 2), actions)
    assert loss.tolist() == [2.5, 2.5]
    assert torch.autograd.grad(loss.sum(), mean)[0].abs().max() == 0


def test_sac_actor_is_minimised_by_the_boltzmann_policy():
    q = torch.tensor([1.0, 0.0, -1.0, 0.3], dtype=torch.float64)
    pi = fit(lambda logp: (logp.exp() * losses.sac_actor(logp, q, temperature=0.4)).sum())
    torch.testing.assert_close(pi, (q / 0.4).softmax(-1), atol=1e-6, rtol=0)


def test_sac_temperature_is_stationary_at_the_target_entropy():
    log_prob = torch.tensor([-1.0, -3.0], dtype=torch.float64)  # entropy 2
    for target, sign in ((2.0, 0), (3.0, -1), (1.0, 1)):
        log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
        loss = losses.sac_temperature(log_temperature, log_prob, target_entropy=target).sum()
        gradient = torch.autograd.grad(loss, log_temperature)[0]
        assert torch.sign(gradient) == sign  # too little entropy: a negative gradient, so that the temperature rises


def test_deterministic_losses_follow_q():
    q = torch.tensor([[4.0, -2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    assert torch.equal(torch.autograd.grad(losses.deterministic_q(q).sum(), q)[0], -torch.ones_like(q))
    action = torch.zeros(1, 3, 2, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(losses.td3_bc(q, action, action, alpha=2.5).sum(), q)
    torch.testing.assert_close(gradient, torch.full_like(q, -2.5 / 2.0))  # mean |q| = 2, a constant
    scaled = losses.td3_bc(7 * q, action, action, alpha=2.5)
    torch.testing.assert_close(scaled, losses.td3_bc(q, action, action, alpha=2.5))  # free of the scale of q
    log_prob = torch.tensor([[-1.0, -2.0, -3.0]], dtype=torch.float64)
    torch.testing.assert_close(losses.ddpg_bc(q, log_prob, alpha=0.5), -q / 2.0 - 0.5 * log_prob)


@pytest.mark.parametrize("alpha", [0.5, 2.5])
def test_td3_bc_minimiser_between_q_and_the_data(alpha):
    """Q(a) = - (a - 1)^2 - 3, data at 0: the fixed point weighs 1 by alpha / mean|Q| and 0 by 1."""
    action = torch.tensor([[[0.2]]], dtype=torch.float64)
    for _ in range(200):
        action = action.detach().requires_grad_()
        q = -(action - 1).square().squeeze(-1) - 3
        loss = losses.td3_bc(q, action, torch.zeros_like(action), alpha=alpha)
        action = action - 0.1 * torch.autograd.grad(loss.sum(), action)[0]
    a = action.item()
    weight = alpha / ((a - 1) ** 2 + 3)
    assert a == pytest.approx(weight / (1 + weight), abs=1e-6)


def test_cfpi_action_is_the_best_point_of_the_ellipsoid():
    mean, std, gradient = (torch.tensor([x], dtype=torch.float64) for x in ([0.5, -1.0], [0.2, 2.0], [3.0, -1.0]))
    angle = torch.linspace(0, 2 * math.pi, 20001, dtype=torch.float64)
    edge = math.sqrt(2 * 0.4) * torch.stack([angle.cos(), angle.sin()], -1) * std + mean
    best = edge[(edge @ gradient[0]).argmax()]
    torch.testing.assert_close(losses.cfpi_action(mean, std, gradient, radius=0.4)[0], best, atol=1e-3, rtol=0)
    still = losses.cfpi_action(mean, std, 0 * gradient, radius=torch.tensor([0.4], dtype=torch.float64))
    assert torch.equal(still, mean)  # no direction, and no 0 / 0
    both = (mean.expand(2, 3, 2), gradient.expand(2, 3, 2))
    torch.testing.assert_close(
        losses.cfpi_action(both[0], std, both[1], radius=torch.tensor([[0.4], [0.0]]).double())[:, 1],
        torch.stack([losses.cfpi_action(mean, std, gradient, radius=0.4)[0], mean[0]]),
    )


def test_nearest_action_is_the_first_of_the_nearest_rows():
    states = torch.tensor([[0.0], [0.0], [1.0], [0.0]])
    actions = torch.tensor([[0.0], [3.0], [2.0], [3.0]])
    for scale, row in ((0.0, 2), (100.0, 1)):
        assert losses.nearest_action(torch.tensor([[0.1]]), torch.tensor([[2.2]]), states, actions, scale=scale) == row
    tied = losses.nearest_action(torch.zeros(2, 3, 1), torch.full((2, 3, 1), 4.0), states, actions, scale=1.0)
    assert torch.equal(tied, torch.ones(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("step", [0.05, 50.0])
def test_ascend_keeps_the_best_of_its_path(step):
    target = torch.tensor([0.4, 2.0], dtype=torch.float64)

    def q(action):
        return -(action - target).square().sum(-1)

    start = torch.tensor([[[-0.9, 0.0], [0.4, 1.0]]], dtype=torch.float64)
    found = losses.ascend(start, q, step=step, rounds=80)
    assert not found.requires_grad
    assert (q(found) >= q(start)).all()
    assert torch.equal(found[0, 1], start[0, 1])  # the best of the box already
    if step < 1:
        torch.testing.assert_close(found, torch.tensor([[[0.4, 1.0], [0.4, 1.0]]]).double(), atol=1e-3, rtol=0)
    per_replica = losses.ascend(start, q, step=torch.tensor([[step]], dtype=torch.float64), rounds=80)
    assert torch.equal(per_replica, found)
