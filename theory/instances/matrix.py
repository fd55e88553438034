"""Named and random games."""

from __future__ import annotations

import torch

from fenchel.theory.games import MarkovGame, MatrixGame, PreferenceGame
from fenchel.theory.rng import Rng

CYCLE = ((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0))


def rock_paper_scissors() -> MatrixGame:
    """Zero-sum; the uniform pair is the only equilibrium, and simultaneous gradient play circles it (241, 257)."""
    return MatrixGame.zero_sum(torch.tensor(CYCLE, dtype=torch.float64))


def condorcet(strength: float = 1.0) -> PreferenceGame:
    """Three responses in a cycle, each beats the next with probability (1 + strength) / 2 (158, 241)."""
    return PreferenceGame.from_margins(strength * torch.tensor(CYCLE, dtype=torch.float64))


def prisoners_dilemma() -> MatrixGame:
    """Actions (cooperate, defect); the only equilibrium is inefficient."""
    row = torch.tensor([[3.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    return MatrixGame.bimatrix(row, row.mT)


def chicken() -> MatrixGame:
    """Actions (dare, yield): correlated equilibria reach a welfare that no Nash equilibrium reaches (Aumann 1974)."""
    row = torch.tensor([[0.0, 7.0], [2.0, 6.0]], dtype=torch.float64)
    return MatrixGame.bimatrix(row, row.mT)


def random_matrix_game(rng: Rng, n: int, rows: int = 3, columns: int = 3) -> MatrixGame:
    """n general-sum games with standard normal payoffs."""
    return MatrixGame(rng.normal(n, 2, rows, columns))


def random_preference_game(rng: Rng, n: int, responses: int = 4) -> PreferenceGame:
    """n games whose margins are uniform in (-1, 1), cycles included."""
    upper = torch.triu(rng.uniform(n, responses, responses, low=-1.0), 1)
    return PreferenceGame.from_margins(upper - upper.mT)


def random_markov_game(
    rng: Rng, n: int, num_states: int = 3, rows: int = 2, columns: int = 2, gamma: float = 0.9
) -> MarkovGame:
    """n zero-sum Markov games, transitions uniform on the simplex, rewards standard normal."""
    shape = (n, num_states, rows, columns)
    return MarkovGame(rng.simplex(*shape, num_states), rng.normal(*shape), rng.simplex(n, num_states), gamma)
