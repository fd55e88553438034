"""The smallest problems on which a published statement, or a natural guess, fails. Paper ids as in the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.instances.build import Outcome, from_outcomes
from fenchel.theory.mdp import TabularMDP


def bandit(rewards: Sequence[float] = (1.0, 0.5, 0.0)) -> TabularMDP:
    """One decision, then the end: the home of counter-examples about sets of responses (25, 130, 193, 278)."""
    rows = [(0, a, 1, 1.0, reward) for a, reward in enumerate(rewards)]
    return from_outcomes(2, len(rewards), rows, 1.0, terminal=[1])


def lottery(luck: float = 0.1, sure: float = 0.8) -> TabularMDP:
    """Papers 13, 28: action 0 pays 1 with probability `luck`, action 1 always pays `sure`.

    Conditioned on the return 1, supervised learning takes action 0 and loses sure - luck (0.7).
    """
    rows = [(0, 0, 1, luck, 1.0), (0, 0, 1, 1 - luck, 0.0), (0, 1, 1, 1.0, sure)]
    return from_outcomes(2, 2, rows, 1.0, terminal=[1])


def random_policy_trap(kind: str = "real") -> TabularMDP:
    """Papers 24, 17: depth 2, where being greedy on the uniform policy's Q is not optimal.

    "real": deterministic, leaves 0.6, 0.6 | 1, 0: greedy reaches 0.6 of 1. "stochastic": rewards in {0, 1} with
    success probabilities 0.6, 0.6 | 0.8, 0: greedy reaches 0.6 of 0.8.
    """
    if kind not in ("real", "stochastic"):
        raise UserError(f"kind={kind} is unknown; valid are real, stochastic.")
    rows: list[Outcome] = [(0, 0, 1, 1.0, 0.0), (0, 1, 2, 1.0, 0.0)]
    values = ((0.6, 0.6), (1.0, 0.0)) if kind == "real" else ((0.6, 0.6), (0.8, 0.0))
    for s, pair in enumerate(values, start=1):
        for a, value in enumerate(pair):
            if kind == "real":
                rows.append((s, a, 4, 1.0, value))
            else:
                rows += [(s, a, 3, value, 1.0), (s, a, 4, 1 - value, 0.0)]
    return from_outcomes(5, 2, rows, 1.0, terminal=[3, 4])


def flow_breaks_tilt(gap: float = 1.0) -> TabularMDP:
    """Paper 263: two steps, reward only in the second, so that d_ref exp(r / alpha) / Z is no occupancy.

    State 0 leads to state 1 under both actions; there action 0 pays `gap`. The tilt changes the mass of state 1 but
    not that of state 0, which the Bellman flow forbids: the partition function depends on the state and stays.
    """
    rows = [(0, 0, 1, 1.0, 0.0), (0, 1, 1, 1.0, 0.0), (1, 0, 2, 1.0, gap), (1, 1, 2, 1.0, 0.0)]
    return from_outcomes(3, 2, rows, 1.0, terminal=[2])


def late_danger(margin: float = 0.05, gamma: float = 0.9) -> TabularMDP:
    """Paper 10: channel 1 is h(s) (safe iff h <= 0). State 0, h = -1, leads for certain to state 1, h = margin.

    No policy keeps state 0 safe, but V = (1 - gamma) h + gamma max(h, V') is negative there while
    gamma margin < 1 - gamma: the discounted feasible set is a strict superset of the true one.
    """
    rows = [(0, 0, 1, 1.0, (0.0, -1.0)), (1, 0, 1, 1.0, (0.0, margin))]
    return from_outcomes(2, 1, rows, gamma, channels=2)


def xor_task(gamma: float = 0.9) -> TabularMDP:
    """Paper 5: two states that alternate, two actions that do nothing; the task is "act differently in the two states".

    The acceptable set {(0, 1), (1, 0)} is separable from {(0, 0), (1, 1)} by no Markov reward: the values of the two
    pairs have the same sum. The reward here is zero; the claim searches for one.
    """
    rows = [(s, a, 1 - s, 1.0, 0.0) for s in (0, 1) for a in (0, 1)]
    return from_outcomes(2, 2, rows, gamma)


def concave_front(inner: float = 0.4) -> TabularMDP:
    """Papers 43, 45: three deterministic policies worth (1, 0), (0, 1), (inner, inner).

    For inner < 1/2 the third is Pareto optimal among deterministic policies and optimal for no linear weight;
    mixing the other two dominates it.
    """
    rows: list[Outcome] = [(0, a, 1, 1.0, v) for a, v in enumerate(((1.0, 0.0), (0.0, 1.0), (inner, inner)))]
    return from_outcomes(2, 3, rows, 1.0, terminal=[1], channels=2)


def baird(gamma: float = 0.99) -> TabularMDP:
    """Baird's star (1995) as in Sutton and Barto, example 11.1: rewards 0, V = 0.

    Action 0 (dashed) leads to one of states 0 .. 5, action 1 (solid) to state 6. Off-policy TD with `baird_features`
    and behaviour (6/7, 1/7) diverges for the target policy that always takes action 1.
    """
    rows = [(s, 0, t, 1 / 6, 0.0) for s in range(7) for t in range(6)] + [(s, 1, 6, 1.0, 0.0) for s in range(7)]
    return from_outcomes(7, 2, rows, gamma, start=torch.full((7,), 1 / 7, dtype=torch.float64))


def baird_features() -> Float[Tensor, "7 8"]:
    """v(s) = 2 w_s + w_7 for s < 6 and w_6 + 2 w_7 for s = 6."""
    features = torch.zeros(7, 8, dtype=torch.float64)
    features[torch.arange(6), torch.arange(6)] = 2.0
    features[:6, 7], features[6, 6], features[6, 7] = 1.0, 1.0, 2.0
    return features


def doubling(gamma: float = 0.9) -> TabularMDP:
    """Tsitsiklis and Van Roy (1996): state 0 leads to state 1, which stays; rewards 0.

    With features (1, 2) and both states weighted equally, fitted value iteration multiplies w by 6 gamma / 5.
    """
    return from_outcomes(
        2, 1, [(0, 0, 1, 1.0, 0.0), (1, 0, 1, 1.0, 0.0)], gamma, start=torch.tensor([0.5, 0.5]).double()
    )
