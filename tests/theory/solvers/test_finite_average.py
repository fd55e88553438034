"""Finite horizon and average reward against the tree, the LP and enumeration."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from fenchel.errors import UserError
from fenchel.theory.instances.generated import dense, garnet
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.referees import enumeration, linear_program
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.certificates import check
from tests.strategies import mdps


@given(mdps(max_states=3, max_actions=2, masked=True))
@settings(max_examples=25)
def test_backward_induction_is_the_tree(mdp):
    answer = solve(mdp, "finite", horizon=4)
    for s in range(mdp.num_states):
        assert abs(float(answer.V[0, s]) - enumeration.finite_value(mdp, 4, s)) < 1e-12
    assert check(mdp, "finite", answer, 1e-12, horizon=4).holds


def test_a_time_axis_is_read_in_order_and_batches_are_independent():
    """Three steps that differ, for two problems at once; swapping the steps changes the answer."""
    steps = garnet(Rng(0), 6, 4, 2).map(lambda t: t.reshape(2, 3, *t.shape[1:]))
    answer = solve(steps, "finite")
    assert answer.V.shape == (2, 4, 4)
    assert check(steps, "finite", answer, 1e-12).holds
    V = torch.zeros(2, 4, dtype=torch.float64)
    for h in (2, 1, 0):
        V = (steps.r[:, h] + 0.9 * torch.einsum("bsat,bt->bsa", steps.P[:, h], V)).amax(-1)
    torch.testing.assert_close(answer.V[:, 0], V)
    assert not torch.allclose(solve(steps.map(lambda t: t.flip(1)), "finite").V[:, 0], V)


def test_a_long_horizon_is_the_discounted_problem_and_terminal_values_count():
    mdp = garnet(Rng(1), 4, 5, 3)
    exact = solve(mdp, "discounted", "pi").V
    assert float((solve(mdp, "finite", horizon=250).V[:, 0] - exact).abs().max()) < 1e-9
    kept = solve(mdp, "finite", horizon=3, terminal=exact)
    torch.testing.assert_close(kept.V, exact[:, None].expand(-1, 4, -1))
    assert check(mdp, "finite", kept, horizon=3, terminal=exact).holds
    assert not check(mdp, "finite", kept, horizon=3).holds


@pytest.mark.parametrize("method", ["vi", "pi", "auto"])
def test_the_gain_agrees_with_the_program_and_with_enumeration(method):
    mdp = dense(Rng(2), 6, 4, 2)
    answer = solve(mdp, "average", method)
    assert check(mdp, "average", answer).holds
    for i in range(6):
        gain = linear_program.gain(mdp[i])
        assert abs(gain - float(enumeration.gains(mdp[i]).max())) < 1e-7
        assert float(answer.lower[i, 0]) - 1e-9 <= gain <= float(answer.upper[i, 0]) + 1e-9


def test_periodic_chains_and_transient_states():
    """A two-cycle (on which plain value iteration never settles) reached from a transient state."""
    P = torch.tensor([[[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]], [[0.5, 0.0, 0.5]]], dtype=torch.float64)
    r = torch.tensor([[1.0], [4.0], [9.0]], dtype=torch.float64)
    mdp = TabularMDP(P, r, torch.full((3,), 1 / 3, dtype=torch.float64), 0.9)
    for method in ("vi", "pi"):
        torch.testing.assert_close(solve(mdp, "average", method).V, torch.full((3,), 2.5, dtype=torch.float64))


def test_gain_of_shift_and_scale():
    mdp = dense(Rng(3), 4, 5, 3)
    gain = solve(mdp, "average").V
    torch.testing.assert_close(solve(replace_reward(mdp, 2 * mdp.r - 1), "average").V, 2 * gain - 1)


def test_communicating_problems_with_multichain_policies_are_solved():
    """Two states, stay or switch: the policy that stays everywhere has two classes, the optimum has one gain."""
    P = torch.eye(2, dtype=torch.float64)[:, None].repeat(1, 2, 1)
    P[0, 1], P[1, 1] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    r = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    mdp = TabularMDP(P, r, torch.tensor([1.0, 0.0], dtype=torch.float64), 0.9)
    answer = solve(mdp, "average")
    torch.testing.assert_close(answer.V, torch.full((2,), 2.0, dtype=torch.float64))
    assert check(mdp, "average", answer).holds


def test_a_multichain_optimum_is_refused():
    P = torch.eye(2, dtype=torch.float64)[:, None]
    mdp = TabularMDP(P, torch.tensor([[0.0], [1.0]]).double(), torch.tensor([0.5, 0.5], dtype=torch.float64), 0.9)
    with pytest.raises(UserError, match="same from every state"):
        solve(mdp, "average", limit=200)


def test_horizons_are_checked():
    mdp = garnet(Rng(4), 1)[0]
    with pytest.raises(UserError, match="horizon=0"):
        solve(mdp, "finite", horizon=0)
    with pytest.raises(UserError, match="horizon is needed"):
        solve(mdp, "finite")
