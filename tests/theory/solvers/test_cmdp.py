"""Constrained MDPs: two methods, the occupancy form, Farkas proofs, prices, units, refusals."""

from dataclasses import replace

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.referees import planning as referee
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value
from fenchel.theory.solvers.certificates import check
from fenchel.theory.solvers.cmdp import InfeasibleError
from fenchel.theory.solvers.cmdp_checks import check_farkas


def problems(seed, B, S=5, A=3, K=1, gamma=0.9):
    rng = Rng(seed)
    return TabularMDP(rng.simplex(B, S, A, S), rng.uniform(B, K + 1, S, A), rng.simplex(B, S), gamma)


def least_cost(mdp, k=1):
    return -(solve(replace_reward(mdp, -mdp.r[..., k, :, :]), "discounted").V * mdp.mu0).sum(-1, keepdim=True)


@pytest.mark.parametrize("slack", [0.0, 1e-6, 0.1, 0.5, 100.0])
def test_both_methods_meet_the_occupancy_form(slack):
    mdp = problems(1, 8)
    budgets = least_cost(mdp) + slack
    lp, secant = (solve(mdp, "cmdp", m, budgets=budgets, unit="discounted") for m in ("lp", "lagrangian"))
    for s in (lp, secant):
        assert s.certificate.holds
        assert check(mdp, "cmdp", s, budgets=budgets, unit="discounted").holds
    assert torch.allclose(lp.lower, secant.lower, atol=1e-8)
    # at the least possible budget the multiplier is any large enough price
    assert slack == 0 or torch.allclose(lp.multipliers, secant.multipliers, atol=1e-6)
    for i in range(0 if slack < 1e-5 else 8):
        value = referee.constrained_value(
            mdp.P[i].numpy(), mdp.r[i].numpy(), mdp.mu0[i].numpy(), 0.9, budgets[i].numpy()
        )
        assert abs(value - float(lp.lower[i])) < 1e-6
    one = solve(mdp[3], "cmdp", "lagrangian", budgets=budgets[3], unit="discounted")
    assert torch.allclose(one.lower, secant.lower[3], atol=1e-10)


def test_several_constraints_and_their_prices():
    mdp = problems(2, 6, K=3)
    uniform = policy_value(mdp, torch.full_like(mdp.r[:, 0], 1 / 3))
    budgets = (uniform * mdp.mu0[:, None]).sum(-1)[:, 1:]  # met by the uniform policy
    s = solve(mdp, "cmdp", budgets=budgets, unit="discounted")
    assert s.certificate.holds
    assert (s.multipliers > 1e-3).any()
    h = 1e-5
    for k in range(3):
        step = h * torch.eye(3, dtype=mdp.dtype)[k]
        up, down = (solve(mdp, "cmdp", budgets=budgets + sign * step, unit="discounted").lower for sign in (1, -1))
        assert torch.allclose((up - down) / (2 * h), s.multipliers[:, k], atol=1e-4)


def test_units_agree_with_each_other():
    mdp = problems(3, 4)
    budgets = least_cost(mdp) + 0.2
    plain = solve(mdp, "cmdp", budgets=budgets, unit="discounted")
    mean = solve(mdp, "cmdp", budgets=0.1 * budgets, unit="normalised")
    assert torch.allclose(mean.lower, 0.1 * plain.lower, atol=1e-9)
    assert torch.allclose(mean.multipliers, plain.multipliers, atol=1e-7)
    assert mean.certificate.holds


def test_average_unit_matches_stationary_frequencies():
    mdp = problems(4, 6)
    budgets = 0.1 * least_cost(mdp) + 0.02
    s = solve(mdp, "cmdp", budgets=budgets, unit="average")
    assert s.certificate.holds
    for i in range(6):
        value = referee.constrained_value(
            mdp.P[i].numpy(), mdp.r[i].numpy(), mdp.mu0[i].numpy(), 0.9, budgets[i].numpy(), average=True
        )
        assert abs(value - float(s.lower[i])) < 1e-6
    chain = torch.einsum("bsa,bsat->bst", s.policy, mdp.P)
    stationary = torch.linalg.matrix_power(chain, 4096)[:, 0]
    gain = (stationary[..., None] * s.policy * mdp.r[:, 0]).sum((-2, -1))
    assert torch.allclose(gain, s.lower, atol=1e-8)


def test_episode_unit_counts_every_step():
    # two ways to the end: one step that costs 1 and pays 1, or two free steps that pay nothing
    P = torch.zeros(3, 2, 3, dtype=torch.float64)
    P[0, 0, 2] = P[0, 1, 1] = P[1, :, 2] = P[2, :, 2] = 1
    r = torch.zeros(2, 3, 2, dtype=torch.float64)
    r[0, 0, 0] = r[1, 0, 0] = 1
    discount = torch.ones(3, 2, dtype=torch.float64)
    discount[2] = 0
    mdp = TabularMDP(P, r, torch.tensor([1.0, 0, 0], dtype=torch.float64), discount)
    s = solve(mdp, "cmdp", budgets=[0.25], unit="episode")
    assert abs(float(s.lower) - 0.25) < 1e-9
    assert abs(float(s.policy[0, 0]) - 0.25) < 1e-9
    assert abs(float(s.multipliers) - 1) < 1e-9


def test_infeasible_names_the_constraint_and_proves_it():
    mdp = problems(5, 3, K=2)
    low = torch.cat([least_cost(mdp, 1) + 5, least_cost(mdp, 2) - 0.5], -1)
    with pytest.raises(InfeasibleError, match="budget of cost 2:") as error:
        solve(mdp[1], "cmdp", budgets=low[1], unit="discounted")
    proof = check_farkas(mdp[1], low[1], error.value.weights, error.value.V)
    assert proof["bellman"] < 1e-8
    assert proof["excess"] < -0.1
    single = TabularMDP(mdp.P, mdp.r[:, :2], mdp.mu0, 0.9)
    with pytest.raises(InfeasibleError, match="budget of cost 1:") as error:
        solve(single, "cmdp", "lagrangian", budgets=[-1.0], unit="discounted")
    assert check_farkas(single[0], [-1.0], error.value.weights, error.value.V)["excess"] < 0


def test_jointly_infeasible_budgets():
    P = torch.ones(1, 2, 1, dtype=torch.float64)
    costs = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    mdp = TabularMDP(P, costs, torch.ones(1, dtype=torch.float64), 0.5)
    with pytest.raises(InfeasibleError, match="costs 1, 2 together"):
        solve(mdp, "cmdp", budgets=[0.9, 0.9], unit="discounted")


def test_scaling_and_state_permutation():
    mdp = problems(6, 2)
    budgets = least_cost(mdp) + 0.3
    s = solve(mdp, "cmdp", budgets=budgets, unit="discounted")
    scaled = replace_reward(mdp, mdp.r * torch.tensor([3.0, 2.0]).reshape(2, 1, 1))
    t = solve(scaled, "cmdp", budgets=2 * budgets, unit="discounted")
    assert torch.allclose(t.lower, 3 * s.lower, atol=1e-8)
    assert torch.allclose(t.multipliers, 1.5 * s.multipliers, atol=1e-7)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = TabularMDP(mdp.P[:, order][..., order], mdp.r[:, :, order], mdp.mu0[:, order], 0.9)
    assert torch.allclose(solve(moved, "cmdp", budgets=budgets, unit="discounted").lower, s.lower, atol=1e-9)


def test_wrong_answers_fail_the_check():
    mdp = problems(7, 2)
    options = {"budgets": least_cost(mdp) + 0.2, "unit": "discounted"}
    s = solve(mdp, "cmdp", **options)
    wrong = {
        "multipliers": -s.multipliers, "occupancy": s.occupancy.flip(-1), "V": s.V + 0.1, "policy": s.policy.flip(-1)
    }  # fmt: skip
    for name, value in wrong.items():
        assert not check(mdp, "cmdp", replace(s, **{name: value}), **options).holds, name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budgets": [1.0], "unit": "discount"}, "Did you mean 'discounted'"),
        ({"budgets": [1.0, 2.0], "unit": "discounted"}, "budgets must be 1 finite"),
        ({"budgets": [float("nan")], "unit": "discounted"}, "budgets must be 1 finite"),
        ({"budgets": [1.0], "unit": "episode"}, "discounts of 0 (end) or 1"),
        ({"budgets": [1.0], "unit": "average", "method": "lagrangian"}, "valid is lp"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(UserError) as error:
        solve(problems(8, 1)[0], "cmdp", **options)
    assert words in str(error.value)
