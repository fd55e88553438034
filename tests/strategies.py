"""Hypothesis strategies for problems. Structure is drawn (successor lists, integer rewards), so that failures shrink
to something readable; ill-conditioned input is avoided by construction, never filtered out.
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from fenchel.theory.games import MarkovGame, PreferenceGame
from fenchel.theory.mdp import TabularMDP

GAMMAS = (0.0, 0.5, 0.9, 0.99)
EXTREME_GAMMAS = (0.5, 0.99, 0.9999)


def weights(n: int) -> st.SearchStrategy[list[float]]:
    """n probabilities of width-32 floats that sum to one within rounding; none is tiny."""
    floats = st.floats(min_value=2**-7, max_value=1.0, width=32)
    return st.lists(floats, min_size=n, max_size=n).map(lambda w: (np.asarray(w) / np.sum(w)).tolist())


@st.composite
def distributions(draw, n: int, sparse: bool = True) -> torch.Tensor:
    """(n,) float64: a successor list with weights; with `sparse=False` every entry is positive."""
    p = torch.zeros(n, dtype=torch.float64)
    support = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True)) if sparse else list(range(n))
    p[support] = torch.tensor(draw(weights(len(support))), dtype=torch.float64)
    return p / p.sum()


@st.composite
def mdps(
    draw,
    max_states: int = 5,
    max_actions: int = 3,
    gammas: tuple[float, ...] = GAMMAS,
    channels: int | None = None,
    masked: bool = False,
    deterministic: bool = False,
    positive_start: bool = False,
    scale: float = 1.0,
) -> TabularMDP:
    """One MDP, float64: P from successor lists, rewards scale * {-2, ..., 2}, one gamma of `gammas`.

    masked: some actions may be missing (each state keeps one). positive_start: mu0 > 0 everywhere.
    """
    S, A = draw(st.integers(1, max_states)), draw(st.integers(1, max_actions))
    if deterministic:
        next_states = draw(st.lists(st.integers(0, S - 1), min_size=S * A, max_size=S * A))
        P = torch.nn.functional.one_hot(torch.tensor(next_states), S).double()
    else:
        P = torch.stack([draw(distributions(S)) for _ in range(S * A)])
    size = (channels or 1) * S * A
    rewards = draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    r = scale * torch.tensor(rewards, dtype=torch.float64).view(*([channels] if channels else []), S, A)
    mask = draw(masks(S, A)) if masked else None
    mu0 = draw(distributions(S, sparse=not positive_start))
    return TabularMDP(P.view(S, A, S), r, mu0, draw(st.sampled_from(gammas)), mask)


@st.composite
def masks(draw, num_states: int, num_actions: int) -> torch.Tensor:
    """(S, A) bool with at least one action in every state."""
    size = num_states * num_actions
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).view(num_states, num_actions)
    kept = draw(st.lists(st.integers(0, num_actions - 1), min_size=num_states, max_size=num_states))
    mask[torch.arange(num_states), torch.tensor(kept)] = True
    return mask


def extreme_mdps(**options) -> st.SearchStrategy[TabularMDP]:
    """Rewards of size 1e-6 or 1e6 and discounts up to 0.9999: to be judged by relative tolerances."""
    return st.sampled_from((1e-6, 1e6)).flatmap(lambda c: mdps(scale=c, gammas=EXTREME_GAMMAS, **options))


@st.composite
def policies(draw, mdp: TabularMDP, positive: bool = False) -> torch.Tensor:
    """(S, A) policy on the existing actions; `positive` gives each of them some probability."""
    rows = torch.zeros(mdp.num_states, mdp.num_actions, dtype=torch.float64)
    for s, available in enumerate(mdp.mask):
        rows[s, available] = draw(distributions(int(available.sum()), sparse=not positive))
    return rows


@st.composite
def matrices(draw, rows: int | None = None, columns: int | None = None, bound: int = 3) -> torch.Tensor:
    """Integer payoff matrix, float64."""
    m = rows or draw(st.integers(1, 4))
    n = columns or draw(st.integers(1, 4))
    entries = draw(st.lists(st.integers(-bound, bound), min_size=m * n, max_size=m * n))
    return torch.tensor(entries, dtype=torch.float64).view(m, n)


@st.composite
def preference_games(draw, max_responses: int = 4) -> PreferenceGame:
    """P(i beats j) in multiples of 1/8, so that cycles and ties are common."""
    n = draw(st.integers(2, max_responses))
    upper = torch.zeros(n, n, dtype=torch.float64)
    i, j = torch.triu_indices(n, n, 1)
    size = n * (n - 1) // 2
    upper[i, j] = torch.tensor(draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))).double() / 8
    return PreferenceGame(upper + torch.tril(1 - upper.mT, -1) + torch.eye(n).double() / 2)


@st.composite
def markov_games(draw, max_states: int = 3, max_actions: int = 2, gammas: tuple[float, ...] = (0.0, 0.5, 0.9)):
    """Zero-sum Markov games with successor lists and integer rewards."""
    S, A, B = (draw(st.integers(1, m)) for m in (max_states, max_actions, max_actions))
    P = torch.stack([draw(distributions(S)) for _ in range(S * A * B)]).view(S, A, B, S)
    r = torch.tensor(draw(st.lists(st.integers(-2, 2), min_size=S * A * B, max_size=S * A * B))).double()
    return MarkovGame(P, r.view(S, A, B), draw(distributions(S)), draw(st.sampled_from(gammas)))
