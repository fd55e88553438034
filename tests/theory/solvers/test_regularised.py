"""Soft values and f-divergence regularised occupancies against cvxpy's primal and numerical conjugates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from fenchel.errors import UserError
from fenchel.theory.divergences import get_divergence
from fenchel.theory.instances.generated import garnet, ring
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.referees import conjugation, convex
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.certificates import check
from tests.strategies import mdps

MDP = garnet(Rng(0), 4, 5, 3)
NAMES = ["kl", "chi2", "soft_chi2", "reverse_kl", "hellinger", "js", "alpha:0.5", "alpha:1.5", "alpha:3", "alpha:6"]
FUNCTIONS = {  # written again from the definitions
    "kl": lambda w: np.where(w > 0, w * np.log(np.maximum(w, 1e-300)), 0) - w + 1,
    "chi2": lambda w: (w - 1) ** 2,
    "reverse_kl": lambda w: -np.log(np.maximum(w, 1e-300)) + w - 1,
    "hellinger": lambda w: (np.sqrt(w) - 1) ** 2,
    "alpha:1.5": lambda w: (w**1.5 - 1 - 1.5 * (w - 1)) / 0.75,
    "alpha:3": lambda w: (w**3 - 1 - 3 * (w - 1)) / 6,
}


# -- soft and KL-regularised -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vi", "pi"])
def test_soft_values_agree_with_the_convex_program(method):
    reference = Rng(1).simplex(4, 5, 3)
    for alpha in (1.0, 0.2):
        entropy, kl = (solve(MDP, "soft", method, alpha=alpha, reference=ref) for ref in (None, reference))
        for i in range(4):
            mu0 = MDP.mu0[i]
            assert abs(convex.soft_value(MDP[i], alpha, np.ones((5, 3))) - float(mu0 @ entropy.V[i])) < 1e-6
            assert abs(convex.soft_value(MDP[i], alpha, reference[i].numpy()) - float(mu0 @ kl.V[i])) < 1e-6
        assert check(MDP, "soft", entropy, alpha=alpha).holds
        assert check(MDP, "soft", kl, alpha=alpha, reference=reference).holds
        assert not check(MDP, "soft", kl, alpha=alpha).holds


def test_soft_tends_to_hard_and_no_bonus_is_lost():
    hard = solve(MDP, "discounted", "pi").V
    soft = solve(MDP, "soft", alpha=1e-4)
    assert ((soft.V >= hard - 1e-12) & (soft.V <= hard + 1e-4 * np.log(3) / 0.1 + 1e-12)).all()


@given(mdps(max_states=4, masked=True))
@settings(max_examples=25)
def test_soft_certificates_hold_with_masks_and_pair_discounts(mdp):
    answer = solve(mdp, "soft", alpha=0.5)
    assert answer.certificate.holds
    assert check(mdp, "soft", answer, alpha=0.5).holds


def test_pair_discounts_have_valid_soft_bounds_at_every_tolerance():
    mdp = TabularMDP(MDP.P, MDP.r, MDP.mu0, Rng(2).uniform(4, 5, 3))
    exact = solve(mdp, "soft", "pi", tol=1e-12, alpha=0.3).V
    for tol in (1.0, 0.1, 1e-3):
        answer = solve(mdp, "soft", "vi", tol, alpha=0.3)
        assert ((answer.lower <= exact + 1e-12) & (exact <= answer.upper + 1e-12)).all()


def test_soft_shift_and_joint_scale():
    V = solve(MDP, "soft", alpha=0.5).V
    scaled = solve(replace_reward(MDP, 3 * MDP.r + 2), "soft", alpha=1.5).V
    torch.testing.assert_close(scaled, 3 * V + 2 / (1 - 0.9))


def test_a_reference_without_support_forbids_the_action():
    reference = torch.zeros(4, 5, 3, dtype=torch.float64)
    reference[..., 0] = 1.0
    answer = solve(MDP, "soft", alpha=0.5, reference=reference)
    torch.testing.assert_close(answer.V, solve(MDP, "evaluation", policy=reference).V)


# -- regularised occupancies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["kl", "chi2", "alpha:3"])
@pytest.mark.parametrize("alpha", [1.0, 0.1])
def test_the_dual_agrees_with_the_primal_program(divergence, alpha):
    answer = solve(MDP, "occupancy_dual", tol=1e-10, divergence=divergence, alpha=alpha)
    for i in range(4):
        value, d = convex.occupancy_value(MDP[i], divergence, alpha, answer.extra["reference"][i].numpy())
        assert abs(value - float(answer.upper[i])) < 1e-5
        np.testing.assert_allclose(answer.occupancy[i].numpy(), d, atol=2e-3)


@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("alpha", [10.0, 1.0, 0.05])
def test_gap_flow_and_optimality_conditions(divergence, alpha):
    options = dict(divergence=divergence, alpha=alpha)
    answer = solve(MDP, "occupancy_dual", tol=1e-10, **options)
    certificate = check(MDP, "occupancy_dual", answer, 1e-10, **options)
    assert certificate.holds, certificate.residuals
    assert float((answer.upper - answer.lower).max()) <= 1e-10 * float(answer.upper.abs().max().clamp(min=1))


@pytest.mark.parametrize("divergence", FUNCTIONS)
def test_the_dual_value_agrees_with_numerical_conjugates(divergence):
    answer = solve(MDP, "occupancy_dual", divergence=divergence, alpha=0.5)
    for i in range(4):
        ref, V = answer.extra["reference"][i].numpy(), answer.V[i].numpy()
        value = conjugation.dual_value(MDP[i], FUNCTIONS[divergence], 0.5, ref, V)
        assert abs(value - float(answer.upper[i])) < 1e-6
        w = answer.extra["w"][i].numpy()
        primal = (answer.occupancy[i] * MDP.r[i]).sum().item() - 0.5 * (ref * FUNCTIONS[divergence](w)).sum()
        assert abs(primal - float(answer.lower[i])) < 1e-9


@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_newton_and_the_interior_point_meet(alpha):
    options = dict(divergence="chi2", alpha=alpha, tol=1e-11)
    newton, interior = (solve(MDP, "occupancy_dual", method, **options) for method in ("newton", "interior"))
    torch.testing.assert_close(interior.occupancy, newton.occupancy, atol=1e-5, rtol=0)
    torch.testing.assert_close(interior.upper, newton.upper, atol=1e-9, rtol=1e-10)


def test_where_newton_stalls_the_default_does_not():
    mdp, options = garnet(Rng(0), 16, 5, 3), dict(divergence="alpha:3", alpha=0.01)
    with pytest.raises(UserError, match="duality gap"):
        solve(mdp, "occupancy_dual", "newton", 1e-10, limit=50, **options)
    answer = solve(mdp, "occupancy_dual", tol=1e-10, limit=50, **options)
    assert check(mdp, "occupancy_dual", answer, 1e-10, **options).holds


def test_large_alpha_stays_with_the_data_and_small_alpha_finds_the_optimum():
    near = solve(MDP, "occupancy_dual", alpha=1e5)
    assert float((near.extra["w"] - 1).abs().max()) < 1e-2
    best = (MDP.mu0 * solve(MDP, "discounted", "pi").V).sum(-1)
    far = solve(MDP, "occupancy_dual", alpha=1e-3)
    reached = (far.occupancy * MDP.r).sum((-2, -1))
    assert ((best - reached) < 1e-2 * best.abs().clamp(min=1)).all()


def test_exp_never_overflows_for_large_rewards():
    mdp = replace_reward(MDP, 1e3 * MDP.r)
    answer = solve(mdp, "occupancy_dual", tol=1e-9, alpha=1.0)
    assert answer.certificate.holds
    assert torch.isfinite(answer.V).all()


def test_a_shift_of_the_reward_moves_values_by_the_horizon_and_keeps_the_occupancy():
    answer = solve(MDP, "occupancy_dual", alpha=0.5)
    moved = solve(replace_reward(MDP, MDP.r + 2), "occupancy_dual", alpha=0.5)
    torch.testing.assert_close(moved.V, answer.V + 20, atol=1e-5, rtol=0)
    torch.testing.assert_close(moved.occupancy, answer.occupancy, atol=1e-5, rtol=0)


def test_a_batch_is_its_problems_one_by_one():
    batch = solve(MDP, "occupancy_dual", divergence="chi2", alpha=0.2, tol=1e-12)
    for i in range(4):
        single = solve(MDP[i], "occupancy_dual", divergence="chi2", alpha=0.2, tol=1e-12)
        torch.testing.assert_close(batch.occupancy[i], single.occupancy, atol=1e-8, rtol=0)


def test_supports_narrower_than_the_problem():
    """A behaviour that never takes action 2: neither does the optimum, and unreached states do no harm."""
    mdp = ring(Rng(3), 2, 8, 3)
    behaviour = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).expand(2, 8, 3)
    options = dict(divergence="kl", alpha=0.3, behaviour=behaviour)
    answer = solve(mdp, "occupancy_dual", tol=1e-10, **options)
    assert float(answer.occupancy[..., 2].abs().max()) == 0
    assert check(mdp, "occupancy_dual", answer, 1e-10, **options).holds
    P = torch.eye(3, dtype=torch.float64)[torch.tensor([[1, 1], [1, 0], [2, 2]])]
    corner = TabularMDP(
        P,
        torch.rand(3, 2, generator=torch.Generator().manual_seed(0)).double(),
        torch.tensor([1.0, 0, 0]).double(),
        0.9,
    )
    assert check(corner, "occupancy_dual", solve(corner, "occupancy_dual"), 1e-10).holds


def test_what_is_refused():
    stuck = torch.zeros(4, 5, 3, dtype=torch.float64)
    stuck[:, 0] = 1.0
    for options, words in [
        (dict(divergence="tv"), "strictly convex"),
        (dict(divergence="kll"), "Did you mean 'kl'"),
        (dict(alpha=0.0), "alpha=0.0"),
        (dict(reference=stuck), "no action at state"),
        (dict(reference=-torch.ones(4, 5, 3)), ">= 0"),
        (dict(behaviour=torch.ones(4, 5, 3)), "behaviour is not a distribution"),
    ]:
        with pytest.raises(UserError, match=words):
            solve(MDP, "occupancy_dual", **options)
    with pytest.raises(UserError, match="method=interior needs"):
        solve(MDP, "occupancy_dual", "interior", divergence="kl")
    with pytest.raises(UserError, match="alpha=-1"):
        solve(MDP, "soft", alpha=-1)


# -- mutations -------------------------------------------------------------------------------------------------------


def _wrong_answers():
    """(criterion, options, a right answer, what a sign, a discount or a factor that is wrong would have returned)."""
    right = solve(MDP, "discounted", "pi")
    for name, wrong in {
        "sign": solve(replace_reward(MDP, -MDP.r), "discounted", "pi"),
        "discount": solve(TabularMDP(MDP.P, MDP.r, MDP.mu0, 0.95), "discounted", "pi"),
        "factor": solve(replace_reward(MDP, 1.001 * MDP.r), "discounted", "pi"),
    }.items():
        yield name, "discounted", {}, right, wrong
    right = solve(MDP, "soft", alpha=0.5)
    yield "temperature", "soft", {"alpha": 0.5}, right, solve(MDP, "soft", alpha=0.6)
    bonus = dataclasses.replace(right, V=right.V + 0.01, lower=right.lower + 0.01, upper=right.upper + 0.01)
    yield "shift", "soft", {"alpha": 0.5}, right, bonus
    right = solve(MDP, "occupancy_dual", alpha=0.5)
    yield "half", "occupancy_dual", {"alpha": 0.5}, right, solve(MDP, "occupancy_dual", alpha=0.25)
    yield "f", "occupancy_dual", {"alpha": 0.5}, right, solve(MDP, "occupancy_dual", divergence="chi2", alpha=0.5)
    normalised = dataclasses.replace(right, occupancy=0.1 * right.occupancy)
    yield "normalisation", "occupancy_dual", {"alpha": 0.5}, right, normalised


def test_the_checker_tells_right_from_wrong():
    for name, criterion, options, right, wrong in _wrong_answers():
        assert check(MDP, criterion, right, **options).holds, name
        assert not check(MDP, criterion, wrong, **options).holds, name


def test_the_checker_sees_what_is_not_a_number():
    answer = solve(MDP, "discounted", "pi")
    broken = dataclasses.replace(answer, V=answer.V * torch.nan)
    assert not check(MDP, "discounted", broken).holds


def test_conjugates_of_the_referee_and_of_the_divergence_agree():
    y = np.linspace(-3, 0.9, 40)
    for name, f in FUNCTIONS.items():
        value, w = conjugation.conjugate_nonneg(f, y)
        div = get_divergence(name)
        np.testing.assert_allclose(value, div.conjugate_nonneg(torch.as_tensor(y)).numpy(), atol=1e-7)
        np.testing.assert_allclose(w, div.ratio(torch.as_tensor(y)).numpy(), atol=1e-4)
