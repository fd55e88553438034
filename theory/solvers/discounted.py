"""Discounted MDPs: value iteration, modified policy iteration and policy iteration, over a whole batch.

    V*(s) = max_a r(s, a) + sum_t discount(s, a) P(t | s, a) V*(t)

No method stops on the sup-norm of a step: each returns two-sided bounds (`bellman.bounds`) on V* and on the value of
its own policy. Problems that have converged leave the batch. Everything is computed in float64.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman import (
    Backup,
    Bounds,
    Weight,
    bounds,
    chunks,
    flatten,
    howard,
    one_hot,
    take,
    weight,
)
from fenchel.theory.solvers.linear_program import value_program
from fenchel.theory.solvers.solution import Certificate, Solution

METHODS = ("auto", "vi", "mpi", "pi", "lp", "fused")


def solve_discounted(
    problem, *, method: str = "auto", tol: float = 1e-8, occupancy: bool | None = None, limit: int = 100_000
) -> Solution:
    """The optimum of a TabularMDP (any batch) or of a SparseMDP.

    method: "vi", "mpi" (20 sweeps per policy), "pi" (exact), "lp" (HiGHS, dual-V form), "fused" (numba, extra `fast`:
    policy iteration, one MDP per thread), "auto". `tol` bounds the certificate's gap, relative to max(1, |V|).
    Returns V, Q, policy (one-hot), lower <= V^policy <= V* <= upper, iterations per problem and, unless occupancy=False
    (sparse: only if True), d(s, a) = E sum_t (product of discounts) 1[s_t = s, a_t = a], which sums to 1 / (1 - gamma).
    Raises UserError for unknown methods, reward channels, a discount of 1 where some policy never terminates ("fused":
    any), bounds that stay apart for `limit` steps, and "fused" without numba or off the CPU.
    """
    if not isinstance(problem, TabularMDP):
        from fenchel.theory.solvers.sparse_discounted import solve_sparse

        return solve_sparse(problem, method=method, tol=tol, occupancy=bool(occupancy), limit=limit)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    with torch.no_grad():
        flat = flatten(problem)
        method = _choose(flat) if method == "auto" else method
        if method == "fused":
            from fenchel.theory.solvers.fused import fused_policy_iteration

            found, Q, iterations = fused_policy_iteration(flat, limit)
        elif method in ("pi", "lp"):
            found, Q, iterations = _chunked(flat, method, limit)
        else:
            found, iterations = _sweeping(flat, weight(flat), 20 if method == "mpi" else 0, tol, limit)
            Q = flat.q(found.middle)
        return _solution(problem, flat, found, Q, iterations, tol, occupancy is not False)


def _choose(flat: Backup) -> str:
    B, S = flat.mu0.shape
    if S <= 64 and B >= 16 and flat.P.device.type == "cpu" and find_spec("numba") and flat.discount.max() < 1 - 1e-9:
        return "fused"
    return "pi" if S <= 2000 else "mpi"


def _solution(
    mdp: TabularMDP, flat: Backup, found: Bounds, Q: Tensor, iterations: Tensor, tol: float, occupancy: bool
) -> Solution:
    batch, dtype = mdp.batch_shape, mdp.dtype
    policy = one_hot(found.actions, mdp.num_actions, torch.float64)

    def shaped(t: Tensor) -> Tensor:
        return t.reshape(*batch, *t.shape[1:]).to(dtype)

    answer = Solution(
        V=shaped(found.middle), Q=shaped(Q), policy=shaped(policy), lower=shaped(found.lower),
        upper=shaped(found.upper), iterations=iterations.reshape(batch),
        certificate=Certificate("discounted", {"gap": found.gap.reshape(batch)}, tol),
    )  # fmt: skip
    if not occupancy:
        return answer
    return replace(answer, occupancy=shaped(discounted_occupancy(flat, found.actions)[..., None] * policy))


def discounted_occupancy(flat: Backup, actions: Int[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """State occupancy of a deterministic policy: (I - M')^{-1} mu0."""
    eye = torch.eye(flat.P.shape[1], dtype=flat.P.dtype, device=flat.P.device)
    parts = [torch.linalg.solve(eye - flat[c].greedy(actions[c])[0].mT, flat.mu0[c]) for c in chunks(flat)]
    return torch.cat(parts)


# -- value iteration and modified policy iteration -------------------------------------------------------------------


def _sweeping(problem: Backup, w: Weight, sweeps: int, tol: float, limit: int) -> tuple[Bounds, Tensor]:
    """A greedy step with bounds, then `sweeps` backups of its policy (0: value iteration), until the gap is `tol`."""
    B, S = problem.mu0.shape
    lower, upper = torch.empty_like(problem.mu0), torch.empty_like(problem.mu0)
    actions = torch.zeros(B, S, dtype=torch.int64, device=lower.device)
    iterations = torch.zeros(B, dtype=torch.int64, device=lower.device)
    index = torch.arange(B, device=lower.device)
    V, waiting = torch.zeros_like(lower), index >= 0
    for iteration in range(1, limit + 1):
        Q = problem.q(V)
        found = bounds(V, Q, w)
        ready = waiting & (found.gap <= tol)
        if ready.any():
            done = index[ready]
            lower[done], upper[done] = found.lower[ready], found.upper[ready]
            actions[done], iterations[done] = found.actions[ready], iteration
            waiting = waiting & ~ready
            if not waiting.any():
                return Bounds(lower, upper, actions), iterations
        if 2 * int(waiting.sum()) <= len(index):
            problem, w, index = problem[waiting], w[waiting], index[waiting]
            Q, found = Q[waiting], Bounds(found.lower[waiting], found.upper[waiting], found.actions[waiting])
            waiting = waiting[waiting]
        V = take(Q, found.actions)
        if sweeps:
            kernel, reward = problem.greedy(found.actions)
            for _ in range(sweeps):
                V = torch.baddbmm(reward[..., None], kernel, V[..., None])[..., 0]
    raise UserError(f"the bounds did not reach tol={tol:g} in {limit} iterations; valid are a larger tol or limit.")


# -- exact methods ---------------------------------------------------------------------------------------------------


def _chunked(flat: Backup, method: str, limit: int) -> tuple[Bounds, Tensor, Tensor]:
    """(bounds, Q, iterations); Q is that of the policy's exact value, which lies within the bounds' rounding."""
    parts, qs, counts = [], [], []
    for c in chunks(flat):
        problem = flat[c]
        w = weight(problem)
        if method == "pi":
            V, Q, actions, count = howard(problem, limit=limit)
        else:
            V, actions, count = value_program(problem)
            Q = problem.q(V)
        parts.append(bounds(V, Q, w, actions))
        qs.append(Q)
        counts.append(count)
    lower, upper, actions = (torch.cat([getattr(p, k) for p in parts]) for k in ("lower", "upper", "actions"))
    return Bounds(lower, upper, actions), torch.cat(qs), torch.cat(counts)


# -- a fixed policy --------------------------------------------------------------------------------------------------


def solve_evaluation(
    problem: TabularMDP, *, method: str = "auto", tol: float = 1e-8, policy: Float[Tensor, "*b S A"]
) -> Solution:
    """V, Q and unnormalised occupancy of `policy`; lower and upper bound its value. method: "auto" or "solve"."""
    if method not in ("auto", "solve"):
        raise unknown("method", method, ("auto", "solve"))
    check_policy(problem, policy)
    with torch.no_grad():
        flat, batch = flatten(problem), problem.batch_shape
        pi = policy.reshape(-1, *policy.shape[-2:]).double()
        kernel = torch.einsum("bsa,bsa,bsat->bst", pi, flat.discount, flat.P)
        reward = (pi * (flat.r if flat.missing is None else flat.r.masked_fill(flat.missing, 0))).sum(-1)
        chain = Backup(kernel[:, :, None], reward[..., None], flat.mu0, torch.ones_like(reward)[..., None], None)
        w = weight(chain)
        eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
        lu = torch.linalg.lu_factor(eye - kernel)
        V = torch.linalg.lu_solve(*lu, reward[..., None])[..., 0]
        d = torch.linalg.lu_solve(*lu, flat.mu0[..., None], adjoint=True) * pi
        found = bounds(V, chain.q(V), w)

        def shaped(t: Tensor) -> Tensor:
            return t.reshape(*batch, *t.shape[1:]).to(problem.dtype)

        return Solution(
            V=shaped(V), Q=shaped(flat.q(V)), policy=policy, occupancy=shaped(d), lower=shaped(found.lower),
            upper=shaped(found.upper), iterations=1,
            certificate=Certificate("evaluation", {"gap": found.gap.reshape(batch)}, tol),
        )  # fmt: skip


def check_policy(mdp: TabularMDP, policy: Tensor, name: str = "policy") -> None:
    """Raises UserError unless `policy` is a distribution over the existing actions of every state."""
    if policy.shape != mdp.P.shape[:-1]:
        raise UserError(f"{name} must be {tuple(mdp.P.shape[:-1])} to match P, not {tuple(policy.shape)}.")
    tolerance = 1e-9 if policy.dtype == torch.float64 else 1e-5
    off = ~((policy.sum(-1) - 1).abs() <= tolerance) | ~(policy >= 0).all(-1) | ((policy > 0) & ~mdp.mask).any(-1)
    if off.any():
        state = torch.nonzero(off)[0].tolist()[-1]
        raise UserError(f"{name} is not a distribution over the actions of state {state}.")
