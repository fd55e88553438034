"""Utilities of several objectives against cvxpy over occupancies and the hull of all deterministic policies."""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory import instances
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.referees import planning
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.certificates import check
from fenchel.theory.solvers.utility import constrained_front, ideal_point

CASES = [("chebyshev", 2), ("chebyshev", 3), ("gini", 2), ("gini", 3), ("linear", 3)]


def problem(seed, S=4, A=2, K=2, gamma=0.9):
    rng = Rng(seed)
    return TabularMDP(rng.simplex(S, A, S), rng.uniform(K, S, A), rng.simplex(S), gamma)


def weights_of(utility, K, seed):
    w = Rng(seed, "w").simplex(K)
    return w.sort(descending=True).values if utility == "gini" else w


def best_mixture(vectors: np.ndarray, utility: str, w: np.ndarray, z: np.ndarray) -> float:
    """max over mixtures of deterministic policies, that is over all J; gini as a sum of sums of smallest entries."""
    share = cp.Variable(len(vectors), nonneg=True)
    J = vectors.T @ share
    if utility == "chebyshev":
        u = -cp.max(cp.multiply(w, z - J))
    elif utility == "gini":
        falls = w - np.r_[w[1:], 0]
        u = sum(falls[i] * cp.sum_smallest(J, i + 1) for i in range(len(w)))
    else:
        u = w @ J
    return cp.Problem(cp.Maximize(u), [cp.sum(share) == 1]).solve(solver="CLARABEL")


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("utility", "K"), CASES)
def test_utility_is_the_best_mixture_of_all_policies(utility, K, seed):
    mdp, w = problem(seed, K=K), weights_of(utility, K, seed)
    answer = solve(mdp, "utility", utility=utility, weights=w)
    every = planning.returns_of_policies(mdp.P.numpy(), mdp.r.numpy(), mdp.mu0.numpy(), 0.9)
    assert np.allclose(ideal_point(mdp), every.max(0))
    best = best_mixture(every, utility, w.numpy(), every.max(0))
    assert float(answer.lower) == pytest.approx(best, abs=1e-6)
    assert answer.certificate.holds
    assert check(mdp, "utility", answer, utility=utility, weights=w).holds


def test_utility_of_masked_and_ending_problems():
    """Deep sea treasure: the Chebyshev optimum mixes and shares the regret; every deterministic policy does worse."""
    mdp = instances.deep_sea_treasure("concave", 0.99)
    ideal = ideal_point(mdp)
    answer = solve(mdp, "utility", weights=(0.1, 1.0))
    assert answer.certificate.holds
    regret = torch.tensor([0.1, 1.0]) * (ideal - answer.extra["vectors"][0])
    assert float(regret[0]) == pytest.approx(float(regret[1]))
    pure = solve(mdp, "pareto", horizon=20).extra["vectors"]
    assert float(-answer.lower) < float((torch.tensor([0.1, 1.0]) * (ideal - pure)).amax(1).min()) - 0.1
    masked = replace_mask(problem(5, A=3))
    assert solve(masked, "utility", utility="gini", weights=(0.7, 0.3)).certificate.holds


def replace_mask(mdp):
    mask = torch.ones(mdp.P.shape[:-1], dtype=torch.bool)
    mask[1, 2] = mask[3, 0] = False
    return TabularMDP(mdp.P, mdp.r, mdp.mu0, mdp.discount, mask)


@pytest.mark.parametrize("K", [2, 3])
def test_constrained_front_is_the_upper_surface(K):
    """max J_0 above each floor = the height of the hull of all policies, by a linear program over their mixtures."""
    mdp = problem(8, K=K)
    every = planning.returns_of_policies(mdp.P.numpy(), mdp.r.numpy(), mdp.mu0.numpy(), 0.9)
    low, high = every.min(0)[1:], ideal_point(mdp)[1:].numpy()
    floors = low + (high - low) * np.array([[0.1], [0.4], [0.6], [0.75]]) * (1 if K == 2 else 0.8)
    found, answers = constrained_front(mdp, torch.as_tensor(floors))
    for floor, J, answer in zip(floors, found, answers, strict=True):
        share = cp.Variable(len(every), nonneg=True)
        top = cp.Problem(cp.Maximize(every[:, 0] @ share), [cp.sum(share) == 1, every[:, 1:].T @ share >= floor])
        assert float(J[0]) == pytest.approx(top.solve(solver="CLARABEL"), abs=1e-6)
        assert (J[1:].numpy() >= floor - 1e-8).all()
        assert answer.certificate.holds
    with pytest.raises(UserError, match="no policy meets the budget"):
        constrained_front(mdp, torch.as_tensor(high + 1)[None])


def test_certificates_see_faults():
    mdp, w = problem(2, K=2), torch.tensor([0.4, 0.6]).double()
    answer = solve(mdp, "utility", weights=w)
    uniform = torch.full_like(answer.policy, 0.5)
    faults = {
        "reached": replace(answer, policy=uniform),
        "dual": replace(answer, V=answer.V - 0.1),
        "multipliers": replace(answer, multipliers=answer.multipliers * 1.1),
        "gap": replace(answer, V=answer.V + 0.1),
    }
    for name, wrong in faults.items():
        found = check(mdp, "utility", wrong, utility="chebyshev", weights=w)
        assert found.residuals[name] > 1e-6, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"utility": "chebishev", "weights": (1, 1)}, "utility=chebishev is unknown.*Did you mean 'chebyshev'"),
        ({"weights": (1, 1, 1)}, r"weights must be 2 numbers of at least 0"),
        ({"weights": (1, -1)}, r"weights must be 2 numbers of at least 0"),
        ({"weights": (1, 0)}, "weights of utility=chebyshev must be above 0"),
        ({"utility": "gini", "weights": (0.2, 0.8)}, "weights of utility=gini must not rise"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        solve(problem(1), "utility", **options)
