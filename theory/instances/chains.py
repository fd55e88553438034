"""Named one-dimensional problems where exploration, discounting or credit assignment is hard."""

from __future__ import annotations

from fenchel.theory.instances.build import Outcome, from_outcomes
from fenchel.theory.mdp import TabularMDP

LEFT, RIGHT = 0, 1


def chain(length: int = 5, slip: float = 0.2, gamma: float = 0.9) -> TabularMDP:
    """Strens' chain (2000): RIGHT moves on and pays 10 at the last state, LEFT returns to the first and pays 2.

    With probability `slip` the other action happens. States 0 .. length - 1, start 0.
    """
    rows: list[Outcome] = []
    for s in range(length):
        for a in (LEFT, RIGHT):
            for done, p in ((a, 1 - slip), (1 - a, slip)):
                t, reward = (0, 2.0) if done == LEFT else (min(s + 1, length - 1), 10.0 * (s == length - 1))
                rows.append((s, a, t, p, reward))
    return from_outcomes(length, 2, rows, gamma)


def combination_lock(
    length: int = 5, num_actions: int = 3, combination: tuple[int, ...] | None = None, gamma: float = 0.99
) -> TabularMDP:
    """One action per position moves on, every other returns to the start; the last right one pays 1 and ends.

    combination (length,): the right actions, by default position i wants action i mod A. State `length` is terminal.
    The uniform policy needs about A^length steps.
    """
    right = combination or tuple(i % num_actions for i in range(length))
    rows = [
        (s, a, s + 1 if a == right[s] else 0, 1.0, float(a == right[s] and s == length - 1))
        for s in range(length)
        for a in range(num_actions)
    ]
    return from_outcomes(length + 1, num_actions, rows, gamma, terminal=[length])


def river_swim(length: int = 6, gamma: float = 0.95) -> TabularMDP:
    """RiverSwim (Strehl and Littman 2008): swimming RIGHT against the current, LEFT always works.

    RIGHT inside: 0.3 on, 0.6 stay, 0.1 back; at the left bank 0.6 on, 0.4 stay; at the right bank 0.6 stay, 0.4 back.
    Reward 0.005 for LEFT at the left bank, 1 for RIGHT at the right bank. (The paper pays 5 and 10 000.)
    """
    last = length - 1
    rows: list[Outcome] = [(s, LEFT, max(s - 1, 0), 1.0, 0.005 * (s == 0)) for s in range(length)]
    rows += [(0, RIGHT, 1, 0.6, 0.0), (0, RIGHT, 0, 0.4, 0.0)]
    for s in range(1, last):
        rows += [(s, RIGHT, s + 1, 0.3, 0.0), (s, RIGHT, s, 0.6, 0.0), (s, RIGHT, s - 1, 0.1, 0.0)]
    rows += [(last, RIGHT, last, 0.6, 1.0), (last, RIGHT, last - 1, 0.4, 1.0)]
    return from_outcomes(length, 2, rows, gamma)


def delayed_choice(delay: int = 10, small: float = 0.5, gamma: float = 0.9) -> TabularMDP:
    """The first action decides: LEFT pays `small` at once and ends, RIGHT pays 1 after `delay` further steps.

    RIGHT is better iff gamma^delay > small: the answer flips with the discount, states 0 .. delay, then terminal.
    """
    rows: list[Outcome] = [(0, LEFT, delay + 1, 1.0, small), (0, RIGHT, 1, 1.0, 0.0)]
    for s in range(1, delay + 1):
        rows += [(s, a, s + 1, 1.0, float(s == delay)) for a in (LEFT, RIGHT)]
    return from_outcomes(delay + 2, 2, rows, gamma, terminal=[delay + 1])


def two_state(gamma: float = 0.9) -> TabularMDP:
    """Action 0 stays, action 1 switches; state 1 pays 1 per step, state 0 nothing: V* = (gamma, 1) / (1 - gamma)."""
    rows: list[Outcome] = [(s, a, s ^ a, 1.0, float(s)) for s in (0, 1) for a in (0, 1)]
    return from_outcomes(2, 2, rows, gamma)
