"""Constrained MDPs: channel 0 is the reward, channels 1, ..., K are costs (as `solve(..., "cmdp")` reads them)."""

from __future__ import annotations

from fenchel.theory.instances.build import Outcome, from_outcomes
from fenchel.theory.instances.generated import garnet
from fenchel.theory.instances.grids import FOUR_ROOMS, MOVES, cells
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.rng import Rng


def constrained_garnet(
    rng: Rng, n: int, num_states: int = 6, num_actions: int = 3, branching: int = 2, gamma: float = 0.9, costs: int = 1
) -> TabularMDP:
    """n Garnets with rewards and costs uniform in [0, 1], r (n, 1 + costs, S, A)."""
    mdp = garnet(rng, n, num_states, num_actions, branching, gamma)
    return replace_reward(mdp, rng.uniform(n, 1 + costs, num_states, num_actions))


def two_routes(fast: float = 1.0, slow: float = 0.4, danger: float = 1.0) -> TabularMDP:
    """One decision: `fast` pays more and costs `danger`, `slow` costs nothing.

    For 0 < budget < danger every optimal policy is random, takes the fast route with probability budget / danger and
    has the multiplier (fast - slow) / danger.
    """
    rows: list[Outcome] = [(0, 0, 1, 1.0, (fast, danger)), (0, 1, 1, 1.0, (slow, 0.0))]
    return from_outcomes(2, 2, rows, 1.0, terminal=[1], channels=2)


CONVEYORS = (
    "###########",
    "#.........#",
    "#.#######.#",
    "#....!....#",
    "#.#######.#",
    "#S>>!!!>>G#",
    "###########",
)


def conveyors(gamma: float = 0.95) -> TabularMDP:
    """A deterministic grid with three ways to the goal (reward 1): 8 moves and 3 costs of 1, 12 and one, 16 and none.

    `!` costs 1 per step in it; `>` moves right whatever the action, so that a robot on the two conveyors before the
    hazards is lost before it has paid anything: the largest safe set lacks them.
    """
    states = cells(CONVEYORS)
    where = {s: CONVEYORS[i][j] for (i, j), s in states.items()}
    rows: list[Outcome] = []
    for (i, j), s in states.items():
        for a, (di, dj) in enumerate(MOVES):
            t = states[i, j + 1] if where[s] == ">" else states.get((i + di, j + dj), s)
            if where[s] != "G":
                rows.append((s, a, t, 1, (float(where[t] == "G"), float(where[s] == "!"))))
    start, goal = (next(s for s, c in where.items() if c == mark) for mark in "SG")
    return from_outcomes(len(states), 4, rows, gamma, start, [goal], channels=2)


def hazard_rooms(slip: float = 0.1, gamma: float = 0.95, goal: tuple[int, int] | None = None) -> TabularMDP:
    """Four rooms with reward 1 at the goal and cost 1 in every cell of the upper right room.

    To the usual goal, in the corner, the way round is as long and nothing need be paid; to goal=(8, 9), a cell (row,
    column) behind the lower door of that room, it is four moves longer.
    """
    states = cells(FOUR_ROOMS)
    usual = next(s for (i, j), s in states.items() if FOUR_ROOMS[i][j] == "G")
    end = usual if goal is None else states[goal]
    rows: list[Outcome] = []
    for (i, j), s in states.items():
        if s == end:
            continue
        cost = float(i < 7 and j > 6)
        for a in range(4):
            for b, (di, dj) in enumerate(MOVES):
                p, t = slip / 4 + (1 - slip) * (a == b), states.get((i + di, j + dj), s)
                rows.append((s, a, t, p, (float(t == end), cost)))
    start = next(s for (i, j), s in states.items() if FOUR_ROOMS[i][j] == "S")
    return from_outcomes(len(states), 4, rows, gamma, start, [end], channels=2)
