"""Policy-gradient parts on enumerated problems: exact expectations over every answer or group."""

import itertools

import numpy as np
import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.objectives import policy_gradient as pg

LOGITS = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 0.4], dtype=torch.float64)


def exact_gradient(reward=REWARD):
    """d/dtheta of sum_y softmax(theta)_y r_y, by hand."""
    pi = LOGITS.softmax(-1)
    return pi * (reward - pi @ reward)


def group_expectation(size, advantage, reward=REWARD):
    """E over all groups of size G of the REINFORCE gradient (1 / G) sum_i A_i grad log pi(y_i)."""
    pi = LOGITS.softmax(-1)
    total = torch.zeros(3, dtype=torch.float64)
    for answers in itertools.product(range(3), repeat=size):
        index = torch.tensor(answers)
        theta = LOGITS.clone().requires_grad_()
        loss = pg.reinforce(theta.log_softmax(-1)[index], advantage(reward[index])).mean()
        total -= pi[index].prod() * torch.autograd.grad(loss, theta)[0]
    return total


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_group_advantages(size):
    """loo is unbiased, mean is (G - 1) / G of it, z-scores point elsewhere."""
    exact = exact_gradient()
    torch.testing.assert_close(group_expectation(size, lambda r: pg.group_advantage(r)), exact)
    mean = group_expectation(size, lambda r: pg.group_advantage(r, baseline="mean"))
    torch.testing.assert_close(mean * size / (size - 1), exact)
    zscore = group_expectation(size, lambda r: pg.group_advantage(r, baseline="zscore", epsilon=1e-9))
    assert cosine(zscore, exact) < 1 - 1e-5
    # the scale of a prompt's rewards is lost: over prompts the gradient is weighted by 1 / std
    larger = group_expectation(size, lambda r: pg.group_advantage(r, baseline="zscore", epsilon=1e-9), 10 * REWARD)
    torch.testing.assert_close(larger, zscore, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(exact_gradient(10 * REWARD), 10 * exact)


@pytest.mark.unchecked
def test_zscore_variants_by_hand():
    reward = torch.tensor([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    expected = (reward - reward.mean(-1, keepdim=True)).numpy() / (
        np.std(reward.numpy(), axis=-1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(pg.group_advantage(reward, baseline="zscore"), expected)
    bessel = (reward - reward.mean(-1, keepdim=True)).numpy() / (
        np.std(reward.numpy(), axis=-1, keepdims=True, ddof=1) + 1e-4
    )
    np.testing.assert_allclose(pg.group_advantage(reward, baseline="zscore", unbiased_std=True, epsilon=1e-4), bessel)
    with pytest.raises(UserError, match="groups of at least 2"):
        pg.group_advantage(torch.ones(3, 1))
    with pytest.raises(UserError, match="baseline=median is unknown"):
        pg.group_advantage(reward, baseline="median")


def test_ppo_clip_cases():
    """(ratio, A) -> (loss, does a gradient reach the policy)."""
    cases = [
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),
        (0.5, 2.0, -1.0, True),
        (0.5, -1.0, 0.8, False),
        (1.5, -1.0, 1.5, True),
        (9.0, -1.0, 9.0, True),
    ]
    for ratio, advantage, expected, flows in cases:
        log_ratio = torch.tensor(np.log(ratio), requires_grad=True)
        loss = pg.ppo_clip(log_ratio, torch.tensor(advantage), clip=0.2)
        assert loss.item() == pytest.approx(expected)
        gradient = torch.autograd.grad(loss, log_ratio)[0].item()
        assert gradient == pytest.approx(-ratio * advantage if flows else 0.0)
    far = torch.tensor(np.log(9.0), requires_grad=True)
    bounded = pg.ppo_clip(far, torch.tensor(-1.0), clip=0.2, dual_clip=3.0)
    assert bounded.item() == pytest.approx(3.0)
    assert torch.autograd.grad(bounded, far)[0] == 0
    assert pg.ppo_clip(torch.tensor(np.log(1.25)), torch.tensor(1.0), clip=0.2, clip_high=0.28).item() == pytest.approx(
        -1.25
    )
    assert pg.ppo_clip(torch.tensor(1e4), torch.tensor(0.0), clip=0.2) == 0  # exp overflows; 0 * inf must not appear


def test_ppo_clip_on_policy_is_the_policy_gradient():
    pi = LOGITS.softmax(-1)
    theta = LOGITS.clone().requires_grad_()
    log_ratio = theta.log_softmax(-1) - LOGITS.log_softmax(-1)
    loss = (pi * pg.ppo_clip(log_ratio, REWARD - pi @ REWARD, clip=0.2)).sum()
    torch.testing.assert_close(-torch.autograd.grad(loss, theta)[0], exact_gradient())


def test_cispo_clips_the_weight_and_keeps_the_gradient():
    log_prob = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    log_ratio = torch.tensor([3.0, 0.1], dtype=torch.float64)
    advantage = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(pg.cispo(log_ratio, log_prob, advantage, high=2.0).sum(), log_prob)
    torch.testing.assert_close(gradient, torch.tensor([-2.0, 2 * np.exp(0.1)]).double())


@pytest.mark.unchecked
def test_sequence_ratios():
    log_ratio = torch.tensor([[0.1, 0.3, 9.0], [0.2, 9.0, 9.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        pg.sequence_log_ratio(log_ratio, mask, mode="sequence"), torch.tensor([0.4, 0.2]).double()
    )
    torch.testing.assert_close(pg.sequence_log_ratio(log_ratio, mask), torch.tensor([0.2, 0.2]).double())
    token = pg.sequence_log_ratio(log_ratio, mask, mode="gspo_token")
    torch.testing.assert_close(token, torch.full((2, 3), 0.2).double())
    torch.testing.assert_close(torch.autograd.grad(token.sum(), log_ratio)[0], torch.ones(2, 3).double())
    torch.testing.assert_close(
        pg.truncated_ratio(log_ratio, cap=2.0)[0, 1:].detach(), torch.tensor([np.exp(0.3), 2.0]).double()
    )
    with pytest.raises(UserError, match="mode=token is unknown"):
        pg.sequence_log_ratio(log_ratio, mask, mode="token")


def test_ppo_value():
    value, old, target = torch.tensor([1.0, 3.0, 1.1]), torch.zeros(3), torch.tensor([2.0, 2.0, 2.0])
    torch.testing.assert_close(pg.ppo_value(value, old, target), torch.tensor([0.5, 0.5, 0.405]))
    # clipped to 0.5 the second is (0.5 - 2)^2 / 2, and the larger of the two counts
    torch.testing.assert_close(pg.ppo_value(value, old, target, clip=0.5), torch.tensor([1.125, 1.125, 1.125]))


def test_entropy():
    logits = torch.tensor([[0.3, -0.7, 1.1], [0.0, -torch.inf, 0.0]], dtype=torch.float64, requires_grad=True)
    value = pg.entropy(logits)
    pi = LOGITS.softmax(-1)
    torch.testing.assert_close(value.detach(), torch.stack([-(pi * pi.log()).sum(), torch.tensor(np.log(2))]))
    assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()
