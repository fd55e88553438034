"""Multi-objective MDPs: r (K, S, A), all channels to be maximised.

The three named problems have the states, actions (up, down, left, right; left, right in the tree) and rewards of
mo-gymnasium's environments; `envs.multi_objective` steps the same outcome tables, and a test compares the two.
"""

from __future__ import annotations

from fenchel.errors import UserError, unknown
from fenchel.theory.instances.build import Outcome, Outcomes
from fenchel.theory.instances.fruits import DEPTHS as TREES
from fenchel.theory.instances.fruits import fruits
from fenchel.theory.instances.generated import garnet
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng

MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right
DEPTHS = (1, 2, 3, 4, 4, 4, 7, 7, 9, 10, 11)  # row of each column's treasure; the eleventh column is open water
TREASURES = {
    "convex": (0.7, 8.2, 11.5, 14.0, 15.1, 16.1, 19.6, 20.3, 22.4, 23.7),  # Yang et al. 2019
    "concave": (1.0, 2.0, 3.0, 5.0, 8.0, 16.0, 24.0, 50.0, 74.0, 124.0),  # Vamplew et al. 2011
}
ROWS = 11


def multi_objective_garnet(
    rng: Rng,
    n: int,
    num_states: int = 5,
    num_actions: int = 3,
    branching: int = 2,
    gamma: float = 0.9,
    channels: int = 2,
) -> TabularMDP:
    """n Garnets with `channels` standard normal rewards."""
    return garnet(rng, n, num_states, num_actions, branching, gamma, channels)


def sea_cells() -> list[tuple[int, int]]:
    """(row, column) of every state of deep sea treasure, in order."""
    return [(i, j) for i in range(ROWS) for j in range(len(DEPTHS)) if i <= DEPTHS[j]]


def deep_sea_treasure_outcomes(front: str = "concave") -> Outcomes:
    if front not in TREASURES:
        raise unknown("front", front, TREASURES)
    sea, treasures = sea_cells(), TREASURES[front]
    number = {cell: s for s, cell in enumerate(sea)}
    ends = [number[DEPTHS[j], j] for j in range(len(treasures))]
    rows: list[Outcome] = []
    for (i, j), s in number.items():
        if s in ends:
            continue
        for a, (di, dj) in enumerate(MOVES):
            t = number.get((i + di, j + dj), s)
            value = treasures[sea[t][1]] if t in ends else 0.0
            rows.append((s, a, t, 1.0, (value, -1.0)))
    return Outcomes(len(sea), 4, tuple(rows), number[0, 0], tuple(ends), 2)


def deep_sea_treasure(front: str = "concave", gamma: float = 0.99) -> TabularMDP:
    """Deep sea treasure (Vamplew et al. 2011): channels (treasure, -1 per step).

    A treasure ends the episode and nothing else does, so gamma < 1. Linear weights find only part of the concave front.
    """
    return deep_sea_treasure_outcomes(front).mdp(gamma)


def resource_gathering_outcomes(attack: float = 0.1) -> Outcomes:
    home, gold, gem, enemies, end = (4, 2), (0, 2), (1, 4), ((0, 3), (1, 2)), 100
    rows: list[Outcome] = []
    for s in range(100):
        cell, bag = divmod(s, 4)
        for a, (di, dj) in enumerate(MOVES):
            x = min(max(cell // 5 + di, 0), 4), min(max(cell % 5 + dj, 0), 4)
            risk = attack if x in enemies else 0.0
            full = bag | (x == gold) | 2 * (x == gem)
            if risk:
                rows.append((s, a, end, risk, (-1.0, 0.0, 0.0)))
            if x == home:
                rows.append((s, a, end, 1.0, (0.0, float(full & 1), float(full >> 1))))
            else:
                rows.append((s, a, 4 * (5 * x[0] + x[1]) + full, 1 - risk, (0.0, 0.0, 0.0)))
    return Outcomes(101, 4, tuple(rows), 4 * (5 * home[0] + home[1]), (end,), 3)


def resource_gathering(attack: float = 0.1, gamma: float = 0.95) -> TabularMDP:
    """Resource gathering (Barrett and Narayanan 2008), 5 x 5: channels (-1 when killed, gold, gem brought home).

    Home (4, 2) is the start; gold at (0, 2), gem at (1, 4); the enemies at (0, 3) and (1, 2) kill with probability
    `attack` upon entering. State 4 * cell + 2 * gem + gold; entering home, or dying, leads to state 100, the end.
    """
    return resource_gathering_outcomes(attack).mdp(gamma)


def fruit_tree_outcomes(depth: int = 6) -> Outcomes:
    if depth not in TREES:
        raise UserError(f"depth={depth} is not valid; valid are {', '.join(map(str, TREES))}.")
    leaves, first = fruits(depth), 2**depth - 1
    rows: list[Outcome] = []
    for s in range(first):
        for a in range(2):
            t = 2 * s + 1 + a
            rows.append((s, a, t, 1.0, tuple(leaves[t - first].tolist()) if t >= first else (0.0,) * 6))
    return Outcomes(2 * first + 1, 2, tuple(rows), 0, tuple(range(first, 2 * first + 1)), 6)


def fruit_tree(depth: int = 6, gamma: float = 0.99) -> TabularMDP:
    """Fruit tree (Yang, Sun, Narasimhan 2019): left or right down a binary tree to a leaf with six nutrients.

    State 2^row - 1 + position. All leaves have norm 10 and no negative entry, so that each wins for the weights
    proportional to it (Cauchy-Schwarz): the whole set is the front, and convex.
    """
    return fruit_tree_outcomes(depth).mdp(gamma)
