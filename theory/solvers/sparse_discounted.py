"""Discounted sparse MDPs, up to millions of states: modified policy iteration and sparse policy iteration.

The greedy step with its two-sided bounds reads every pair; the sweeps in between read only the rows of one policy,
which are gathered once into a compact table. Bounds are those of `bellman.bounds` with h = 1, so every discount must
be below 1. Memory: P, one (S, A) table of Q, and vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, identity
from scipy.sparse.linalg import bicgstab, splu
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.solvers.bellman import EPS, STRICT, take
from fenchel.theory.solvers.solution import Certificate, Solution
from fenchel.theory.sparse import SparseMDP

METHODS = ("auto", "vi", "mpi", "pi", "fused")
SWEEPS = 20
SMALL = 20_000  # states up to which sparse LU is tried before an iterative solver

# V -> (V greedy, actions, (high, low) of bellman.bounds): one pass over all pairs
Greedy = Callable[[Tensor], tuple[Tensor, Tensor, tuple[float, float]]]
Sweep = Callable[[Tensor, Tensor, int], Tensor]  # (V, actions, number of backups of that policy) -> V


def solve_sparse(
    problem: SparseMDP, *, method: str = "auto", tol: float = 1e-8, occupancy: bool = False, limit: int = 100_000
) -> Solution:
    """V, policy as extra["actions"] (S,), lower and upper bounds; Q and `policy` (one-hot) up to 1e7 pairs.

    method: "vi", "mpi", "fused" (mpi in numba, extra `fast`), "pi" (sparse LU when small, else BiCGSTAB), "auto".
    occupancy: also the unnormalised occupancy (S, A) of the policy, whose missing mass is below `tol` of the whole.
    Raises UserError at discount 1, for reward channels, unknown methods, bounds still apart after `limit` steps, and
    where BiCGSTAB fails on a policy of more than 20,000 states.
    """
    if not isinstance(problem, SparseMDP):
        raise UserError(f"problem must be a TabularMDP or a SparseMDP, not {type(problem).__name__}.")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if problem.num_channels:
        raise UserError("r has channels; valid is one reward (S, A).")
    if float(problem.discount.masked_fill(~problem.mask, 0).max()) > 1 - 1e-9:
        raise UserError("discount must be below 1 everywhere in a sparse MDP; termination is a discount of 0.")
    with torch.no_grad():
        mdp = problem if problem.dtype == torch.float64 else problem.to(dtype=torch.float64)
        if method == "auto":
            method = "fused" if find_spec("numba") and mdp.device.type == "cpu" else "mpi"
        if method == "fused":
            from fenchel.theory.solvers.fused_sparse import kernels

            greedy, sweep = kernels(mdp)
        else:
            greedy, sweep = _torch_kernels(mdp)
        if method == "pi":
            found, iterations = _policy_iteration(mdp, greedy, min(limit, 1000))
        else:
            found, iterations = _modified(mdp, greedy, sweep, 0 if method == "vi" else SWEEPS, tol, limit)
        answer = _solution(problem, mdp, found, iterations, tol)
        if not occupancy:
            return answer
        return replace(answer, occupancy=_occupancy(mdp, found[2], tol, limit).to(problem.dtype))


def _occupancy(mdp: SparseMDP, actions: Tensor, tol: float, limit: int) -> Tensor:
    """sum_t (M_pi')^t mu0 (S, A), until what is left, at most mass / (1 - greatest discount), is below `tol`."""
    chosen = torch.nn.functional.one_hot(actions, mdp.num_actions).to(mdp.dtype)
    chain = mdp.policy_matrix(actions).to_sparse_coo().t().to_sparse_csr()
    slack = 1 - float(take(mdp.discount, actions).max())
    total, step = mdp.mu0.clone(), mdp.mu0
    for _ in range(limit):
        step = chain @ step
        total += step
        if float(step.sum()) <= tol * slack:
            return total[:, None] * chosen
    raise UserError(f"the occupancy did not reach tol={tol:g} in {limit} steps; valid are a larger tol or limit.")


def _solution(problem: SparseMDP, mdp: SparseMDP, found: tuple, iterations: int, tol: float) -> Solution:
    lower, upper, actions = found
    V = (lower + upper) / 2
    Q: Any = None
    policy: Any = None
    if mdp.num_states * mdp.num_actions <= 10_000_000:
        Q = mdp.backup(V).masked_fill(~mdp.mask, -torch.inf).to(problem.dtype)
        policy = torch.nn.functional.one_hot(actions, mdp.num_actions).to(problem.dtype)
    gap = (upper - lower).amax() / torch.maximum(lower.abs(), upper.abs()).amax().clamp(min=1)
    return Solution(
        V=V.to(problem.dtype), Q=Q, policy=policy, lower=lower.to(problem.dtype), upper=upper.to(problem.dtype),
        iterations=iterations, certificate=Certificate("discounted", {"gap": gap}, tol), extra={"actions": actions},
    )  # fmt: skip


def _torch_kernels(mdp: SparseMDP) -> tuple[Greedy, Sweep]:
    slack = 1 - mdp.discount * mdp.prob.sum(-1)
    least = slack.masked_fill(~mdp.mask, 1.0).amin()

    def greedy(V: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
        Q = mdp.backup(V)
        if mdp.action_mask is not None:
            Q = Q.masked_fill(~mdp.action_mask, -torch.inf)
        best, actions = Q.max(-1)
        excess = (Q - V[:, None]) / slack
        rounding = 4 * EPS * float(V.abs().max() / least)
        return best, actions, (float(excess.max()) + rounding, float(take(excess, actions).min()) - rounding)

    def sweep(V: Tensor, actions: Tensor, count: int) -> Tensor:
        chain, reward = mdp.policy_matrix(actions), take(mdp.r, actions)
        for _ in range(count):
            V = torch.addmv(reward, chain, V)
        return V

    return greedy, sweep


def _close(mdp: SparseMDP, best: Tensor, actions: Tensor, high: float, low: float) -> tuple[Tensor, Tensor, Tensor]:
    """(lower, upper, actions). The upper bound takes the greatest (least, if high < 0) mass of all pairs."""
    mass = mdp.discount * (mdp.prob @ mdp.prob.new_ones(mdp.prob.shape[-1]))  # faster than a sum over a short axis
    kept = mass.masked_fill(~mdp.mask, 0).amax(-1) if high >= 0 else mass.masked_fill(~mdp.mask, 1).amin(-1)
    return best + low * take(mass, actions), best + high * kept, actions


def _modified(
    mdp: SparseMDP, greedy: Greedy, sweep: Sweep, sweeps: int, tol: float, limit: int
) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    V = torch.zeros(mdp.num_states, dtype=torch.float64, device=mdp.device)
    for iteration in range(1, limit + 1):
        best, actions, (high, low) = greedy(V)
        if high - low <= tol * max(1.0, float(best.abs().max())):
            found = _close(mdp, best, actions, high, low)
            if float((found[1] - found[0]).max()) <= tol * max(1.0, float(best.abs().max())):
                return found, iteration
        V = sweep(best, actions, sweeps) if sweeps else best
    raise UserError(f"the bounds did not reach tol={tol:g} in {limit} iterations; valid are a larger tol or limit.")


def _policy_iteration(mdp: SparseMDP, greedy: Greedy, limit: int) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
    V = torch.zeros(mdp.num_states, dtype=torch.float64, device=mdp.device)
    for _ in range(3):
        V, actions, _ = greedy(V)
    for iteration in range(1, limit + 1):
        V = _evaluate(mdp, actions, V)
        best, better, (high, low) = greedy(V)
        own = take(mdp.r, actions) + mdp.policy_matrix(actions) @ V
        change = best > own + STRICT * max(1.0, float(V.abs().max()))
        if not bool(change.any()):
            return _close(mdp, best, better, high, low), iteration
        actions = torch.where(change, better, actions)
    raise UserError(f"policy iteration did not settle in {limit} steps; valid are problems with finite values.")


def _evaluate(mdp: SparseMDP, actions: Tensor, start: Tensor) -> Tensor:
    """(I - M_pi)^{-1} r_pi: BiCGSTAB to rounding, and sparse LU where that fails and the problem is small."""
    chain = mdp.policy_matrix(actions)
    parts = (chain.values(), chain.col_indices(), chain.crow_indices())
    matrix = csr_matrix(tuple(t.cpu().numpy() for t in parts), chain.shape)
    system, reward = identity(mdp.num_states, format="csr") - matrix, take(mdp.r, actions).cpu().numpy()
    V, info = bicgstab(system, reward, x0=start.cpu().numpy(), rtol=1e-14, atol=0.0, maxiter=2000)
    residual = np.abs(reward - system @ V).max()
    if info != 0 or not residual <= 1e-12 * max(1.0, np.abs(V).max()):
        if mdp.num_states > SMALL:
            raise UserError(
                "method=pi: BiCGSTAB did not converge on this policy; valid for such problems is method=mpi."
            )
        V = splu(system.tocsc()).solve(reward)
    return torch.as_tensor(V, device=mdp.device)
