"""Losses of offline safety and of denoising, against enumeration, cvxpy and what is known by hand."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from fenchel.theory.objectives import diffusion, offline_safety

F64 = {"dtype": torch.float64}


def test_within_takes_the_floor_over_the_budget():
    q, cost = torch.tensor([-1.0, -2.0, 3.0], requires_grad=True), torch.tensor([0.0, 5.0, 1.0])
    paper = offline_safety.within(q, cost, budget=1.0)
    assert paper.tolist() == [-1, 0, 3]
    assert paper.argsort().tolist() == [0, 1, 2]  # the one over the budget is not the worst
    corrected = offline_safety.within(q, cost, budget=1.0, floor=-20.0)
    assert corrected.tolist() == [-1, -20, 3]
    (gradient,) = torch.autograd.grad(corrected.sum(), q)
    assert gradient.tolist() == [1, 0, 1]


def test_the_flow_cost_has_one_mean_for_every_chi():
    """w of a flow: the occupancy of a random policy over a data law."""
    rng = np.random.default_rng(3)
    S, gamma = 4, 0.7
    follow = rng.dirichlet(np.ones(S), S)
    start = rng.dirichlet(np.ones(S))
    d = (1 - gamma) * np.linalg.solve(np.eye(S) - gamma * follow.T, start)
    data = rng.dirichlet(np.ones(S))
    cost = rng.uniform(size=S)
    s, t = (x.ravel() for x in np.indices((S, S)))
    weight = torch.tensor((d / data)[s]).unsqueeze(0)
    law = torch.tensor(data[s] * follow[s, t])
    for chi in (np.zeros(S), rng.normal(size=S) * 5):
        first = torch.full((1, S * S), start @ chi, **F64)
        values = (torch.tensor(chi[s]).unsqueeze(0), torch.tensor(chi[t]).unsqueeze(0), first)
        x = offline_safety.flow_cost(
            torch.tensor(cost[s]).unsqueeze(0),
            weight,
            *values,
            discount=torch.full((1, S * S), gamma, **F64),
            gamma=gamma,
        )
        assert (law * x[0]).sum().item() == pytest.approx(d @ cost, rel=1e-10)


def test_the_cost_bound_is_the_worst_law_in_the_ball():
    x, radius = np.array([0.1, 0.4, 1.0, 0.2, 0.0, 0.7]), 0.15
    p = cp.Variable(6, nonneg=True)
    ball = cp.sum(cp.rel_entr(p, np.full(6, 1 / 6))) <= radius
    exact = cp.Problem(cp.Maximize(p @ x), [ball, cp.sum(p) == 1]).solve(solver="CLARABEL")
    taus = torch.logspace(-2, 2, 400, **F64).unsqueeze(1)
    bounds = offline_safety.cost_bound(torch.tensor(x).expand(400, 6), taus, radius=radius)[:, 0]
    assert (bounds >= exact - 1e-7).all()
    assert bounds.min().item() == pytest.approx(exact, abs=1e-4)
    assert x.mean() < exact < x.max()


def test_reach_backups_end_at_terminals_and_not_at_timeouts():
    h, ahead = torch.tensor([-1.0, -1.0, 25.0]), torch.tensor([7.0, 7.0, -1.0])
    discount = torch.tensor([0.9, 0.0, 0.9])  # goes on (a time-out too), ends, violates now
    backup = offline_safety.reach_backup(h, discount, ahead)
    np.testing.assert_allclose(backup, [0.1 * -1 + 0.9 * 7, -1.0, 25.0], rtol=1e-6)


def test_reachability_is_the_largest_set_that_can_stay_free():
    """No discount; a conveyor of 5 cells into a violation, with a way out of the first two: enumeration by hand."""
    following = torch.tensor([[1, 0], [2, 0], [3, 3], [4, 4], [4, 4]])
    h = offline_safety.violation(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], **F64))[:, None].expand(5, 2)
    v = torch.full((5,), -1.0, **F64)
    for _ in range(10):
        v = offline_safety.reach_backup(h, torch.ones(5, 2, **F64), v[following]).amin(1)
    assert (v <= 0).tolist() == [True, True, False, False, False]


def test_feasibility_weights_by_cases():
    reach_v = torch.tensor([2.0, 2.0, -0.5, -0.5, -0.5])
    reach_q = torch.tensor([1.0, 9.0, -0.7, 0.1, -0.1])
    advantage = torch.tensor([-9.0, 9.0, 0.5, 9.0, -0.5])
    weight = offline_safety.feasibility_weight(reach_q, reach_v, advantage)
    np.testing.assert_allclose(weight, [np.exp(5.0), np.exp(-35.0), np.exp(1.5), 0, np.exp(-1.5)], rtol=1e-4)
    far = torch.tensor([9.0, 9.0])
    capped = offline_safety.feasibility_weight(-far, torch.tensor([9.0, -1.0]), far)
    np.testing.assert_allclose(capped, [150, 100], rtol=1e-4)


def test_the_vp_schedule_of_five_steps():
    alpha, kept = diffusion.vp_schedule(5, **F64)
    t = np.arange(1, 6)
    np.testing.assert_allclose(alpha, np.exp(-0.1 / 5 - 0.5 * 9.9 * (2 * t - 1) / 25), rtol=1e-12)
    np.testing.assert_allclose(kept, np.cumprod(alpha), rtol=1e-12)
    assert kept[-1].item() == pytest.approx(np.exp(-0.1 - 0.5 * 9.9), rel=1e-9)  # almost pure noise: 0.6 %


def test_denoising_with_the_exact_noise_gives_the_action_back():
    """One action in the data: its noise at any a_t is known, and the last step returns it whatever came before."""
    alpha, kept = diffusion.vp_schedule(5, **F64)
    action = torch.tensor([[0.3, -0.8]], **F64)
    x = torch.tensor([[1.7, 0.4]], **F64)
    for t in reversed(range(5)):
        exact = (x - kept[t].sqrt() * action) / (1 - kept[t]).sqrt()
        torch.testing.assert_close(diffusion.diffuse(action, exact, kept[t].view(1, 1)), x)
        noise = torch.randn(1, 2, **F64) if t else torch.zeros(1, 2, **F64)
        x = diffusion.denoise(x, exact, noise, alpha[t], kept[t])
    torch.testing.assert_close(x, action)


def test_the_weighted_denoiser_is_that_of_the_weighted_law():
    """Two actions with weights 1 and 3: the best prediction at one a_t is the mean noise of the law 1/4, 3/4."""
    _, kept = diffusion.vp_schedule(5, **F64)
    k, at, actions, weights = kept[1], 0.2, np.array([-0.5, 0.5]), np.array([1.0, 3.0])
    noise = (at - np.sqrt(k.item()) * actions) / np.sqrt(1 - k.item())
    mass = weights * np.exp(-(noise**2) / 2)
    exact = mass @ noise / mass.sum()
    guess = torch.zeros(1, 1, **F64, requires_grad=True)
    weight = torch.tensor(weights * np.exp(-(noise**2) / 2))  # how often each is met at this a_t
    loss = diffusion.denoising(guess.expand(2, 1), torch.tensor(noise).unsqueeze(1), weight).sum()
    (gradient,) = torch.autograd.grad(loss, guess)
    curvature = 2 * weight.sum()
    assert (-gradient / curvature).item() == pytest.approx(exact, rel=1e-10)
