"""The regulator's environment and data, against the closed forms that are told of them."""

from __future__ import annotations

import numpy as np
import torch

from fenchel.envs import lqr, make
from fenchel.theory.referees.quadratic import Quadratic

MATRICES = [np.array(matrix) for matrix in (lqr.A, lqr.B, lqr.Q, lqr.R)]


def test_a_step_is_linear_and_its_reward_quadratic():
    env = lqr.LQR(2)
    s = env.reset(torch.tensor([1, 2])).double().numpy()
    a = np.array([[0.5], [-3.0]])  # the second is outside, and clamped
    step, a = env.step(torch.from_numpy(a)), a.clip(-1, 1)
    np.testing.assert_allclose(step.obs, s @ MATRICES[0].T + a @ MATRICES[1].T, rtol=1e-5)
    cost = np.einsum("ni,ij,nj->n", s, MATRICES[2], s) + np.einsum("ni,ij,nj->n", a, MATRICES[3], a)
    np.testing.assert_allclose(step.reward, -cost, rtol=1e-5)
    assert not step.terminal.any()
    for _ in range(lqr.MAX_STEPS - 1):
        step = env.step(torch.zeros(2, 1))
    assert step.timeout.all()


def test_the_optimum_is_riccatis_and_the_reference_its_return():
    np.testing.assert_allclose(lqr.OPTIMUM, Quadratic(*MATRICES, lqr.GAMMA).optimum(), atol=1e-5)
    assert lqr.reference() == lqr.REFERENCE


def test_the_datas_actions_are_linear_in_the_state_and_never_clamped():
    data = make("lqr-mixed", transitions=5000).dataset()
    assert data.action.abs().max() < 1
    assert not data.terminal.any()
    noise = (data.action - data.obs @ torch.tensor(lqr.BEHAVIOUR).T)[:, 0]
    assert noise.abs().max() <= lqr.NOISE + 1e-6
    assert abs(float(noise.mean())) < 4 * lqr.NOISE / 3**0.5 / 5000**0.5
    assert abs(float(noise.var()) - lqr.NOISE**2 / 3) < 0.005
