"""Small helpers for writing problems down: outcome lists, start distributions, terminal states.

A terminal state is absorbing with reward 0 and discount 0, so that its value is 0 whatever led there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP

Outcome = tuple[int, int, int, float, float | Sequence[float]]  # state, action, successor, probability, reward


@dataclass(frozen=True)
class Outcomes:
    """A problem as its outcomes: the exact MDP under any discount, and what a step pays, not only its mean.

    `start` is a state. Entering a state of `terminal` ends the episode.
    """

    num_states: int
    num_actions: int
    rows: tuple[Outcome, ...]
    start: int
    terminal: tuple[int, ...]
    channels: int | None = None

    def mdp(self, gamma: float) -> TabularMDP:
        return from_outcomes(
            self.num_states, self.num_actions, self.rows, gamma, self.start, self.terminal, self.channels
        )


def from_outcomes(
    num_states: int,
    num_actions: int,
    outcomes: Iterable[Outcome],
    gamma: float,
    start: int | Tensor = 0,
    terminal: Iterable[int] = (),
    channels: int | None = None,
) -> TabularMDP:
    """An MDP from (state, action, successor, probability, reward) rows, float64.

    Rows of one pair add up; a pair without rows does not exist (action mask). With `channels` every reward is a
    sequence of that length. Raises UserError when the rows of a pair do not sum to one.
    """
    P = torch.zeros(num_states, num_actions, num_states, dtype=torch.float64)
    r = torch.zeros(channels or 1, num_states, num_actions, dtype=torch.float64)
    mask = torch.zeros(num_states, num_actions, dtype=torch.bool)
    gammas = torch.full((num_states, num_actions), float(gamma), dtype=torch.float64)
    for s, a, t, p, reward in outcomes:
        P[s, a, t] += p
        r[:, s, a] += p * torch.as_tensor(reward, dtype=torch.float64)
        mask[s, a] = True
    for s in terminal:
        if mask[s].any():
            raise UserError(f"state {s} is terminal and has outcomes; valid is one of the two.")
        P[s, :, s], mask[s], gammas[s] = 1.0, True, 0.0
    P += (~mask)[..., None] * torch.eye(num_states, dtype=torch.float64)[:, None]
    mu0 = start if torch.is_tensor(start) else point(num_states, start)
    return TabularMDP(P, r if channels else r[0], mu0, gammas, None if mask.all() else mask)


def point(num_states: int, state: int) -> Tensor:
    """The distribution that always starts in `state`, (S,)."""
    return torch.nn.functional.one_hot(torch.tensor(state), num_states).double()


def uniform_over(num_states: int, states: Sequence[int]) -> Tensor:
    """The uniform distribution over `states`, (S,)."""
    mu0 = torch.zeros(num_states, dtype=torch.float64)
    mu0[list(states)] = 1 / len(states)
    return mu0
