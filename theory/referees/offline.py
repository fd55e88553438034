"""Fixed points of offline methods on a finite data set, from each method's own population equations.

Nothing here knows `theory.objectives`, `theory.divergences` or a learner. An answer has V (S,), the weights of the
policy's likelihood on pairs (S, A), and the policy that has them. Methods whose critic averages over next states
before anything non-linear (IQL, f-DVL, AWAC, CQL) have equations over pairs; those that apply f* or an asymmetric
square to r + gamma V(s') itself (ODICE, IVL) see one next state per row, and have equations over triples.

    expectile   tau E (x - v)_+ = (1 - tau) E (v - x)_+
    dual        E w*((x - v) / T + f'((1 - lam) / lam)) = (1 - lam) / lam,  w* = argmax over w >= 0 of w y - f(w)
    quantile    P(x > v) <= (1 - lam) / lam <= P(x >= v)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import lambertw

from fenchel.theory.referees.transitions import Conjugate, Transitions, fixed_point, root

Location = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # state, x, share (N,) -> v (S,)


@dataclass(frozen=True)
class Answer:
    """V (S,), weight and policy (S, A); Q (S, A), 0 on pairs without data. NaN stands where the optimum has a choice; V
    of states that no row leaves means nothing."""

    V: np.ndarray
    weight: np.ndarray
    policy: np.ndarray
    Q: np.ndarray


def _extremes(state: np.ndarray, x: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, state, x)
    np.maximum.at(high, state, x)
    seen = low <= high
    return np.where(seen, low, 0.0), np.where(seen, high, 0.0)


def expectile(tau: float, size: int) -> Location:
    """The tau-expectile of x in every state."""

    def locate(state: np.ndarray, x: np.ndarray, share: np.ndarray) -> np.ndarray:
        def balance(v: np.ndarray) -> np.ndarray:
            return share * np.where(x > v, tau * (x - v), (1 - tau) * (x - v))

        return root(state, balance, *_extremes(state, x, size))

    return locate


def dual(divergence: str, lam: float, temperature: float, size: int, centred: bool = True) -> Location:
    """argmin over v of (1 - lam) v + lam T E f*((x - v) / T + c); centred: c = f'((1 - lam) / lam), else 0."""
    mean = (1 - lam) / lam
    if divergence == "tv":
        return quantile(mean, size)
    conjugate = Conjugate.of(divergence)
    shift = conjugate.slope(mean) if centred else 0.0

    def locate(state: np.ndarray, x: np.ndarray, share: np.ndarray) -> np.ndarray:
        def excess(v: np.ndarray) -> np.ndarray:
            return share * (conjugate.ratio((x - v) / temperature + shift) - mean)

        return root(state, excess, *_extremes(state, x, size))

    return locate


def quantile(upper: float, size: int) -> Location:
    """The smallest v with P(x > v) <= upper."""

    def locate(state: np.ndarray, x: np.ndarray, share: np.ndarray) -> np.ndarray:
        return root(state, lambda v: share * ((x > v) - upper), *_extremes(state, x, size))

    return locate


def implicit(data: Transitions, locate: Location) -> tuple[np.ndarray, np.ndarray]:
    """(V, Q) of V(s) = locate Q(s, .) under the data's actions, Q = E r + gamma V(s')."""
    state, action = np.nonzero(data.mass)

    def operator(V: np.ndarray) -> np.ndarray:
        return locate(state, data.mean(data.backup(V))[state, action], data.mass[state, action])

    V = fixed_point(operator, np.zeros(data.shape[0]))
    return V, data.mean(data.backup(V))


def awr(data: Transitions, V: np.ndarray, Q: np.ndarray, inverse_temperature: float, max_weight: float) -> Answer:
    """Weights min(exp(inverse_temperature (Q - V)), max_weight)."""
    weight = exponential(Q - V[:, None], inverse_temperature, max_weight)
    return Answer(V, weight, data.policy(weight), Q)


def exponential(advantage: np.ndarray, inverse_temperature: float, max_weight: float) -> np.ndarray:
    return np.minimum(np.exp(np.minimum(inverse_temperature * advantage, 50)), max_weight)


def asymmetric(advantage: np.ndarray, tau: float, inverse_temperature: float | None, max_weight: float) -> np.ndarray:
    """Of AWR, or without an inverse temperature the expectile's own weights |tau - 1(A < 0)|."""
    if inverse_temperature is None:
        return np.where(advantage < 0, 1 - tau, tau)
    return exponential(advantage, inverse_temperature, max_weight)


def iql(data: Transitions, *, tau: float, inverse_temperature: float | None, max_weight: float = 100.0) -> Answer:
    """V the tau-expectile of Q over the data's actions; the policy by `asymmetric` weights."""
    V, Q = implicit(data, expectile(tau, data.shape[0]))
    weight = asymmetric(Q - V[:, None], tau, inverse_temperature, max_weight)
    return Answer(V, weight, data.policy(weight), Q)


def f_dvl(
    data: Transitions, *, divergence: str, lam: float, temperature: float, inverse_temperature: float | None = None,
    max_weight: float = 100.0,
) -> Answer:  # fmt: skip
    """V as `dual` has it; the policy by weights lam / (1 - lam) w*, or by AWR with an inverse temperature."""
    V, Q = implicit(data, dual(divergence, lam, temperature, data.shape[0]))
    if inverse_temperature is not None:
        return awr(data, V, Q, inverse_temperature, max_weight)
    mean = (1 - lam) / lam
    if divergence == "tv":
        return _tie(data, V, Q, mean, max_weight)
    conjugate = Conjugate.of(divergence)
    weight = np.minimum(conjugate.ratio((Q - V[:, None]) / temperature + conjugate.slope(mean)) / mean, max_weight)
    return Answer(V, weight, data.policy(weight), Q)


def _tie(data: Transitions, V: np.ndarray, Q: np.ndarray, mean: float, max_weight: float, tol: float = 1e-6) -> Answer:
    """tv: w = 1 above the quantile, 0 below, and at it whatever makes E[w | s] = mean.

    The weights jump at the quantile, where V is: those of one moment say nothing, and are NaN.
    """
    above, at = Q > V[:, None] + tol, np.abs(Q - V[:, None]) <= tol
    left, there = mean * data.mass.sum(1) - (data.mass * above).sum(1), (data.mass * at).sum(1)
    weight = above + at * (left / np.where(there > 0, there, 1))[:, None]
    weight = np.minimum(weight / mean, max_weight)
    return Answer(V, np.full_like(weight, np.nan), data.policy(weight), Q)


def ivl(data: Transitions, *, tau: float, inverse_temperature: float | None, max_weight: float = 100.0) -> Answer:
    """V the tau-expectile of the rows' own r + gamma V(s'), whose weights are averaged over a pair's next states."""
    locate = expectile(tau, data.shape[0])
    V = fixed_point(lambda V: locate(data.state, data.backup(V), data.share), np.zeros(data.shape[0]))
    weight = data.mean(asymmetric(data.backup(V) - V[data.state], tau, inverse_temperature, max_weight))
    return Answer(V, weight, data.policy(weight), data.mean(data.backup(V)))


def awac(data: Transitions, *, inverse_temperature: float, max_weight: float = 100.0) -> Answer:
    """V(s) = E_pi Q, pi proportional to the data's shares times min(exp(inverse_temperature (Q - V)), max_weight)."""

    def locate(index: np.ndarray, q: np.ndarray, share: np.ndarray) -> np.ndarray:
        def excess(v: np.ndarray) -> np.ndarray:
            return share * exponential(q - v, inverse_temperature, max_weight) * (q - v)

        return root(index, excess, *_extremes(index, q, data.shape[0]))

    V, Q = implicit(data, locate)
    return awr(data, V, Q, inverse_temperature, max_weight)


def cql(data: Transitions, *, alpha: float) -> Answer:
    """The Discrete form: Q = argmin alpha E [log sum_a exp Q(s, a) - Q(s, a_data)] + E (r + gamma max Q' - Q)^2.

    Over the actions of the data: the others fall for ever. Stationary: alpha (softmax(Q) - beta) + 2 beta (Q - y) = 0,
    which gives Q by Lambert's function once log sum exp Q is known. V = max_a Q, the policy is greedy.
    """
    state, action = np.nonzero(data.mass)
    beta = data.mass[state, action] / data.mass.sum(1)[state]
    size = data.shape[0]

    def solve(y: np.ndarray) -> np.ndarray:
        top, scale = y + alpha / 2, alpha / (2 * beta)

        def q(normaliser: np.ndarray) -> np.ndarray:
            return top - lambertw(scale * np.exp(top - normaliser)).real

        normaliser = root(state, lambda n: np.exp(q(n) - n) - beta, *_extremes(state, y, size))
        return q(normaliser[state])

    def operator(V: np.ndarray) -> np.ndarray:
        return _extremes(state, solve(data.mean(data.backup(V))[state, action]), size)[1]

    V = fixed_point(operator, np.zeros(size))
    Q = np.zeros(data.shape)
    Q[state, action] = solve(data.mean(data.backup(V))[state, action])
    best = np.where(data.mass > 0, Q, -np.inf).argmax(1)
    greedy = np.eye(data.shape[1])[best] * data.visited[:, None]
    return Answer(V, greedy, data.policy(greedy), Q)
