"""Returns against sums written out over episodes, with a time-out and a terminal in the middle."""

import numpy as np
import pytest
import torch

from fenchel.theory.objectives.policy_gradient import gae
from fenchel.theory.objectives.returns import lambda_return, n_step_return

GAMMA = 0.9
RNG = np.random.default_rng(0)
T = 9
REWARD, VALUE, NEXT = RNG.normal(size=(3, T))
TERMINAL = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0.0])  # ends at step 2
TIMEOUT = np.array([0, 0, 0, 0, 0, 1, 0, 0, 0.0])  # cut at step 5, its successor still has a value
CUT = np.maximum(TERMINAL, TIMEOUT)
for t in range(T - 1):  # inside an episode the successor's value is the next row's
    if not CUT[t]:
        NEXT[t] = VALUE[t + 1]
DISCOUNT = GAMMA * (1 - TERMINAL)


def tensors(*arrays):
    return [torch.tensor(a) for a in arrays]


def episode_end(t):
    """The last step of t's episode within the data."""
    while t < T - 1 and not CUT[t]:
        t += 1
    return t


def n_step(t, n):
    last = min(t + n - 1, episode_end(t))
    total = sum(GAMMA ** (k - t) * REWARD[k] for k in range(t, last + 1))
    return total + (0 if TERMINAL[last] else GAMMA ** (last - t + 1) * NEXT[last])


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_n_step_return(n):
    got = n_step_return(*tensors(REWARD, DISCOUNT, NEXT, CUT), n=n)
    np.testing.assert_allclose(got, [n_step(t, n) for t in range(T)], rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_lambda_return_is_the_mixture_of_n_step_returns(lam):
    expected = []
    for t in range(T):
        length = episode_end(t) - t + 1
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, length)] + [lam ** (length - 1)]
        expected.append(sum(w * n_step(t, n) for n, w in enumerate(weights, start=1)))
    got = lambda_return(*tensors(REWARD, DISCOUNT, NEXT, CUT), lam=lam)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    advantage = gae(*tensors(REWARD, DISCOUNT, VALUE, NEXT, CUT), lam=lam)
    np.testing.assert_allclose(advantage + torch.tensor(VALUE), expected, rtol=1e-12)


def test_gae_limits_and_batches():
    args = tensors(REWARD, DISCOUNT, VALUE, NEXT, CUT)
    np.testing.assert_allclose(gae(*args, lam=0.0), REWARD + DISCOUNT * NEXT - VALUE, rtol=1e-12)
    batch = [torch.stack([a, a.flip(0)]) for a in args]
    lam = torch.tensor([[0.3], [0.8]], dtype=torch.float64)
    rows = torch.stack([gae(*[a[i] for a in batch], lam=lam[i].item()) for i in range(2)])
    torch.testing.assert_close(gae(*batch, lam=lam), rows)


def test_a_timeout_bootstraps_and_a_terminal_does_not():
    reward, zero = torch.zeros(1, 1), torch.zeros(1, 1)
    value = torch.full((1, 1), 10.0)
    cut = torch.ones(1, 1)
    assert gae(reward, torch.full((1, 1), 0.9), zero, value, cut, lam=0.95).item() == pytest.approx(9.0)
    assert gae(reward, zero, zero, value, cut, lam=0.95).item() == 0
