"""Utilities of several objectives over all policies, randomised ones too, by one linear program over occupancies.

    max_d  u(J(d)),   J_k(d) = <r_k, d>,   u(v) = min_{lam in L} lam . (v - z),   L a polytope in lam >= 0

    linear      w . v                                          L = {w}
    chebyshev   - max_k w_k (z_k - v_k)                        L = {lam : sum_k lam_k / w_k = 1};  z the ideal point
    gini        sum_i w_i v_(i), v_(1) <= v_(2) <= ...         L = convex hull of the permutations of w, which falls

Every concave, monotone, piecewise linear utility has this form. The program is solved from its dual,

    min_{V, lam in L}  mu0 . V - lam . z    s.t.   V >= sum_k lam_k r_k + kernel V,

whose marginals are the optimal occupancy: the answer is optimal for the linear weights lam too, and where u is not
linear its policy has to be randomised in general. Deterministic policies do as well only on the vertices.

`constrained_front` walks along the front itself: max J_0 subject to J_k >= floor_k, one constrained MDP per floor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.solvers import utility_checks
from fenchel.theory.solvers.bellman import policy_iteration
from fenchel.theory.solvers.cmdp import solve_cmdp
from fenchel.theory.solvers.coverage import scalarised, validate_objectives
from fenchel.theory.solvers.game_checks import certified
from fenchel.theory.solvers.linear_program import OPTIONS, clean
from fenchel.theory.solvers.solution import Solution

UTILITIES = ("linear", "chebyshev", "gini")


def _validate(utility: str, weights: Sequence[float] | Tensor, like: TabularMDP) -> Float[Tensor, " K"]:
    K = len(like.r)
    w = torch.as_tensor(weights, dtype=like.dtype, device=like.device)
    if utility not in UTILITIES:
        raise unknown("utility", utility, UTILITIES)
    if w.shape != (K,) or not torch.isfinite(w).all() or bool((w < 0).any()):
        raise UserError(f"weights must be {K} numbers of at least 0, one per objective, not {w.tolist()}.")
    if utility == "chebyshev" and bool((w == 0).any()):
        raise UserError("weights of utility=chebyshev must be above 0; an objective without weight can be left out.")
    if utility == "gini" and bool((w.diff() > 0).any()):
        raise UserError("weights of utility=gini must not rise: the first is that of the smallest objective.")
    return w


def ideal_point(mdp: TabularMDP) -> Float[Tensor, " K"]:
    """The best value of each objective by itself."""
    each = scalarised(mdp, torch.eye(len(mdp.r), dtype=mdp.dtype, device=mdp.device))
    return policy_iteration(each)[0] @ mdp.mu0


def solve_utility(
    problem: TabularMDP,
    *,
    utility: str = "chebyshev",
    weights: Sequence[float] | Tensor,
    ideal: Sequence[float] | Tensor | None = None,
    method: str = "auto",
    tol: float = 1e-8,
) -> Solution:
    """The policy (randomised) that maximises u(J), J = mu0 . V of every objective; discounts below 1.

    ideal: z of `chebyshev`, by default the best value of each objective by itself (for the others 0).
    lower = u(J) reached, upper = the dual bound, multipliers = lam (K,), extra["vectors"] (1, K) = J, extra["ideal"].
    """
    if method not in ("auto", "lp"):
        raise unknown("method", method, ("auto", "lp"))
    validate_objectives(problem)
    w = _validate(utility, weights, problem)
    if ideal is None:
        z = ideal_point(problem) if utility == "chebyshev" else torch.zeros_like(w)
    else:
        z = torch.as_tensor(ideal, dtype=w.dtype, device=w.device)
    V, lam, d = _program(problem, *_polytope(utility, w.cpu().numpy()), z)
    J = torch.einsum("ksa,sa->k", problem.r, d)
    visited = d.sum(-1, keepdim=True)
    other = problem.mask.to(d) / problem.mask.sum(-1, keepdim=True)
    answer = Solution(
        V=V, occupancy=d, policy=torch.where(visited > 1e-12, d / visited.clamp(min=1e-300), other), multipliers=lam,
        lower=utility_checks.value(utility, J, w, z), upper=problem.mu0 @ V - lam @ z,
        extra={"vectors": J[None], "ideal": z},
    )  # fmt: skip
    options = {"utility": utility, "weights": w, "ideal": z}
    return certified(answer, "utility", utility_checks.check_utility, problem, tol, **options)


def _polytope(utility: str, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M (K, m), E (c, m)): L = {M y : y >= 0, E y = 1}."""
    K = len(w)
    if utility == "linear":
        return w[:, None], np.ones((1, 1))
    if utility == "chebyshev":
        return np.diag(w), np.ones((1, K))
    rows, columns = np.kron(np.eye(K), np.ones(K)), np.kron(np.ones(K), np.eye(K))  # y: doubly stochastic (K, K)
    return np.kron(np.eye(K), w), np.r_[rows, columns]


def _program(mdp: TabularMDP, M: np.ndarray, E: np.ndarray, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(V (S,), lam (K,), occupancy (S, A))."""
    S, A, m = mdp.num_states, mdp.num_actions, M.shape[1]
    pairs = np.flatnonzero(mdp.mask.reshape(-1).cpu().numpy())
    rows = clean(mdp.kernel.reshape(-1, S).cpu().numpy().astype(float)[pairs])
    channels = mdp.r.flatten(1).T.cpu().numpy().astype(float)[pairs]
    state = np.eye(S)[pairs // A]
    cost = np.r_[mdp.mu0.cpu().numpy(), -z.cpu().numpy() @ M]
    equal = np.c_[np.zeros((len(E), S)), E]
    result = linprog(
        cost, sparse.csr_matrix(np.c_[rows - state, channels @ M]), np.zeros(len(pairs)), equal, np.ones(len(E)),
        bounds=[(None, None)] * S + [(0, None)] * m, method="highs", options=OPTIONS,
    )  # fmt: skip
    if result.status != 0:
        raise UserError(f"the linear program of the utility ended with: {result.message}")
    d = np.zeros(S * A)
    d[pairs] = np.clip(-result.ineqlin.marginals, 0, None)
    to = lambda x: torch.as_tensor(x).to(mdp.P)  # noqa: E731
    return to(result.x[:S]), to(M @ result.x[S:]), to(d.reshape(S, A))


def constrained_front(
    problem: TabularMDP, floors: Float[Tensor, "M K-1"], tol: float = 1e-8
) -> tuple[Float[Tensor, "M K"], list[Solution]]:
    """For each row of `floors`: max J_0 subject to J_k >= floor_k for k = 1, ..., K - 1, over randomised policies.

    Returns the vectors J reached and the certified solutions of the constrained MDPs, whose costs are the negated
    objectives. Raises InfeasibleError (a UserError) for a floor that no policy reaches.
    """
    validate_objectives(problem)
    turned = replace_reward(problem, torch.cat([problem.r[:1], -problem.r[1:]]))
    answers = [
        solve_cmdp(turned, budgets=-row, unit="discounted", method="lp", tol=tol) for row in floors.to(problem.P)
    ]
    reached = [torch.einsum("ksa,sa->k", problem.r, answer.occupancy) for answer in answers]
    return torch.stack(reached), answers
