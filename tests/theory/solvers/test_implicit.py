"""Adjoint gradients against finite differences, and two bilevel problems solved through them."""

from functools import partial

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value
from fenchel.theory.solvers.implicit import constrained_value, optimal_value, policy_occupancy, soft_value

# random directions instead of every entry
gradcheck, gradgradcheck = (
    partial(f, fast_mode=True) for f in (torch.autograd.gradcheck, torch.autograd.gradgradcheck)
)


def inputs(seed, K=None, S=3, A=2):
    rng = Rng(seed)
    shape = (S, A) if K is None else (K, S, A)
    r, logits = rng.uniform(*shape).requires_grad_(), rng.normal(S, A, S).requires_grad_()
    return r, logits, torch.tensor(0.9, dtype=torch.float64, requires_grad=True), rng.simplex(S)


def mdp_of(r, logits, gamma, mu0):
    return TabularMDP(torch.softmax(logits, -1), r, mu0, gamma, check=False)


def test_optimal_value_and_its_second_derivative():
    r, logits, gamma, mu0 = inputs(1)
    f = lambda *x: optimal_value(mdp_of(*x, mu0))  # noqa: E731
    assert gradcheck(f, (r, logits, gamma))
    assert gradgradcheck(f, (r, logits, gamma))
    assert torch.allclose(f(r, logits, gamma), solve(mdp_of(r, logits, gamma, mu0).map(torch.detach)).V, atol=1e-9)


def test_reward_gradient_is_the_optimal_occupancy():
    r, logits, gamma, mu0 = inputs(2)
    (mu0 @ optimal_value(mdp_of(r, logits, gamma, mu0))).backward()
    assert abs(float(r.grad.sum()) - 10) < 1e-9
    flow = r.grad.sum(1) - 0.9 * torch.einsum("sa,sat->t", r.grad, torch.softmax(logits, -1))
    assert torch.allclose(flow, mu0)


def test_occupancy():
    r, logits, gamma, mu0 = inputs(3)
    policy = torch.softmax(Rng(4).normal(3, 2), -1).requires_grad_()
    assert gradcheck(lambda x, g, pi: policy_occupancy(mdp_of(r.detach(), x, g, mu0), pi), (logits, gamma, policy))


@pytest.mark.parametrize("alpha", [1.0, 0.1])
def test_soft_value_and_policy(alpha):
    r, logits, gamma, mu0 = inputs(5)
    assert gradcheck(lambda *x: soft_value(mdp_of(*x, mu0), alpha), (r, logits, gamma))


@pytest.mark.parametrize("K", [1, 2])
def test_constrained_value_and_multipliers(K):
    r, logits, _, mu0 = inputs(6, K=1 + K)
    plain = mdp_of(r, logits, 0.9, mu0).map(torch.detach)
    budgets = (policy_value(plain, torch.full_like(plain.r[0], 1 / 2)) * mu0).sum(-1)[1:].requires_grad_()
    value, lam = constrained_value(plain, budgets)
    assert (lam > 1e-3).any()
    (grad,) = torch.autograd.grad(value, budgets)
    assert torch.allclose(grad, lam)
    assert (
        abs(float(value.detach()) - float(solve(plain, "cmdp", budgets=budgets.detach(), unit="discounted").lower))
        < 1e-8
    )
    assert gradcheck(lambda a, x, b: constrained_value(mdp_of(a, x, 0.9, mu0), b), (r, logits, budgets))


def test_bilevel_reward_design_recovers_a_policy():
    """Upper level: make the soft-optimal policy match a given one by choosing the reward (inverse RL)."""
    r, logits, _, mu0 = inputs(7)
    target = torch.softmax(2 * Rng(8).normal(3, 2), -1)
    guess = torch.zeros_like(r).requires_grad_()
    optimiser = torch.optim.LBFGS([guess], max_iter=60, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        _, policy = soft_value(mdp_of(guess, logits.detach(), 0.9, mu0), 1.0)
        value = -(target * policy.log()).sum() + (target * target.log()).sum()
        value.backward()
        return value

    for _ in range(4):
        last = optimiser.step(loss)
    assert float(last.detach()) < 1e-6


def test_the_price_of_budget_falls():
    """The value is concave in the budget."""
    r, logits, _, mu0 = inputs(9, K=2)
    plain = mdp_of(r, logits, 0.9, mu0).map(torch.detach)
    b = (policy_value(plain, torch.full_like(plain.r[0], 1 / 2)) * mu0).sum(-1)[1:]
    slopes = []
    for shift in (-0.3, 0.0, 0.6):
        budget = (b + shift).requires_grad_()
        slopes.append(float(torch.autograd.grad(constrained_value(plain, budget)[0], budget)[0]))
    assert slopes[0] >= slopes[1] - 1e-9
    assert slopes[1] >= slopes[2] - 1e-9
    assert slopes[0] > slopes[2] + 1e-3


def test_refusals():
    r, logits, gamma, mu0 = inputs(1)
    with pytest.raises(UserError, match="alpha=0 is not valid"):
        soft_value(mdp_of(r, logits, gamma, mu0), 0)
    with pytest.raises(UserError, match="unit=discounted"):
        constrained_value(mdp_of(r, logits, gamma, mu0), torch.ones(1), unit="average")
