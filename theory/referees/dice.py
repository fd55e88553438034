"""OptiDICE, and where ODICE's three gradients vanish, on a finite data set; see `offline` for the conventions.

The residual of one row stands inside f*, so that the equations are over triples and a ratio w may depend on s'.

OptiDICE: max over w >= 0 of E [w r - T f(w)] subject to E w (1_s - gamma 1_s') = (1 - gamma) P(s0 = s), whose
multipliers are V; the policy's weights are w*(E[e | s, a] / T), e = r + gamma V(s') - V(s).

ODICE, with e = r / T + gamma V(s') - V(s):

    true        minimum over V of (1 - lam) E V(s) + lam E f*(e). Its primal: max over w >= 0 of lam E [w r / T - f(w)]
                subject to lam (E w 1_s - E w gamma 1_s') = (1 - lam) P(s), whose multipliers are V
    semi        E[w*(e) | s] = (1 - lam) / lam
    orthogonal  (1 - lam) P + g_f + g_b - E (<g_b, g_f> / |g_f|^2) g_f = 0,  g_f = - lam E_B w 1_s,
                g_b = lam eta E_B w gamma 1_s',  outer E over batches B, products over the parameters

The products of `orthogonal` depend on how V is parametrised, here linearly; being ratios of products of batch means,
they also depend on the size of the batch.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

from fenchel.theory.referees.offline import Answer, dual
from fenchel.theory.referees.transitions import Conjugate, Transitions, fixed_point


def answer(data: Transitions, V: np.ndarray, divergence: str, temperature: float, max_weight: float = 100.0) -> Answer:
    """Weights min(w*(e), max_weight) at V, averaged over the next states of a pair."""
    w = Conjugate.of(divergence).ratio(residual(data, V, temperature))
    weight = data.mean(np.minimum(w, max_weight))
    return Answer(V, weight, data.policy(weight), data.mean(data.backup(V)))


def residual(data: Transitions, V: np.ndarray, temperature: float) -> np.ndarray:
    return data.reward / temperature + data.discount * V[data.following] - V[data.state]


def semi(data: Transitions, *, divergence: str, lam: float, temperature: float, max_weight: float = 100.0) -> Answer:
    """`dual` without the centre, at T = 1, of the rows' own r / T + gamma V(s')."""
    locate = dual(divergence, lam, 1.0, data.shape[0], centred=False)

    def operator(V: np.ndarray) -> np.ndarray:
        return locate(data.state, data.reward / temperature + data.discount * V[data.following], data.share)

    V = fixed_point(operator, np.zeros(data.shape[0]))
    return answer(data, V, divergence, temperature, max_weight)


def _program(
    data: Transitions, divergence: str, reward: np.ndarray, weight: float, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """V (S,), the multipliers of max over w >= 0 of E [w reward - weight f(w)] s.t. E w (1_s - gamma 1_s') = start, and
    (S,) bool: the states that the optimum visits; in the others more than one V is a multiplier.

    Newton's method with a little damping on the dual, min over V of start . V + weight E f*((reward + gamma V' - V) /
    weight), until the flow balances to 1e-9.
    """
    conjugate, size, p = Conjugate.of(divergence), data.shape[0], data.share
    move = np.eye(size)[data.following] * data.discount[:, None] - np.eye(size)[data.state]
    V, damping = np.zeros(size), 1.0

    def at(V: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        y = (reward + move @ V) / weight
        return start @ V + weight * (p @ conjugate.value(y)), start + (p * conjugate.ratio(y)) @ move, y

    value, flow, y = at(V)
    for _ in range(500):
        if np.abs(flow).max() < 1e-9:
            left = np.bincount(data.state, p * conjugate.ratio(y), size)
            return V, left > 1e-6 * data.mass.sum(1)
        h = 1e-5 * (1 + np.abs(y))
        bend = p * (conjugate.ratio(y + h) - conjugate.ratio(y - h)) / (2 * h * weight)
        hessian = move.T @ (bend[:, None] * move) + damping * np.diag(np.maximum(data.mass.sum(1), 1e-9))
        trial = V - np.linalg.solve(hessian, flow)
        found = at(trial)
        if found[0] <= value or np.abs(found[1]).max() < np.abs(flow).max():
            V, (value, flow, y), damping = trial, found, damping / 4
        else:
            damping *= 4
    raise RuntimeError(f"the flow is out of balance by {np.abs(flow).max():.1g}")


def true(data: Transitions, *, divergence: str, lam: float, temperature: float, max_weight: float = 100.0) -> Answer:
    """Every state has inflow, so that V is the only multiplier."""
    start = (1 - lam) / lam * data.mass.sum(1)
    V, _ = _program(data, divergence, data.reward / temperature, 1.0, start)
    return answer(data, V, divergence, temperature, max_weight)


def optidice(
    data: Transitions, start: np.ndarray, *, divergence: str, gamma: float, temperature: float,
    max_weight: float = 100.0, floor: float = 0.0,
) -> Answer:  # fmt: skip
    """start (S,): the law of the states in which episodes begin. The policy has the weights from `floor` on."""
    V, visited = _program(data, divergence, data.reward, temperature, (1 - gamma) * start)
    Q = data.mean(data.backup(V))
    weight = np.minimum(Conjugate.of(divergence).ratio((Q - V[:, None]) / temperature), max_weight)
    astray = data.mean((~visited[data.following] & (data.discount > 0)).astype(float)) > 0
    shown = np.where(visited[:, None] & ~astray, weight, np.nan)
    return Answer(np.where(visited, V, np.nan), shown, data.policy(np.maximum(weight, floor)), Q)


def orthogonal(
    data: Transitions, features: np.ndarray, *, divergence: str, lam: float, temperature: float, eta: float,
    max_weight: float = 100.0, batch: int | None = None, batches: int = 1000, seed: int = 0,
) -> Answer:  # fmt: skip
    """Newton's method (Powell's hybrid) with the projection held fixed, as a share per state, and projections in turns.

    features (S, P), of full row rank: V = features @ theta, and products are those of gradients over theta.
    batch: how many rows a batch has, of which `batches` are drawn; None for the whole population.
    """
    seen, mass, conjugate = data.visited, data.mass.sum(1), Conjugate.of(divergence)
    drawn = data.share[None]
    if batch:
        drawn = np.random.default_rng(seed).multinomial(batch, data.share, batches) / batch
    out, into = np.eye(len(mass))[data.state], np.eye(len(mass))[data.following] * data.discount[:, None]

    def gradients(V: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = share * conjugate.ratio(residual(data, V, temperature))
        return -lam * w @ out, lam * eta * w @ into

    def removed(V: np.ndarray) -> np.ndarray:
        """(S,): E c g_f / E g_f."""
        forward, backward = gradients(V, drawn)
        ahead, total = forward @ features, forward.mean(0)
        share = ((backward @ features) * ahead).sum(1) / (ahead**2).sum(1)
        return np.where(total < 0, (share[:, None] * forward).mean(0) / np.where(total < 0, total, -1), 0.0)

    def balanced(V: np.ndarray) -> np.ndarray:
        """V where the direction is 0, the shares being those at V."""
        share, full = removed(V), np.zeros(len(mass))

        def direction(v: np.ndarray) -> np.ndarray:
            full[seen] = v
            forward, backward = gradients(full, data.share)
            return (((1 - lam) * mass + (1 - share) * forward + backward)[seen]) / mass[seen]

        found = scipy.optimize.root(direction, V[seen], method="hybr")
        if not found.success:
            raise RuntimeError(found.message)
        return np.bincount(np.flatnonzero(seen), found.x, len(mass))

    start = semi(data, divergence=divergence, lam=lam, temperature=temperature)
    V = fixed_point(balanced, start.V, tol=1e-6, most=100)
    return answer(data, V, divergence, temperature, max_weight)
