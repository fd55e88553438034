"""Self-play on enumerated answers in closed form: one exact step of each game recipe, from log-policies (*b, Y).

P (*b, Y, Y): P(y beats z). The regularised game is P(p > q) - beta KL(p, ref) + beta KL(q, ref), with the equilibrium
pi = ref exp(P pi / beta) / Z; `theory.solvers.solve(P, "kl_nash")` finds it by other means.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Answers = Float[Tensor, "*b Y"]
Preference = Float[Tensor, "*b Y Y"]


def win_rate(P: Preference, log_opponent: Answers) -> Answers:
    """The chance of every answer to beat the opponent's."""
    return torch.einsum("...yz,...z->...y", P, log_opponent.exp())


def proximal(P: Preference, log_centre: Answers, log_ref: Answers, log_opponent: Answers, beta: float, eta: float):
    """argmax_p P(p > opponent) - beta KL(p, ref) - KL(p, centre) / eta."""
    exponent = log_centre + eta * beta * log_ref + eta * win_rate(P, log_opponent)
    return torch.log_softmax(exponent / (1 + eta * beta), -1)


def nash_mp(P: Preference, log_pi: Answers, log_ref: Answers, *, beta: float = 0.1, eta: float = 2.0) -> Answers:
    """Mirror prox: a proximal step against oneself, then one from the same place against where it led. [158]"""
    half = proximal(P, log_pi, log_ref, log_pi, beta, eta)
    return proximal(P, log_pi, log_ref, half, beta, eta)


def egpo(P: Preference, log_pi: Answers, log_ref: Answers, *, beta: float = 0.1, eta: float = 0.9) -> Answers:
    """Extragradient on logits: theta <- (1 - eta beta) theta + eta beta (log ref + P pi / beta). [308]"""

    def move(log_opponent: Answers) -> Answers:
        target = beta * log_ref + win_rate(P, log_opponent)
        return torch.log_softmax((1 - eta * beta) * log_pi + eta * target, -1)

    return move(move(log_pi))


def inpo(P: Preference, log_pi: Answers, log_ref: Answers, *, beta: float = 0.1, eta: float = 0.5) -> Answers:
    """Mirror descent against oneself: ref^(beta eta) pi^(1 - beta eta) e^(eta P pi) / Z. [257]; its eta is 1 / ours."""
    return torch.log_softmax((1 - beta * eta) * log_pi + beta * eta * log_ref + eta * win_rate(P, log_pi), -1)


def sppo(P: Preference, log_pi: Answers, log_ref: Answers, *, eta: float = 0.5) -> Answers:
    """Multiplicative weights: pi e^(eta P pi) / Z, without a reference; the average of its iterates converges. [241]"""
    return torch.log_softmax(log_pi + eta * win_rate(P, log_pi), -1)


def dno(P: Preference, log_pi: Answers, log_ref: Answers, *, eta: float = 2.0) -> Answers:
    """pi e^(P pi / eta) / Z: multiplicative weights with the step 1 / eta. [249]"""
    return sppo(P, log_pi, log_ref, eta=1 / eta)


def iterate(
    step: Callable[..., Answers], P: Preference, log_pi: Answers, log_ref: Answers, rounds: int, **options: float
) -> Float[Tensor, "rounds *b Y"]:
    """The log-policies after 1, ..., rounds steps."""
    path = []
    for _ in range(rounds):
        log_pi = step(P, log_pi, log_ref, **options)
        path.append(log_pi)
    return torch.stack(path)
