"""Multi-objective MDPs: r (K, S, A), all channels to be maximised."""

from __future__ import annotations

from fenchel.theory.instances.build import Outcome, from_outcomes
from fenchel.theory.instances.generated import garnet
from fenchel.theory.instances.grids import MOVES
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng

DEPTHS = (1, 2, 3, 4, 4, 4, 7, 7, 9, 10)
TREASURES = (1.0, 2.0, 3.0, 5.0, 8.0, 16.0, 24.0, 50.0, 74.0, 124.0)


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


def deep_sea_treasure(
    depths: tuple[int, ...] = DEPTHS, treasures: tuple[float, ...] = TREASURES, gamma: float = 0.99
) -> TabularMDP:
    """Deep sea treasure (Vamplew et al. 2011): channels (treasure, -1 per step), moves up, right, down, left.

    The treasure of column j lies `depths[j]` rows below the surface and ends the episode; nothing else is terminal, so
    gamma < 1. The default front is concave: linear weights find only part of it.
    """
    columns = len(depths)
    sea = [(i, j) for i in range(max(depths) + 1) for j in range(columns) if i <= depths[j]]
    number = {cell: s for s, cell in enumerate(sea)}
    ends = [number[depth, j] for j, depth in enumerate(depths)]
    rows: list[Outcome] = []
    for (i, j), s in number.items():
        if s in ends:
            continue
        for a, (di, dj) in enumerate(MOVES):
            t = number.get((i + di, j + dj), s)
            value = treasures[sea[t][1]] if t in ends else 0.0
            rows.append((s, a, t, 1.0, (value, -1.0)))
    return from_outcomes(len(sea), 4, rows, gamma, number[0, 0], ends, channels=2)


def resource_gathering(attack: float = 0.1, gamma: float = 0.95) -> TabularMDP:
    """Resource gathering (Barrett and Narayanan 2008), 5 x 5: channels (-1 when killed, gold, gem brought home).

    Home (4, 2) is the start; gold at (0, 2), gem at (1, 4); the enemies at (0, 3) and (1, 2) kill with probability
    `attack` upon entering. State 4 * cell + 2 * gem + gold; coming home with something, or dying, ends the episode.
    """
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
            if x == home and full:
                rows.append((s, a, end, 1.0, (0.0, float(full & 1), float(full >> 1))))
            else:
                rows.append((s, a, 4 * (5 * x[0] + x[1]) + full, 1 - risk, (0.0, 0.0, 0.0)))
    return from_outcomes(101, 4, rows, gamma, 4 * (5 * home[0] + home[1]), [end], channels=3)
