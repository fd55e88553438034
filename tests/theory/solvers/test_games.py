"""Matrix, Markov and preference games against independent programs, enumeration and bracketing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.games import MarkovGame, PreferenceGame
from fenchel.theory.referees import games as referee
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.certificates import check


def preferences(rng, *shape):
    upper = torch.triu(rng.uniform(*shape), 1)
    return upper + torch.tril(1 - upper.mT, -1) + 0.5 * torch.eye(shape[-1], dtype=upper.dtype)


@pytest.mark.parametrize("method", ["kernels", "lp"])
@pytest.mark.parametrize(("m", "n", "integer"), [(3, 4, False), (4, 4, True), (1, 3, True), (2, 5, False)])
def test_zero_sum_matches_the_other_players_program(method, m, n, integer):
    A = 2 * Rng(m + n).normal(12, m, n)
    A = A.round() if integer else A
    s = solve(A, "zero_sum", method, 1e-9)
    assert s.certificate.holds
    assert check(A, "zero_sum", s, 1e-9).holds
    assert np.allclose(s.V, [referee.zero_sum_value(a.numpy()) for a in A], atol=1e-9)
    one = solve(A[5], "zero_sum", method)
    assert torch.allclose(one.V, s.V[5], atol=1e-9)


def test_zero_sum_scale_shift_and_swap():
    A = Rng(3).normal(8, 3, 3)
    V = solve(A, "zero_sum").V
    assert torch.allclose(solve(5 * A - 2, "zero_sum").V, 5 * V - 2, atol=1e-10)
    assert torch.allclose(solve(-A.mT, "zero_sum").V, -V, atol=1e-12)


def test_a_wrong_strategy_fails_the_check():
    A = Rng(4).normal(6, 3, 3)
    s = solve(A, "zero_sum")
    s.extra["x"][...] = 1 / 3
    assert not check(A, "zero_sum", s).holds


def test_nash_finds_all_equilibria():
    rng = Rng(5)
    for _ in range(10):
        A = rng.normal(2, 3, 3)
        s = solve(A, "nash", tol=1e-9)
        assert s.certificate.holds
        expected = {tuple(np.round(np.r_[x, y], 7)) for x, y in referee.support_equilibria(*A.numpy())}
        assert {tuple(np.round(np.r_[x, y], 7)) for x, y in zip(s.extra["x"], s.extra["y"], strict=True)} == expected


def test_nash_of_a_degenerate_game():
    A = torch.tensor([[[1.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    s = solve(A, "nash")
    assert s.certificate.holds
    assert len(s.V) >= 3


def test_correlated_welfare_and_order():
    rng = Rng(6)
    for _ in range(5):
        A = rng.normal(2, 3, 2)
        ce, cce = solve(A, "correlated"), solve(A, "coarse_correlated")
        assert ce.certificate.holds
        assert cce.certificate.holds
        for s, coarse in ((ce, False), (cce, True)):
            assert abs(float(s.V) - referee.correlated_welfare(*A.numpy(), coarse)) < 1e-6
        nash = solve(A, "nash").V.sum(-1).max()
        assert cce.V >= ce.V - 1e-9 >= nash - 2e-9


def test_correlated_of_three_players_is_certified_by_its_dual():
    s = solve(Rng(7).normal(3, 2, 3, 2), "correlated", tol=1e-8)
    assert s.certificate.holds
    assert abs(float(s.upper - s.lower)) < 1e-8


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.02])
def test_qre_fixed_point_and_distance_to_the_value(temperature):
    A = Rng(8).normal(6, 3, 4)
    s = solve(torch.stack([A, -A], 1), "qre", temperature=temperature)
    assert s.certificate.holds
    value = solve(A, "zero_sum").V
    assert ((s.V[:, 0] - value).abs() <= temperature * np.log(12)).all()


def test_markov_game_matches_shapley_iteration():
    rng = Rng(9)
    game = MarkovGame(rng.simplex(3, 3, 2, 3, 3), rng.normal(3, 3, 2, 3), rng.simplex(3, 3), 0.7)
    s = solve(game, "markov_game", tol=1e-8)
    assert s.certificate.holds
    for i in range(3):
        V = referee.shapley_values(game.P[i].numpy(), game.r[i].numpy(), 0.7, 60)
        assert np.allclose(s.V[i], V, atol=1e-7)
    single = MarkovGame(game.P[1], game.r[1], game.mu0[1], 0.7)
    assert torch.allclose(solve(single, "markov_game").V, s.V[1], atol=1e-8)
    s.policy[...] = 1 / 3 if s.policy.shape[-1] == 3 else 1 / 2
    assert not check(game, "markov_game", s).holds


def test_markov_game_with_one_column_is_an_mdp():
    rng = Rng(10)
    P, r = rng.simplex(4, 3, 1, 4), rng.normal(4, 3, 1)
    s = solve(MarkovGame(P, r, rng.simplex(4), 0.9), "markov_game")
    assert torch.allclose(s.V, (r + 0.9 * P @ s.V)[..., 0].amax(-1), atol=1e-8)


def test_regularised_markov_game():
    rng = Rng(11)
    game = MarkovGame(rng.simplex(2, 3, 2, 2, 3), rng.normal(2, 3, 2, 2), rng.simplex(2, 3), 0.8)
    s = solve(game, "markov_game", temperature=0.2)
    assert s.certificate.holds
    hard = solve(game, "markov_game").V
    assert ((s.V - hard).abs() <= 0.2 * np.log(2) / 0.2 + 1e-9).all()


def test_von_neumann_winner():
    P = preferences(Rng(12), 10, 4, 4)
    s = solve(PreferenceGame(P), "von_neumann")
    assert s.certificate.holds
    wins = torch.einsum("bi,bij->bj", s.policy, P)
    assert (wins >= 0.5 - 1e-9).all()
    cycle = torch.tensor([[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]], dtype=torch.float64)
    assert torch.allclose(solve(cycle, "von_neumann").policy, torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_kl_nash_of_two_answers_and_both_methods(alpha):
    for p in (0.5, 0.7, 0.95):
        P = torch.tensor([[0.5, p], [1 - p, 0.5]], dtype=torch.float64)
        x = solve(P, "kl_nash", alpha=alpha, reference=torch.tensor([0.3, 0.7], dtype=P.dtype)).policy
        assert abs(float(x[0]) - referee.kl_nash_two(p, alpha, 0.3)) < 1e-9
    P = preferences(Rng(13), 5, 4, 4)
    newton, mirror = (solve(P, "kl_nash", m, alpha=alpha) for m in ("newton", "mirror"))
    assert newton.certificate.holds
    assert mirror.certificate.holds
    assert torch.allclose(newton.policy, mirror.policy, atol=1e-8)


@pytest.mark.parametrize(
    ("problem", "criterion", "options", "words"),
    [
        (torch.tensor([[1.0, float("nan")]]), "zero_sum", {}, "not finite at index"),
        (torch.zeros(2, 2), "zero_sum", {"method": "lpp"}, "Did you mean"),
        (torch.zeros(3, 2, 2), "nash", {}, "one matrix per player"),
        (torch.zeros(2, 2), "von_neumann", {}, "P[i, j] + P[j, i] = 1"),
        (torch.full((2, 2), 0.5), "kl_nash", {"alpha": 0.0}, "must be positive"),
        (torch.zeros(2, 2, 2), "qre", {"temperature": -1.0}, "must be positive"),
    ],
)
def test_refusals(problem, criterion, options, words):
    with pytest.raises(UserError) as error:
        solve(problem, criterion, **options)
    assert words in str(error.value)


def test_a_suboptimal_equilibrium_fails_the_check():
    """Prisoners of a coordination game: the bad equilibrium is one, but its dual bound shows the better."""
    payoff = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    game = torch.stack([payoff, payoff])
    s = solve(game, "correlated")
    assert s.certificate.holds
    bad = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    residuals = check(game, "correlated", replace(s, policy=bad)).residuals
    assert residuals["regret"] <= 0
    assert residuals["gap"] > 1.5
