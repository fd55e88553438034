"""Games: validation, and payoffs by explicit sums."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from strategies import markov_games, preference_games

from fenchel.errors import UserError
from fenchel.theory.games import MarkovGame, MatrixGame, PreferenceGame
from fenchel.theory.instances import chicken, condorcet, random_markov_game, rock_paper_scissors
from fenchel.theory.rng import Rng


def test_value_of_three_players_by_enumeration():
    rng = Rng(0)
    game = MatrixGame(rng.normal(2, 3, 2, 3, 4), num_players=3)
    x, y, z = rng.simplex(2, 2), rng.simplex(2, 3), rng.simplex(2, 4)
    expected = torch.zeros(2, 3).double()
    for a, b, c in itertools.product(range(2), range(3), range(4)):
        expected += (x[:, a] * y[:, b] * z[:, c])[:, None] * game.payoffs[:, :, a, b, c]
    assert torch.allclose(game.value(x, y, z), expected)
    second = game.action_values(1, x, y, z)
    assert torch.allclose((second * y).sum(-1), expected[:, 1])
    assert torch.allclose(second[:, 2], game.value(x, torch.tensor([0.0, 0, 1]).double().expand(2, 3), z)[:, 1])


def test_nash_gap():
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    game = rock_paper_scissors()
    assert torch.allclose(game.nash_gap(third, third), torch.zeros(2).double())
    pure = torch.tensor([1.0, 0.0, 0.0]).double()
    assert game.nash_gap(pure, third).tolist() == pytest.approx([0.0, 1.0])
    dare, give = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    assert torch.allclose(chicken().nash_gap(dare, give), torch.zeros(2).double())


@given(markov_games())
def test_markov_value_satisfies_bellman(game):
    S, A, B = game.r.shape
    x, y = torch.full((S, A), 1 / A).double(), torch.full((S, B), 1 / B).double()
    V = game.value(x, y)
    backup = game.r + game.kernel @ V
    assert torch.allclose(torch.einsum("sa,sb,sab->s", x, y, backup), V, atol=1e-9)


def test_batched_markov_game():
    game = random_markov_game(Rng(0), 4)
    x, y = Rng(1).simplex(4, 3, 2), Rng(2).simplex(4, 3, 2)
    single = MarkovGame(game.P[2], game.r[2], game.mu0[2], 0.9)
    assert torch.allclose(game.value(x, y)[2], single.value(x[2], y[2]))


def test_joint_mdp_numbers_actions_row_by_row():
    game = random_markov_game(Rng(0), 1, rows=2, columns=3)
    assert torch.equal(game.as_mdp().P[0, 1, 0 * 3 + 2], game.P[0, 1, 0, 2])


@given(preference_games())
def test_preference_game(game):
    n = game.num_responses
    x = torch.full((n,), 1 / n).double()
    assert torch.allclose(game.margins, -game.margins.mT)
    assert float(game.win_rate(x, x)) == pytest.approx(0.5)
    best = max(float(game.win_rate(e, x)) for e in torch.eye(n).double())
    assert float(game.exploitability(x)) == pytest.approx(best - 0.5)


def test_condorcet_is_won_by_the_uniform_policy_only():
    game = condorcet()
    assert float(game.exploitability(torch.full((3,), 1 / 3, dtype=torch.float64))) == pytest.approx(0.0)
    assert float(game.exploitability(torch.tensor([1.0, 0, 0]).double())) == pytest.approx(0.5)


def test_bradley_terry():
    P = PreferenceGame.bradley_terry(torch.tensor([[0.0, 2.0]]).double()).P
    assert float(P[0, 1, 0]) == pytest.approx(1 / (1 + torch.tensor(-2.0).exp().item()))


HALF = torch.full((2, 2), 0.5).double()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: PreferenceGame(torch.ones(2, 3)), "preference must be (..., Y, Y), not (2, 3)."),
        (
            lambda: PreferenceGame(HALF + torch.tensor([[0, 0.1], [0, 0]])),
            "preference must satisfy P[i, j] + P[j, i] = 1; it does not at (0, 1).",
        ),
        (
            lambda: PreferenceGame(HALF + torch.tensor([[0, 0.6], [-0.6, 0]])),
            "preference must lie in [0, 1]; it does not at (0, 1).",
        ),
        (
            lambda: MatrixGame(torch.ones(3, 2, 2)),
            "payoffs must be (..., N, A_1, ..., A_N) with N = 2 players, not (3, 2, 2).",
        ),
        (lambda: MatrixGame(torch.full((2, 1, 1), torch.inf)), "payoffs are not finite at [0, 0, 0]."),
        (
            lambda: MarkovGame(torch.ones(2, 1, 2, 2).double(), torch.zeros(2, 1, 2).double(), HALF[0], 0.9),
            "P sums to 2, not 1, at state 0, action 0.",
        ),
        (
            lambda: MarkovGame(HALF.expand(2, 1, 2, 2), torch.zeros(2, 2).double(), HALF[0], 0.9),
            "r must be (..., S, A, B) and mu0 (..., S) to match P, not (2, 2) and (2,).",
        ),
        (
            lambda: MarkovGame(HALF.expand(2, 1, 2, 2), torch.zeros(2, 1, 2).double(), HALF[0], 1.5),
            "discount is 1.5, outside [0, 1], at state 0, action 0.",
        ),
    ],
)
def test_refused_in_one_sentence(make, sentence):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == sentence
