"""Baselines and credits against enumeration, numpy and closed forms."""

import itertools

import numpy as np
import pytest
import torch

from fenchel.theory.objectives import advantage
from fenchel.theory.objectives.returns import gae

RNG = np.random.default_rng(0)
LOGITS = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 0.4], dtype=torch.float64)
PI = LOGITS.softmax(-1)
SCORES = torch.eye(3, dtype=torch.float64) - PI


def moments(baseline, size=3):
    """(mean, trace of the covariance) of (1/G) sum_i (r_i - b_i) grad log pi(y_i), over all groups."""
    index = torch.tensor(list(itertools.product(range(3), repeat=size)))
    weight = PI[index].prod(-1)
    r = REWARD[index]
    g = ((r - baseline(index, r))[..., None] * SCORES[index]).mean(1)
    mean = (weight[:, None] * g).sum(0)
    return mean, (weight * (g - mean).square().sum(-1)).sum()


def norms(index):
    return SCORES.square().sum(-1)[index]


def test_weighted_baselines():
    """Leaving the own answer out is unbiased for any weights; with it the mean is off, by less for a larger group."""
    exact = PI * (REWARD - PI @ REWARD)
    loo, _ = moments(lambda i, r: advantage.weighted_baseline(r, norms(i), leave_one_out=True))
    torch.testing.assert_close(loo, exact)
    off = [
        (moments(lambda i, r: advantage.weighted_baseline(r, norms(i)), size)[0] - exact).norm() for size in (2, 3, 4)
    ]
    assert off[0] > off[1] > off[2] > 1e-3
    even = advantage.weighted_baseline(REWARD, torch.ones(3).double())
    torch.testing.assert_close(even, REWARD.mean().expand(3))
    alone = advantage.weighted_baseline(REWARD[:1], torch.ones(1).double(), leave_one_out=True)
    assert alone == 0  # nobody else: no baseline


def test_the_optimal_constant_is_the_weighted_mean():
    weight = PI * SCORES.square().sum(-1)
    best = (weight * REWARD).sum() / weight.sum()
    at = [moments(lambda i, r, b=b: torch.full_like(r, b), 1)[1] for b in (best - 0.1, best, best + 0.1)]
    assert at[1] < min(at[0], at[2])


def test_signed_rewards():
    r = torch.tensor([1.0, 0.2, 0.0, -1.0])
    torch.testing.assert_close(advantage.signed(r), torch.tensor([1.0, 1.0, -1.0, -1.0]))
    got = advantage.signed(r, positive=0.1, negative=2.0, threshold=0.5)
    torch.testing.assert_close(got, torch.tensor([0.1, -2.0, -2.0, -2.0]))


def test_whitening_is_over_what_counts_and_per_replica():
    x = torch.tensor(RNG.normal(size=(2, 3, 4)))
    mask = torch.tensor(RNG.integers(0, 2, size=(2, 3, 4))).double()
    got = advantage.whiten(x, mask).numpy()
    for i in range(2):
        counted = x[i].numpy()[mask[i].numpy() > 0]
        expected = (counted - counted.mean()) / np.sqrt(counted.var() + 1e-8)
        np.testing.assert_allclose(got[i][mask[i].numpy() > 0], expected)
    assert (got[mask.numpy() == 0] == 0).all()


def test_returns_to_go_by_hand():
    r = torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(advantage.return_to_go(r), torch.tensor([7.0, 6.0, 4.0]))
    torch.testing.assert_close(advantage.return_to_go(r, gamma=0.5), torch.tensor([3.0, 4.0, 4.0]))


def test_length_adaptive_lambda_spreads_the_weight():
    """sum_{t < l} lam^t = alpha l (1 - lam^l); answers shorter than 1 / alpha get 0."""
    length = torch.tensor([40.0, 400.0], dtype=torch.float64)
    lam = advantage.length_adaptive_lambda(length, alpha=0.05)
    sums = torch.stack([(x ** torch.arange(int(n))).sum() for x, n in zip(lam, length, strict=True)])
    torch.testing.assert_close(sums, 0.05 * length * (1 - lam**length))
    assert advantage.length_adaptive_lambda(torch.tensor(7.0), alpha=0.05) == 0


def test_soft_value():
    """Binary rewards have a closed form; one temperature per replica; from below, and rising with it."""
    r = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    p, beta = r.mean(-1), torch.tensor([0.5, 2.0], dtype=torch.float64)
    got = advantage.soft_value(r, beta=beta)
    torch.testing.assert_close(got, beta * torch.log(1 - p + p * torch.exp(1 / beta)))
    torch.testing.assert_close(advantage.soft_value(r[0], beta=0.5), got[0])
    torch.testing.assert_close(advantage.soft_value(r, beta=1e4), p, rtol=1e-4, atol=0)


def test_beta_tracker_forgets():
    a, b = torch.tensor([2.0]), torch.tensor([1.0])
    still = advantage.beta_tracker(a, b, torch.tensor([[1.0, 0.0]]), torch.zeros(1), half_life=0.06, low=0.5, high=1.0)
    torch.testing.assert_close(torch.stack(still), torch.tensor([[3.0], [2.0]]))
    half = advantage.beta_tracker(
        a, b, torch.tensor([[1.0, 0.0]]), torch.full((1,), 0.06), half_life=0.06, low=0.1, high=0.96
    )
    torch.testing.assert_close(torch.stack(half), torch.tensor([[2.0], [1.5]]))
    for _ in range(400):  # at a fixed rate the counts in all tend to G / (1 - rho)
        a, b = advantage.beta_tracker(
            a, b, torch.ones(1, 1), torch.full((1,), 9.0), half_life=0.06, low=0.875, high=0.96
        )
    assert (a + b).item() == pytest.approx(8.0)


def test_decoupled_lambdas_need_no_function_of_their_own():
    """The actor's and the critic's estimates are two calls of `gae`; lam = 1 gives Monte Carlo targets."""
    r, v = torch.tensor(RNG.normal(size=(2, 4))), torch.tensor(RNG.normal(size=(2, 4)))
    following = torch.cat([v[:, 1:], torch.zeros(2, 1)], -1)
    discount = torch.ones(2, 4).double()
    target = gae(r, discount, v, following, torch.zeros(2, 4).double(), lam=1.0) + v
    torch.testing.assert_close(target, advantage.return_to_go(r))
