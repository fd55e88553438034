"""Grid worlds drawn as text: `#` wall, `S` start (uniform over several), `G` goal, `X` pit, any other letter floor."""

from __future__ import annotations

from collections.abc import Sequence

from fenchel.theory.instances.build import Outcome, from_outcomes, uniform_over
from fenchel.theory.mdp import TabularMDP

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left

FOUR_ROOMS = (
    "#############",
    "#S    #     #",
    "#     #     #",
    "#           #",
    "#     #     #",
    "#     #     #",
    "## ####     #",
    "#     ### ###",
    "#     #     #",
    "#     #     #",
    "#           #",
    "#     #    G#",
    "#############",
)
CLIFF = (
    "            ",
    "            ",
    "            ",
    "SXXXXXXXXXXG",
)
STITCHING_MAZE = (
    "#########",
    "#S ### G#",
    "# ##### #",
    "#       #",
    "# ##### #",
    "#S ### g#",
    "#########",
)


def cells(rows: Sequence[str]) -> dict[tuple[int, int], int]:
    """(row, column) -> state number of every cell that is no wall, in reading order."""
    free = [(i, j) for i, line in enumerate(rows) for j, c in enumerate(line) if c != "#"]
    return {cell: state for state, cell in enumerate(free)}


def grid(
    rows: Sequence[str],
    entering: dict[str, float],
    terminal: str = "GX",
    slip: float = 0.0,
    step_reward: float = 0.0,
    gamma: float = 0.95,
) -> TabularMDP:
    """A grid world. Moves up, right, down, left; a wall or the border stops; `slip` spreads over all four moves.

    entering: reward for entering a cell of that letter, added to `step_reward`. Cells whose letter is in `terminal`
    end the episode.
    """
    states = cells(rows)
    ends = [s for (i, j), s in states.items() if rows[i][j] in terminal]
    outcomes: list[Outcome] = []
    for (i, j), s in states.items():
        if s in ends:
            continue
        for a in range(4):
            for b, (di, dj) in enumerate(MOVES):
                p = slip / 4 + (1 - slip) * (a == b)
                t = states.get((i + di, j + dj), s)
                x, y = (i + di, j + dj) if t != s else (i, j)
                if p > 0:
                    outcomes.append((s, a, t, p, step_reward + (entering.get(rows[x][y], 0.0) if t != s else 0.0)))
    starts = [s for (i, j), s in states.items() if rows[i][j] == "S"]
    return from_outcomes(len(states), 4, outcomes, gamma, uniform_over(len(states), starts), ends)


def four_rooms(slip: float = 0.1, gamma: float = 0.95) -> TabularMDP:
    """Four rooms (Sutton, Precup, Singh 1999): from one corner to the opposite one, reward 1 at the goal, 104 cells."""
    return grid(FOUR_ROOMS, {"G": 1.0}, slip=slip, gamma=gamma)


def cliff(slip: float = 0.0, gamma: float = 0.95) -> TabularMDP:
    """Cliff walking (Sutton and Barto, example 6.6), whose cliff ends the episode: -1 a step, -100 for falling."""
    return grid(CLIFF, {"X": -99.0}, slip=slip, step_reward=-1.0, gamma=gamma)


def stitching_maze(slip: float = 0.0, small: float = 0.2, gamma: float = 0.95) -> TabularMDP:
    """Two starts on the left, two goals on the right, one corridor between: `G` pays 1 and `g` pays `small`.

    A data set whose episodes from one start all end at `g` and from the other at `G` contains no good episode from
    the first start; only dynamic programming joins the halves (papers 13 and 28).
    """
    return grid(STITCHING_MAZE, {"G": 1.0, "g": small}, terminal="Gg", slip=slip, gamma=gamma)
