"""Regressions on log-ratios: their minimisers over all policies, by optimisation in float64, against the tilt."""

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.objectives import preference, regression

Y = 4
REF = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
MU = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)  # whoever sampled: not the policy
REWARD = torch.tensor([1.0, -0.5, 0.3, 0.7], dtype=torch.float64)
PAIRS = torch.cartesian_prod(torch.arange(Y), torch.arange(Y)).T


def fit(loss):
    theta = torch.zeros(Y, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=3000, tolerance_grad=1e-13, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = loss(theta.log_softmax(-1))
        value.backward()
        return value

    optimiser.step(closure)
    return theta.detach().softmax(-1)


def tilt(beta, reward=REWARD):
    weight = REF * (reward / beta).exp()
    return weight / weight.sum()


def paired(per_pair):
    first, second = PAIRS
    weight = MU[first] * MU[second]
    return lambda log_pi: (weight * per_pair((log_pi - REF.log())[first], (log_pi - REF.log())[second])).sum()


def close(pi, expected, tolerance=1e-6):
    torch.testing.assert_close(pi, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("beta", [0.4, 2.0])
def test_group_variance(beta):
    """Over all pairs from mu the mean loss is half the variance of beta rho - r under mu: the tilt, off policy."""

    def loss(log_pi):
        rho = torch.stack([(log_pi - REF.log())[i] for i in PAIRS], -1)
        each = regression.group_variance(rho, torch.stack([REWARD[i] for i in PAIRS], -1), beta=beta).mean(-1)
        return (MU[PAIRS[0]] * MU[PAIRS[1]] * each).sum()

    close(fit(loss), tilt(beta))
    log_pi = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log()
    gap = beta * (log_pi - REF.log()) - REWARD
    variance = MU @ (gap - MU @ gap).square()
    torch.testing.assert_close(loss(log_pi), variance / 2)
    with pytest.raises(UserError, match="at least 2"):
        regression.group_variance(torch.zeros(3, 1), torch.zeros(3, 1), beta=1.0)


def test_optimal_advantage_needs_the_value_of_its_own_temperature():
    def best(beta, value_beta):
        value = value_beta * torch.log(REF @ (REWARD / value_beta).exp())
        return lambda x: (MU * regression.optimal_advantage(x - REF.log(), REWARD - value, beta=beta)).sum()

    pi = fit(best(0.5, 0.5))
    close(pi, tilt(0.5))
    assert best(0.5, 0.5)(tilt(0.5).log()) < 1e-20
    assert best(0.5, 2.0)(fit(best(0.5, 2.0)).log()) > 1e-3


@pytest.mark.parametrize("beta", [0.4, 2.0])
def test_contrastive(beta):
    """The tilt from any sampler, and the gradient that each answer is the other's baseline."""
    r = [REWARD[i] for i in PAIRS]
    close(fit(paired(lambda a, b: regression.contrastive(a, b, r[0] - r[1], beta=beta))), tilt(beta))
    close(fit(paired(lambda a, b: preference.rebel(a, b, r[0] - r[1], eta=1 / beta))), tilt(beta))
    rho = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    gap = torch.tensor(0.8, dtype=torch.float64)
    (slope,) = torch.autograd.grad(regression.contrastive(rho[0], rho[1], gap, beta=beta), rho)
    regularised = gap - beta * (rho[0] - rho[1]).detach()
    torch.testing.assert_close(-slope, torch.stack([regularised, -regularised]))


def test_negative_aware():
    """The right answers alone are its minimiser; on policy the weights are w and - w q / (1 - q)."""
    right = torch.tensor([0.9, 0.2, 0.6, 0.4], dtype=torch.float64)
    q = REF @ right

    def loss(log_pi):
        rho = log_pi - REF.log()
        both = [regression.negative_aware(rho, torch.full_like(rho, c), q, floor=1e-9) for c in (1.0, 0.0)]
        return (REF * (right * both[0] + (1 - right) * both[1])).sum()

    target = REF * right / q
    # the loss is -inf beyond the simplex of implicit policies: start and stay near
    log_pi = target.log().requires_grad_()
    (slope,) = torch.autograd.grad(loss(log_pi.log_softmax(-1)), log_pi)
    assert slope.abs().max() < 1e-12
    near = [(target * torch.exp(0.05 * torch.randn(Y, generator=torch.Generator().manual_seed(i)))) for i in range(20)]
    assert all(loss((p / p.sum()).log()) > loss(target.log()) for p in near)
    for floor in (0.1, 1.0):
        rho = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        both = regression.negative_aware(
            rho, torch.tensor([1.0, 0.0]).double(), torch.tensor(0.3).double(), floor=floor
        )
        (slope,) = torch.autograd.grad(both.sum(), rho)
        torch.testing.assert_close(slope, torch.tensor([-1.0, 0.3 / 0.7], dtype=torch.float64))
    far = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)  # q R > 1: the implicit ratio is negative
    value = regression.negative_aware(far, torch.tensor(0.0).double(), torch.tensor(0.5).double(), floor=0.1)
    assert value.item() == pytest.approx(-torch.tensor(0.1).log().item())
    assert torch.autograd.grad(value, far)[0] == pytest.approx(10 * torch.tensor(2.0).exp().item(), rel=1e-5)


def test_implicit_critic_begins_as_leave_one_out():
    rho = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    r = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    (slope,) = torch.autograd.grad(regression.implicit_critic(rho, r, beta=2.0).sum(), rho)
    torch.testing.assert_close(-slope, 2.0 * 5 / 4 * (r - r.mean()))
    with pytest.raises(UserError, match="at least 2"):
        regression.implicit_critic(torch.zeros(3, 1), torch.zeros(3, 1), beta=1.0)


def test_direct_nash_step():
    """Soft labels of win rates r are fitted by pi_t e^(r / eta) / Z."""
    wins = torch.tensor([0.7, 0.4, 0.5, 0.3], dtype=torch.float64)
    gap = wins[PAIRS[0]] - wins[PAIRS[1]]
    close(fit(paired(lambda a, b: preference.dno(a, b, gap, eta=0.5))), tilt(0.5, wins))
