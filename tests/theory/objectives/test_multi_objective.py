"""The envelope operator, scalarisations, the barrier and the projection, against answers that do not use them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fenchel.theory.fronts import lattice
from fenchel.theory.instances.multi_objective import multi_objective_garnet
from fenchel.theory.objectives import multi_objective
from fenchel.theory.objectives.returns import gae
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve


@pytest.mark.parametrize("channels", [2, 3])
def test_the_envelope_operators_fixed_point_is_the_coverage_set(channels):
    """At every weight of W the optimum of w . r, as the exact coverage set gives it; |W| > 1 changes nothing."""
    mdp = multi_objective_garnet(Rng(3), 1, channels=channels)[0]
    weights = lattice(channels, 4)
    W, S, A, K = len(weights), mdp.num_states, mdp.num_actions, channels
    q = torch.zeros(W, S, A, K, dtype=torch.float64)
    every = weights.unsqueeze(1).expand(W, S, K)
    for _ in range(300):
        choices = q.permute(1, 0, 2, 3).reshape(1, S, W * A, K).expand(W, -1, -1, -1)
        nothing, whole = torch.zeros(W, S, K, dtype=torch.float64), torch.ones(W, S, dtype=torch.float64)
        following = multi_objective.envelope_backup(nothing, whole, choices, every)  # (W, S, K)
        q = mdp.r.permute(1, 2, 0) + torch.einsum("sat,wtk->wsak", mdp.kernel, following)
    start = torch.einsum("s,wsak->wsak", torch.ones(S, dtype=torch.float64), q)
    value = multi_objective.linear(start, weights[:, None, None]).amax(-1) @ mdp.mu0
    exact = (weights @ solve(mdp, "coverage").extra["vectors"].T).amax(1)
    torch.testing.assert_close(value, exact, rtol=0, atol=1e-8)


def test_the_judge_chooses_and_the_other_network_values():
    q, judge = torch.tensor([[[5.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    one = torch.ones(1)
    backup = multi_objective.envelope_backup(torch.zeros(1, 2), 0.5 * one, q, torch.tensor([[0.5, 0.5]]), judge)
    assert backup.tolist() == [[0.0, 0.5]]


@pytest.mark.unchecked  # discounts broadcast over objectives
def test_advantages_of_a_scalarised_reward_are_the_scalarised_advantages():
    rng = np.random.default_rng(0)
    reward, value, following = (torch.from_numpy(rng.normal(size=(5, 3, 20))) for _ in range(3))  # (copies, K, T)
    discount, cut = (torch.from_numpy(rng.random((5, 1, 20)) < p) * 0.9 for p in (0.9, 0.1))
    weight = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    vector = gae(reward, discount, value, following, cut, lam=0.8).mT
    scalar = [torch.einsum("ckt,k->ct", x, weight) for x in (reward, value, following)]
    expected = gae(scalar[0], discount[:, 0], *scalar[1:], cut[:, 0], lam=0.8)
    torch.testing.assert_close(multi_objective.linear(vector, weight), expected)


def test_the_gradient_of_chebyshev_is_its_gradient():
    vector = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight, ideal = torch.rand(50, 4, dtype=torch.float64) + 0.1, torch.full((4,), 3.0, dtype=torch.float64)
    multi_objective.chebyshev(vector, weight, ideal).sum().backward()
    torch.testing.assert_close(multi_objective.chebyshev_gradient(vector.detach(), weight, ideal), vector.grad)


@pytest.mark.parametrize("slack", [-5.0, -0.1, 0.0, 0.001, 0.2, 30.0])
def test_the_barrier_always_asks_for_more_of_what_is_constrained(slack):
    """Also where the constraint is violated, as it is for ever with returns below 0 times a factor below 1."""
    gain = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    free = torch.tensor([[True, False]])
    given = torch.full((1, 2), slack, dtype=torch.float64, requires_grad=True)
    multi_objective.barrier(gain, given, free, sharpness=20.0).sum().backward()
    assert gain.grad[0, 0] == 0
    expected = 1 / (20 * slack) if slack > 1 / 400 else 20.0
    assert gain.grad[0, 1].item() == pytest.approx(-expected)
    assert given.grad is None


def test_projection_is_the_nearest_direction_that_satisfies_the_constraints():
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows, gradient, least = rng.normal(size=(2, 6)), rng.normal(size=6), rng.normal(size=2)
        need = torch.from_numpy(least - rows @ gradient)
        lam = multi_objective.projection_multipliers(torch.from_numpy(rows @ rows.T), need, steps=500).numpy()
        found = gradient + lam @ rows
        best = np.inf  # over active sets
        for active in itertools.chain.from_iterable(itertools.combinations(range(2), n) for n in range(3)):
            B = rows[list(active)]
            d = gradient + B.T @ np.linalg.solve(B @ B.T, least[list(active)] - B @ gradient) if active else gradient
            if (rows @ d >= least - 1e-9).all():
                best = min(best, ((d - gradient) ** 2).sum())
        assert (rows @ found >= least - 1e-6).all()
        assert ((found - gradient) ** 2).sum() == pytest.approx(best, abs=1e-6)


def test_homotopy_goes_from_vectors_to_utilities():
    q, y, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[0.5, 0.5]])
    losses = [multi_objective.envelope_loss(q, y, w, homotopy=h).item() for h in (0.0, 0.5, 1.0)]
    assert losses == [2.5, 0.5 * 2.5 + 0.5 * 0.25, 0.25]
