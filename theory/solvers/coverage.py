"""Convex coverage set of a multi-objective MDP: the vectors J(policy) = mu0 . V that win for some linear weight.

Optimistic linear support (Roijers 2016, algorithm 3.3) with exact corner weights: the best value w -> max_policy w . J
is convex and piecewise linear, and so is what a finite set of vectors reaches; their gap is greatest at a vertex
("corner weight") of the latter. Every round solves all new corners as one batch; no improvement anywhere proves that
the set is complete.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.spatial import HalfspaceIntersection
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import coverage_checks
from fenchel.theory.solvers.bellman import one_hot, policy_iteration, policy_value
from fenchel.theory.solvers.game_checks import certified
from fenchel.theory.solvers.solution import Solution


def validate_objectives(mdp: TabularMDP) -> None:
    if mdp.num_channels is None or mdp.num_channels < 2:
        raise UserError("a multi-objective MDP needs r (..., K, S, A) with K >= 2 channels.")
    if mdp.batch_shape:
        raise UserError("the sets of a batch have different sizes; valid is one MDP at a time, P (S, A, S).")


def corner_weights(vectors: np.ndarray) -> np.ndarray:
    """(M, K): the weights at which the upper surface max_i w . vectors_i over the simplex has its vertices.

    vectors (N, K). Halfspaces in (w_1, ..., w_{K-1}, v):  v >= w . u_i,  w >= 0,  sum w <= 1,  v <= above all.
    """
    K = vectors.shape[1]
    spread = max(np.ptp(vectors), 1e-12)
    u = (vectors - vectors.min()) / spread  # values in [0, 1] keep the geometry well scaled
    surface = np.c_[u[:, :-1] - u[:, -1:], -np.ones(len(u)), u[:, -1]]
    simplex = np.r_[np.c_[-np.eye(K - 1), np.zeros((K - 1, 2))], np.r_[np.ones(K - 1), 0.0, -1.0][None]]
    cap = np.r_[np.zeros(K - 1), 1.0, -3.0][None]
    inside = np.r_[np.full(K - 1, 1 / K), 2.0]
    points = HalfspaceIntersection(np.r_[surface, simplex, cap], inside).intersections
    points = points[points[:, -1] < 2.5, :-1]
    weights = np.clip(np.c_[points, 1 - points.sum(1)], 0, None)
    return np.unique(np.round(weights / weights.sum(1, keepdims=True), 12), axis=0)


def extreme(vectors: np.ndarray, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """(kept indices, weights): the vectors that beat all others at some weight by more than tol, and that weight."""
    kept, weights = [], []
    for i, u in enumerate(vectors):
        others = np.delete(vectors, i, 0)
        if not len(others):
            return np.array([0]), np.full((1, vectors.shape[1]), 1 / vectors.shape[1])
        K = len(u)
        # max margin  s.t.  w . (u - other) >= margin,  w on the simplex
        result = linprog(
            np.r_[np.zeros(K), -1.0], np.c_[others - u, np.ones(len(others))], np.zeros(len(others)),
            np.r_[np.ones(K), 0.0][None], [1.0], bounds=[(0, None)] * K + [(None, None)], method="highs",
        )  # fmt: skip
        if result.status == 0 and -result.fun > tol:
            kept.append(i)
            weights.append(result.x[:K])
    return np.array(kept, dtype=int), np.array(weights)


def scalarised(mdp: TabularMDP, weights: Float[Tensor, "M K"]) -> TabularMDP:
    """A batch of M single-objective MDPs that share the dynamics."""
    M = len(weights)
    r = torch.einsum("mk,ksa->msa", weights, mdp.r)
    expand = lambda t: None if t is None else t.expand(M, *t.shape)  # noqa: E731
    return TabularMDP(expand(mdp.P), r, expand(mdp.mu0), expand(mdp.discount), expand(mdp.action_mask), check=False)


def _best_vectors(mdp: TabularMDP, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(V (M, S), policies (M, S, A), vectors (M, K)) of the scalarised optima."""
    V, actions, _ = policy_iteration(scalarised(mdp, weights))
    policy = one_hot(actions, mdp.num_actions, mdp.dtype)
    expand = lambda t: None if t is None else t.expand(len(weights), *t.shape)  # noqa: E731
    each = TabularMDP(expand(mdp.P), expand(mdp.r), expand(mdp.mu0), expand(mdp.discount), check=False)
    return V, policy, (policy_value(each, policy) * mdp.mu0).sum(-1)


def solve_coverage(problem: TabularMDP, *, method: str = "auto", tol: float = 1e-8, limit: int = 10_000) -> Solution:
    """The minimal convex coverage set of J = mu0 . V over all policies; K >= 2 objectives, all maximised.

    policy (N, S, A): deterministic policies; extra["vectors"] (N, K), extra["weights"] (N, K) where each wins alone;
    the proof of completeness: extra["corners"] (M, K) and V (M, S), the optimal values at every corner weight.
    """
    if method not in ("auto", "ols"):
        raise unknown("method", method, ("auto", "ols"))
    validate_objectives(problem)
    K = len(problem.r)
    done: dict[bytes, Tensor] = {}
    corners = np.r_[np.eye(K), np.full((1, K), 1 / K)]
    vectors, policies = np.zeros((0, K)), problem.P.new_zeros(0, *problem.r.shape[1:])
    for iterations in range(1, limit + 1):  # noqa: B007
        fresh = np.array([w for w in corners if w.tobytes() not in done]).reshape(-1, K)
        if not len(fresh):
            break
        weights = torch.as_tensor(fresh).to(problem.P)
        V, policy, found = _best_vectors(problem, weights)
        done |= {w.tobytes(): v for w, v in zip(fresh, V, strict=True)}
        for w, u, pi in zip(fresh, found.cpu().numpy().astype(float), policy, strict=True):
            if not len(vectors) or w @ u > (vectors @ w).max() + 1e-2 * tol * (1 + np.abs(u).max()):
                vectors, policies = np.r_[vectors, u[None]], torch.cat([policies, pi[None]])
        corners = corner_weights(vectors)
    else:
        raise UserError(f"the coverage set did not close in {limit} rounds; valid is a larger tol.")
    kept, unique_at = extreme(vectors, 1e-2 * tol)
    to = lambda x: torch.as_tensor(x).to(problem.P)  # noqa: E731
    corners = corner_weights(vectors[kept])
    missing = np.array([w for w in corners if w.tobytes() not in done]).reshape(-1, K)
    if len(missing):
        done |= {w.tobytes(): v for w, v in zip(missing, _best_vectors(problem, to(missing))[0], strict=True)}
    answer = Solution(
        V=torch.stack([done[w.tobytes()] for w in corners]), policy=policies[torch.as_tensor(kept)],
        iterations=iterations,
        extra={"vectors": to(vectors[kept]), "weights": to(unique_at), "corners": to(corners)},
    )  # fmt: skip
    return certified(answer, "coverage", coverage_checks.check_coverage, problem, tol)
