"""Reach-avoid, safe sets and goal distances against programs, Dijkstra and enumeration."""

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


def sparse(seed, *batch, S=5, A=2, density=0.35):
    rng = Rng(seed)
    weight = rng.uniform(*batch, S, A, S) * (rng.uniform(*batch, S, A, S) < density)
    weight[..., 0] += (weight.sum(-1) == 0).to(weight)
    P = weight / weight.sum(-1, keepdim=True)
    return TabularMDP(P, torch.zeros(*batch, S, A, dtype=P.dtype), rng.simplex(*batch, S), 1.0)


def states(*members, S=5):
    return torch.tensor([s in members for s in range(S)])


def test_reach_avoid_is_the_least_solution():
    mdp = sparse(1, 20)
    target, avoid = states(3), states(1)
    s = solve(mdp, "reach_avoid", target=target, avoid=avoid)
    assert s.certificate.holds
    assert check(mdp, "reach_avoid", s, target=target, avoid=avoid).holds
    for i in range(20):
        v = referee.reach_probability(mdp.P[i].numpy(), target.numpy(), avoid.numpy())
        assert np.allclose(v, s.V[i], atol=1e-8)
    assert torch.allclose(solve(mdp[7], "reach_avoid", target=target, avoid=avoid).V, s.V[7], atol=1e-12)


def test_a_free_cycle_earns_nothing():
    """State 0 may loop for ever: v = 1 there solves Bellman's equation, the probability is 1/2 (or 0 for the loop)."""
    P = torch.zeros(3, 2, 3, dtype=torch.float64)
    P[0, 0, 0] = P[1, :, 1] = P[2, :, 2] = 1
    P[0, 1, 1] = P[0, 1, 2] = 0.5
    mdp = TabularMDP(P, torch.zeros(3, 2, dtype=P.dtype), torch.ones(3, dtype=P.dtype) / 3, 1.0)
    options = {"target": states(1, S=3)}
    s = solve(mdp, "reach_avoid", **options)
    assert torch.equal(s.V, torch.tensor([0.5, 1.0, 0.0], dtype=P.dtype))
    fake = replace(s, V=torch.tensor([1.0, 1.0, 0.0], dtype=P.dtype))
    assert not check(mdp, "reach_avoid", fake, **options).holds
    lazy = replace(s, policy=s.policy.flip(-1))
    assert not check(mdp, "reach_avoid", lazy, **options).holds


def test_safe_set_is_the_union_of_invariant_sets():
    mdp = sparse(2, 20)
    safe = states(0, 2, 3, 4)
    s = solve(mdp, "safe_set", safe=safe)
    assert s.certificate.holds
    for i in range(20):
        assert np.array_equal(referee.largest_safe_set(mdp.P[i].numpy(), safe.numpy()), s.extra["states"][i])
    smaller = s.extra | {"states": s.extra["states"] & ~states(0)}
    assert not check(mdp, "safe_set", replace(s, extra=smaller), safe=safe).holds


def test_distances_of_deterministic_dynamics():
    rng = Rng(3)
    successor, cost = rng.integers(8, 8, 2), 1 + rng.uniform(8, 2)
    P = torch.nn.functional.one_hot(successor, 8).double()
    mdp = TabularMDP(P, torch.zeros(8, 2, dtype=P.dtype), torch.ones(8, dtype=P.dtype) / 8, 1.0)
    s = solve(mdp, "goal_distance", cost=cost)
    t = solve(mdp, "goal_distance", "policy_iteration", cost=cost)
    assert s.certificate.holds
    assert t.certificate.holds
    assert np.allclose(s.V, referee.shortest_paths(successor.numpy(), cost.numpy()))
    assert torch.allclose(s.V, t.V)
    # quasimetric: d(s, g) <= d(s, w) + d(w, g)
    D = s.V.T
    assert (D[:, None, :] <= D[:, :, None] + D[None] + 1e-12).all()


@pytest.mark.parametrize("zero_costs", [False, True])
def test_stochastic_distances_with_free_cycles(zero_costs):
    for seed in range(4, 12):
        mdp = sparse(seed, S=4, density=0.3)
        cost = Rng(seed, "cost").uniform(4, 2)
        cost = (cost > 0.5).to(cost) if zero_costs else cost
        s = solve(mdp, "goal_distance", cost=cost)
        assert s.certificate.holds
        for goal in range(4):
            best = referee.proper_distance(mdp.P.numpy(), cost.numpy(), goal)
            assert np.allclose(best, s.V[goal], atol=1e-8)


def test_a_free_loop_is_not_a_way_to_the_goal():
    """Staying costs nothing, leaving costs 1: the distance is 1, not 0."""
    P = torch.zeros(2, 2, 2, dtype=torch.float64)
    P[0, 0, 0] = P[0, 1, 1] = P[1, :, 1] = 1
    mdp = TabularMDP(P, torch.zeros(2, 2, dtype=P.dtype), torch.ones(2, dtype=P.dtype) / 2, 1.0)
    cost = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=P.dtype)
    for method in ("shortest_path", "policy_iteration"):
        s = solve(mdp, "goal_distance", method, cost=cost)
        assert torch.equal(s.V, torch.tensor([[0.0, torch.inf], [1.0, 0.0]], dtype=P.dtype))
    zero = replace(s, V=torch.tensor([[0.0, torch.inf], [0.0, 0.0]], dtype=P.dtype))
    assert not check(mdp, "goal_distance", zero, cost=cost).holds
    infinite = replace(s, V=torch.tensor([[0.0, torch.inf], [torch.inf, 0.0]], dtype=P.dtype))
    assert not check(mdp, "goal_distance", infinite, cost=cost).holds


def test_refusals():
    mdp = sparse(1)
    with pytest.raises(UserError, match="state 2 is in both"):
        solve(mdp, "reach_avoid", target=states(2, 3), avoid=states(2))
    with pytest.raises(UserError, match="target must be bool"):
        solve(mdp, "reach_avoid", target=torch.zeros(4))
    with pytest.raises(UserError, match="at least 0; it is not at state 0, action 0"):
        solve(mdp, "goal_distance", cost=-1.0)
    with pytest.raises(UserError, match="deterministic dynamics"):
        solve(mdp, "goal_distance", "shortest_path")
