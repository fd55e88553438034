"""Coverage and Pareto sets against the enumeration of every deterministic policy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.referees import planning as referee
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.certificates import check


def problem(seed, S=4, A=2, K=2, gamma=0.9):
    rng = Rng(seed)
    return TabularMDP(rng.simplex(S, A, S), rng.uniform(K, S, A), rng.simplex(S), gamma)


def returns(mdp):
    return referee.returns_of_policies(mdp.P.numpy(), mdp.r.numpy(), mdp.mu0.numpy(), 0.9)


def same_set(a, b, tol=1e-8):
    a, b = np.asarray(a), np.asarray(b)
    distance = np.abs(a[:, None] - b[None]).max(-1)
    return len(a) == len(b) and distance.min(0).max() < tol and distance.min(1).max() < tol


@pytest.mark.parametrize(("seed", "K"), [(1, 2), (2, 2), (3, 3), (4, 3), (5, 4)])
def test_coverage_set_is_the_upper_hull_of_all_policies(seed, K):
    mdp = problem(seed, K=K)
    s = solve(mdp, "coverage")
    assert s.certificate.holds
    assert check(mdp, "coverage", s).holds
    every = returns(mdp)
    weights = Rng(seed, "w").simplex(500, K).numpy()
    best = (weights @ every.T).max(1)
    assert np.allclose(best, (weights @ s.extra["vectors"].numpy().T).max(1), atol=1e-9)
    # minimal: dropping any vector loses somewhere
    for i in range(len(s.extra["vectors"])):
        w = s.extra["weights"][i].numpy()
        others = np.delete(s.extra["vectors"].numpy(), i, 0)
        assert not len(others) or w @ s.extra["vectors"][i].numpy() > (others @ w).max()


@pytest.mark.parametrize(("seed", "K"), [(1, 2), (6, 2), (3, 3)])
def test_pareto_set_is_the_nondominated_part(seed, K):
    mdp = problem(seed, K=K, A=3)
    s = solve(mdp, "pareto", "enumeration")
    assert s.certificate.holds
    assert same_set(s.extra["vectors"], referee.pareto_front(returns(mdp)))
    hull = solve(mdp, "coverage").extra["vectors"]
    assert (torch.cdist(hull, s.extra["vectors"]).amin(1) < 1e-8).all()


def test_dynamic_programming_equals_enumeration_without_cycles():
    rng = Rng(7)
    S = 6
    successor = torch.stack([torch.arange(S) + 1, torch.arange(S) + 2], 1).clamp(max=S - 1)
    discount = torch.full((S, 2), 0.9, dtype=torch.float64)
    discount[-1] = 0
    mu0 = torch.eye(S, dtype=torch.float64)[0]
    P = torch.nn.functional.one_hot(successor, S).double()
    mdp = TabularMDP(P, rng.uniform(2, S, 2), mu0, discount)
    dynamic, every = solve(mdp, "pareto"), solve(mdp, "pareto", "enumeration")
    assert dynamic.policy is None
    assert dynamic.certificate.holds
    assert same_set(dynamic.extra["vectors"], every.extra["vectors"])


def test_a_deterministic_front_need_not_be_convex():
    """One state, three actions; the middle one is Pareto optimal and below the segment of the others."""
    r = torch.tensor([[[1.0, 0.0, 0.4]], [[0.0, 1.0, 0.4]]], dtype=torch.float64)
    mdp = TabularMDP(torch.ones(1, 3, 1, dtype=torch.float64), r, torch.ones(1, dtype=torch.float64), 0.5)
    assert len(solve(mdp, "pareto").extra["vectors"]) == 3
    assert len(solve(mdp, "coverage").extra["vectors"]) == 2


def test_finite_horizon_front():
    """Two steps in one state: sums of two of the three reward vectors, by hand."""
    r = torch.tensor([[[1.0, 0.0, 0.4]], [[0.0, 1.0, 0.4]]], dtype=torch.float64)
    mdp = TabularMDP(torch.ones(1, 3, 1, dtype=torch.float64), r, torch.ones(1, dtype=torch.float64), 1.0)
    s = solve(mdp, "pareto", horizon=2)
    assert same_set(s.extra["vectors"], [[2, 0], [1.4, 0.4], [1, 1], [0.4, 1.4], [0, 2]])
    assert check(mdp, "pareto", s, horizon=2).holds


def test_incomplete_sets_fail_the_check():
    mdp = problem(2)
    s = solve(mdp, "coverage")
    assert len(s.extra["vectors"]) > 2
    keep = torch.arange(len(s.extra["vectors"])) != 1
    short = s.extra | {"vectors": s.extra["vectors"][keep], "weights": s.extra["weights"][keep]}
    assert not check(mdp, "coverage", replace(s, policy=s.policy[keep], extra=short)).holds
    front = solve(mdp, "pareto")
    extra = {"vectors": front.extra["vectors"][1:]}
    assert not check(mdp, "pareto", replace(front, policy=front.policy[1:], extra=extra)).holds


def test_refusals():
    mdp = problem(9)
    with pytest.raises(UserError, match="K >= 2 channels"):
        solve(mdp.channel(0), "coverage")
    with pytest.raises(UserError, match="exceed limit=3"):
        solve(mdp, "pareto", limit=3)
    with pytest.raises(UserError, match="have a cycle"):
        solve(mdp, "pareto", "dynamic")
