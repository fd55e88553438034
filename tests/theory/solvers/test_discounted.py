"""Discounted solvers against referees, their own bounds, metamorphic relations, and the faults found in peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from fenchel.errors import UserError
from fenchel.theory.instances.generated import dense, garnet, ring
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.referees import enumeration, linear_program, rational
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import bellman, solve
from fenchel.theory.solvers.certificates import check
from tests.strategies import extreme_mdps, masks, mdps

METHODS = ("vi", "mpi", "pi", "lp", "fused")


def pair_discounts(rng: Rng, n: int, S: int = 4, A: int = 3) -> TabularMDP:
    """Discounts differ per pair, some terminate, some actions are missing and hold nonsense."""
    mdp = garnet(rng, n, S, A)
    discount = 0.98 * rng.uniform(n, S, A) * (rng.uniform(n, S, A) > 0.2)
    mask = (rng.uniform(n, S, A) > 0.3) | (torch.arange(A) == 0)
    P = mdp.P.masked_fill(~mask[..., None], 7.0)
    return TabularMDP(P, mdp.r.masked_fill(~mask, 1e3), mdp.mu0, discount, mask)


def within(answer, V, slack=1e-12) -> bool:
    return bool((answer.lower <= V + slack).all() and (answer.upper >= V - slack).all())


@given(mdps(max_states=3))
@settings(max_examples=15)
def test_rational_policy_iteration_lies_between_the_bounds_of_every_method(mdp):
    exact = torch.tensor([float(v) for v in rational.optimal_values(mdp)], dtype=torch.float64)
    for method in METHODS:
        answer = solve(mdp, "discounted", method)
        assert within(answer, exact, 1e-13 * (1 + float(exact.abs().max()))), method
        assert check(mdp, "discounted", answer).holds, method


@given(mdps(max_states=4))
@settings(max_examples=25)
def test_enumeration_agrees(mdp):
    best = torch.as_tensor(enumeration.discounted_values(mdp).max(0))
    answer = solve(mdp, "discounted", "pi")
    torch.testing.assert_close(answer.V, best, atol=1e-9, rtol=1e-9)


@given(extreme_mdps(max_states=4))
@settings(max_examples=25)
def test_extreme_scales_keep_relative_certificates(mdp):
    best = torch.as_tensor(enumeration.discounted_values(mdp).max(0))
    for method in ("pi", "fused"):
        answer = solve(mdp, "discounted", method)
        assert answer.certificate.holds
        assert float((answer.V - best).abs().max()) <= 1e-8 * max(1.0, float(best.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_per_pair_discounts_masks_and_unused_numbers(method):
    mdp = pair_discounts(Rng(1), 20)
    answer = solve(mdp, "discounted", method)
    assert check(mdp, "discounted", answer, 1e-7).holds
    for i in range(20):
        best = torch.as_tensor(enumeration.discounted_values(mdp[i]).max(0))
        assert within(answer.__class__(lower=answer.lower[i], upper=answer.upper[i]), best)


@pytest.mark.parametrize("method", ["vi", "mpi", "pi", "lp"])
def test_undiscounted_steps_are_bounded_by_the_longest_time(method):
    """Discount 1 until termination: the weighted bounds still close, and are right."""
    base = garnet(Rng(2), 6, 4, 2)
    discount = torch.ones(6, 4, 2, 4, dtype=torch.float64)
    discount[..., 0] = 0.0  # entering state 0 ends the episode
    P = 0.8 * base.P + 0.2 * torch.eye(4, dtype=torch.float64)[0]
    mdp = TabularMDP(P, base.r, base.mu0, discount)
    answer = solve(mdp, "discounted", method)
    assert check(mdp, "discounted", answer, 1e-7).holds
    for i in range(6):
        best = torch.as_tensor(enumeration.discounted_values(mdp[i]).max(0))
        torch.testing.assert_close(answer.V[i], best, atol=1e-7, rtol=1e-7)


def test_a_policy_that_never_ends_is_refused():
    P = torch.eye(2, dtype=torch.float64)[:, None]
    mdp = TabularMDP(P, torch.ones(2, 1, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64), 1.0)
    for method in ("vi", "pi", "lp", "fused"):
        with pytest.raises(UserError, match="discount"):
            solve(mdp, "discounted", method)


def test_the_occupancy_program_agrees_and_the_duality_gap_closes():
    mdp = ring(Rng(3), 4, 12, 3)
    answer = solve(mdp, "discounted", "pi")
    for i in range(4):
        value, _ = linear_program.discounted_value(mdp[i])
        assert abs(value - float(mdp.mu0[i] @ answer.V[i])) < 1e-7
    torch.testing.assert_close(answer.occupancy.sum((-2, -1)), torch.full((4,), 1 / (1 - 0.95), dtype=torch.float64))


# -- metamorphic relations -------------------------------------------------------------------------------------------

MDP = garnet(Rng(4), 8, 5, 3)
V = solve(MDP, "discounted", "pi").V


@pytest.mark.parametrize("method", ["vi", "pi", "fused"])
def test_reward_shift_and_scale(method):
    shifted = solve(replace_reward(MDP, 3 * MDP.r + 2), "discounted", method).V
    torch.testing.assert_close(shifted, 3 * V + 2 / (1 - 0.9), atol=1e-6, rtol=0)


def test_permuting_states_and_actions():
    states, actions = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 1])
    P = MDP.P[:, states][:, :, actions][..., states]
    mdp = TabularMDP(P, MDP.r[:, states][:, :, actions], MDP.mu0[:, states], MDP.discount[:, states][:, :, actions])
    torch.testing.assert_close(solve(mdp, "discounted", "pi").V, V[:, states])


def test_potential_shaping_moves_values_and_keeps_policies():
    potential = Rng(5).normal(8, 5)
    r = MDP.r + (MDP.kernel @ potential[:, None, :, None])[..., 0] - potential[..., None]
    shaped = solve(replace_reward(MDP, r), "discounted", "pi")
    torch.testing.assert_close(shaped.V, V - potential)
    assert torch.equal(shaped.policy, solve(MDP, "discounted", "pi").policy)


def test_a_duplicated_state_keeps_values():
    P = torch.cat([MDP.P, MDP.P[:, :1]], 1)
    P = torch.cat([P, P[..., :1] / 2], -1)
    P[..., 0] /= 2
    r, mu0 = torch.cat([MDP.r, MDP.r[:, :1]], 1), torch.cat([MDP.mu0, torch.zeros(8, 1)], 1)
    doubled = solve(TabularMDP(P, r, mu0, 0.9), "discounted", "pi").V
    torch.testing.assert_close(doubled, torch.cat([V, V[:, :1]], 1))


def test_discount_zero_is_the_best_reward():
    mdp = TabularMDP(MDP.P, MDP.r, MDP.mu0, 0.0)
    for method in METHODS:
        torch.testing.assert_close(solve(mdp, "discounted", method).V, MDP.r.amax(-1))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_problems_one_by_one(method):
    batch = solve(MDP.map(lambda t: t.reshape(2, 4, *t.shape[1:])), "discounted", method)
    assert batch.V.shape == (2, 4, 5)
    for i in range(8):
        single = solve(MDP[i], "discounted", method)
        torch.testing.assert_close(batch.V[i // 4, i % 4], single.V, atol=1e-11, rtol=0)
        assert int(batch.iterations[i // 4, i % 4]) == int(single.iterations)


def test_float32_is_within_its_rounding_of_float64():
    """Both are computed in float64; the inputs differ by 2^-24, the value by at most that times |V| / (1 - gamma)."""
    answer = solve(MDP.to(dtype=torch.float32), "discounted", "pi")
    assert answer.V.dtype == torch.float32
    budget = 2**-24 * (1 + 5 * float(V.abs().max())) / (1 - 0.9) * 2
    assert float((answer.V.double() - V).abs().max()) <= budget


# -- the kernel and the torch solver ---------------------------------------------------------------------------------


@given(mdps(max_states=4))
@settings(max_examples=25)
def test_the_fused_kernel_equals_torch(mdp):
    ours, fused = solve(mdp, "discounted", "pi"), solve(mdp, "discounted", "fused")
    torch.testing.assert_close(fused.V, ours.V, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close((fused.policy * ours.Q.nan_to_num(neginf=0)).sum(-1), ours.V, atol=1e-9, rtol=1e-9)


def test_the_fused_kernel_equals_torch_on_a_batch_with_masks():
    """Large enough that torch eliminates by hand and lets problems that are done leave the batch."""
    mdp = pair_discounts(Rng(6), 300, 6)
    fused, ours = solve(mdp, "discounted", "fused"), solve(mdp, "discounted", "pi")
    assert ours.iterations.max() > ours.iterations.min() + 1
    for name in ("V", "Q", "policy", "iterations"):
        torch.testing.assert_close(getattr(fused, name), getattr(ours, name))
    assert check(mdp, "discounted", ours, 1e-12).holds
    assert check(mdp, "discounted", fused, 1e-12).holds


def test_elimination_by_hand_equals_lapack_and_refuses_what_is_singular():
    mdp = pair_discounts(Rng(10), 100, 7)
    kernel, reward = bellman.flatten(mdp).greedy(mdp.mask.to(torch.int8).argmax(-1))
    torch.testing.assert_close(bellman._solve(kernel, reward), bellman.evaluate(kernel, reward))
    kernel[3] = torch.eye(7)
    with pytest.raises(RuntimeError, match="singular"):
        bellman._solve(kernel, reward)


# -- faults found in peers -------------------------------------------------------------------------------------------


def test_value_iteration_is_right_where_a_span_stop_alone_is_off_by_its_shift():
    """A mixing MDP: the span falls in a few sweeps while V is still far away (a peer returned V off by 83)."""
    mdp = dense(Rng(7), 1, 40, 4, gamma=0.99)[0]
    exact, answer = solve(mdp, "discounted", "pi").V, solve(mdp, "discounted", "vi")
    assert int(answer.iterations) < 30
    assert float((answer.V - exact).abs().max()) < 1e-7
    sweeps = torch.zeros(40, dtype=torch.float64)
    for _ in range(int(answer.iterations)):
        sweeps = (mdp.r + mdp.kernel @ sweeps).amax(-1)
    assert float((sweeps - exact).abs().max()) > 1  # plain sweeps are nowhere near


def test_rows_off_by_rounding_are_accepted():
    """A peer's tolerance of 10 eps refuses rows that sum to 1 +- 3e-15."""
    P = MDP.P * (1 + 3e-15)
    assert solve(TabularMDP(P, MDP.r, MDP.mu0, 0.9), "discounted", "pi").certificate.holds


def test_tiny_probabilities_do_not_move_the_linear_program():
    """HiGHS drops coefficients below 1e-9: rows must keep their sums, or V moves by the lost mass / (1 - gamma)."""
    rng = Rng(8)
    P = dense(rng, 1, 30, 2).P[0]
    P = torch.cat([P[..., :10], torch.full((30, 2, 20), 9e-10, dtype=torch.float64)], -1)
    P[..., :10] *= ((1 - 20 * 9e-10) / P[..., :10].sum(-1))[..., None]
    mdp = TabularMDP(P, 100 * rng.uniform(30, 2, low=0.5), torch.ones(30, dtype=torch.float64) / 30, 0.999)
    lp, exact = solve(mdp, "discounted", "lp"), solve(mdp, "discounted", "pi")
    kept = float((lp.V - exact.V).abs().max() / exact.V.abs().max())
    assert kept < 1e-8 < 20 * 9e-10 * 1000 / 2  # what a naive cleaning loses


def test_ties_do_not_make_policy_iteration_cycle():
    mdp = TabularMDP(MDP.P[:, :, :1].expand(-1, -1, 3, -1), torch.ones(8, 5, 3, dtype=torch.float64), MDP.mu0, 0.999)
    for dtype in (torch.float32, torch.float64):
        for method in ("pi", "fused"):
            assert int(solve(mdp.to(dtype=dtype), "discounted", method).iterations.max()) <= 2


# -- refusals --------------------------------------------------------------------------------------------------------


def test_what_is_refused():
    for call, words in [
        (lambda: solve(MDP, "discounted", "pii"), "method=pii is unknown"),
        (lambda: solve(MDP, "discountd"), "Did you mean 'discounted'"),
        (lambda: solve(garnet(Rng(0), 2, channels=2)), "channels"),
        (lambda: solve(MDP, "evaluation", policy=torch.ones(8, 5, 3)), "policy is not a distribution"),
        (lambda: check(MDP, "discountd", None), "Did you mean 'discounted'"),
        (lambda: solve(ring(Rng(0), 1, gamma=0.999), "discounted", "vi", limit=20), "tol="),
    ]:
        with pytest.raises(UserError, match=words):
            call()


def test_evaluation_agrees_with_enumeration():
    """V of a random policy on a masked MDP equals the enumeration's row of that policy."""
    mdp = pair_discounts(Rng(9), 1, 3, 2)[0]
    values = enumeration.discounted_values(mdp)
    for row, actions in zip(values, enumeration.policies(mdp), strict=True):
        policy = torch.zeros(3, 2, dtype=torch.float64)
        policy[torch.arange(3), torch.as_tensor(np.array(actions))] = 1.0
        answer = solve(mdp, "evaluation", policy=policy)
        np.testing.assert_allclose(answer.V.numpy(), row, atol=1e-12)
        assert check(mdp, "evaluation", answer, policy=policy).holds


@given(mdps(max_states=4).flatmap(lambda m: masks(m.num_states, m.num_actions).map(lambda k: (m, k))))
@settings(max_examples=25)
def test_masks_agree_with_enumeration(pair):
    mdp, mask = pair
    masked = TabularMDP(mdp.P, mdp.r, mdp.mu0, mdp.discount, mask)
    best = torch.as_tensor(enumeration.discounted_values(masked).max(0))
    for method in ("mpi", "pi", "fused"):
        assert within(solve(masked, "discounted", method), best, 1e-10), method
