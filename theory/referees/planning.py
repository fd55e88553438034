"""Independent answers for constrained, multi-objective, robust, reachability and risk problems, on numpy arrays.

P (S, A, S), rewards (S, A) or (K, S, A), mu (S,), gamma a float. Small problems: enumeration and programs per problem.
"""

from __future__ import annotations

from itertools import product

import cvxpy as cp
import numpy as np
from scipy.optimize import linprog
from scipy.sparse.csgraph import dijkstra


def constrained_value(
    P: np.ndarray, r: np.ndarray, mu: np.ndarray, gamma: float, budgets: np.ndarray, average: bool = False
) -> float:
    """max <r_0, d> over occupancies with <r_k, d> <= budget_k; the occupancy form. -inf when infeasible.

    average: over stationary frequencies (right when every policy's chain is unichain).
    """
    S, A, _ = P.shape
    flow = np.zeros((S, S * A))
    for s, a, t in product(range(S), range(A), range(S)):
        flow[t, s * A + a] += (t == s) - (1.0 if average else gamma) * P[s, a, t]
    right = mu
    if average:
        flow, right = np.r_[flow, np.ones((1, S * A))], np.r_[np.zeros(S), 1.0]
    costs = r[1:].reshape(len(r) - 1, -1)
    result = linprog(-r[0].ravel(), costs, budgets, flow, right, bounds=(0, None), method="highs-ipm")
    return -np.inf if result.status == 2 else float(-result.fun)


def every_policy(S: int, A: int):
    """All deterministic stationary policies as tuples of actions."""
    return product(range(A), repeat=S)


def returns_of_policies(P: np.ndarray, r: np.ndarray, mu: np.ndarray, gamma: float) -> np.ndarray:
    """(A^S, K): mu . V of every deterministic policy."""
    S, A, _ = P.shape
    rows = []
    for pi in every_policy(S, A):
        chain = np.array([P[s, a] for s, a in enumerate(pi)])
        reward = np.array([r[:, s, a] for s, a in enumerate(pi)])
        rows.append(mu @ np.linalg.inv(np.eye(S) - gamma * chain) @ reward)
    return np.array(rows)


def pareto_front(vectors: np.ndarray, tol: float = 1e-10) -> np.ndarray:
    """Nondominated rows, duplicates once."""
    kept: list[np.ndarray] = []
    for u in vectors:
        beaten = any((v >= u - tol).all() and (v > u + tol).any() for v in vectors)
        if not beaten and not any(np.abs(v - u).max() <= tol for v in kept):
            kept.append(u)
    return np.array(kept)


def worst_mean(name: str, p0: np.ndarray, z: np.ndarray, radius: float) -> float:
    """min p . z over the ball around p0, by cvxpy."""
    on = p0 > 0
    p = cp.Variable(len(p0), nonneg=True)
    rules = [cp.sum(p) == 1]
    if name == "l1":
        rules.append(cp.norm1(p - p0) <= radius)
    elif name == "linf":
        rules.append(cp.norm_inf(p - p0) <= radius)
    elif name == "kl":
        rules += [cp.sum(cp.rel_entr(p[on], p0[on])) <= radius, p[~on] == 0]
    else:
        rules += [cp.sum(cp.multiply(cp.square(p - p0)[on], 1 / p0[on])) <= radius, p[~on] == 0]
    return float(cp.Problem(cp.Minimize(p @ z), rules).solve(solver=cp.CLARABEL))


def robust_stage(name: str, p0: np.ndarray, r: np.ndarray, z: np.ndarray, radius: float) -> float:
    """s-rectangular stage min over rows with joint radius of max_a r_a + p_a . z_a (nature first), by cvxpy."""
    A, S = p0.shape
    p, u = cp.Variable((A, S), nonneg=True), cp.Variable()
    distances = {
        "l1": lambda a: cp.norm1(p[a] - p0[a]),
        "linf": lambda a: cp.norm_inf(p[a] - p0[a]),
        "kl": lambda a: cp.sum(cp.rel_entr(p[a], p0[a])),
        "chi2": lambda a: cp.sum(cp.multiply(cp.square(p[a] - p0[a]), 1 / p0[a])),
    }
    rules = [cp.sum(p, axis=1) == 1, sum(distances[name](a) for a in range(A)) <= radius]
    rules += [r[a] + p[a] @ z[a] <= u for a in range(A)]
    return float(cp.Problem(cp.Minimize(u), rules).solve(solver=cp.CLARABEL))


def reach_probability(P: np.ndarray, target: np.ndarray, avoid: np.ndarray) -> np.ndarray:
    """The least v >= max_a P v with v = 1 on target and 0 on avoid, as a linear program (least because minimised)."""
    S, A, _ = P.shape
    rows = [P[s, a] - np.eye(S)[s] for s in range(S) for a in range(A) if not (target[s] or avoid[s])]
    bounds = [(1, 1) if target[s] else (0, 0) if avoid[s] else (0, 1) for s in range(S)]
    return linprog(np.ones(S), np.array(rows).reshape(-1, S), np.zeros(len(rows)), bounds=bounds).x


def shortest_paths(successor: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """(goal, state) distances of deterministic dynamics with positive costs, by Dijkstra."""
    S, A = successor.shape
    graph = np.full((S, S), np.inf)
    for s, a in product(range(S), range(A)):
        graph[s, successor[s, a]] = min(graph[s, successor[s, a]], cost[s, a])
    return dijkstra(np.where(np.isinf(graph), 0.0, graph)).T


def proper_distance(P: np.ndarray, cost: np.ndarray, goal: int) -> np.ndarray:
    """Least expected cost over the deterministic policies that reach goal with certainty, by enumeration."""
    S, A, _ = P.shape
    best = np.full(S, np.inf)
    for pi in every_policy(S, A):
        chain = np.array([P[s, a] for s, a in enumerate(pi)])
        chain[goal] = np.eye(S)[goal]
        reached = np.linalg.matrix_power(chain, 1 << 40)[:, goal]
        sure = reached > 1 - 1e-9
        inner = np.flatnonzero(sure & (np.arange(S) != goal))
        step = np.array([cost[s, a] for s, a in enumerate(pi)])
        value = np.full(S, np.inf)
        value[goal] = 0.0
        value[inner] = np.linalg.solve(np.eye(len(inner)) - chain[np.ix_(inner, inner)], step[inner])
        best = np.minimum(best, value)
    return best


def largest_safe_set(P: np.ndarray, safe: np.ndarray) -> np.ndarray:
    """Union of all invariant subsets of safe, over every subset of states."""
    S = len(P)
    union = np.zeros(S, dtype=bool)
    for bits in product([False, True], repeat=S):
        W = np.array(bits)
        if (W & ~safe).any():
            continue
        if all(any(P[s, a][~W].sum() == 0 for a in range(P.shape[1])) for s in np.flatnonzero(W)):
            union |= W
    return union


def history_cvar(P: np.ndarray, r: np.ndarray, start: int, gamma: float, level: float, horizon: int) -> float:
    """Greatest CVaR over all deterministic history-dependent policies from one start state, by enumeration."""

    def laws(state: int, t: int) -> list[list[tuple[float, float]]]:
        """The return law (atom, probability) of every policy for the rest of the episode."""
        if t == horizon:
            return [[(0.0, 1.0)]]
        found = []
        for a in range(P.shape[1]):
            successors = np.flatnonzero(P[state, a])
            for choice in product(*(laws(int(n), t + 1) for n in successors)):
                law = [
                    (r[state, a] + gamma * g, P[state, a, n] * p)
                    for n, rest in zip(successors, choice, strict=True)
                    for g, p in rest
                ]
                found.append(law)
        return found

    def tail(law: list[tuple[float, float]]) -> float:
        left, total = level, 0.0
        for g, p in sorted(law):
            take = min(p, left)
            total, left = total + take * g, left - take
        return total / level

    return max(tail(law) for law in laws(start, 0))
