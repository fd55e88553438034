"""Exact Pareto sets of deterministic policies; unlike the coverage set they may be non-convex.

enumeration   all deterministic stationary policies (at most `limit`)
dynamic       finite horizon, or states without cycles: V(s) = nondominated of  union_a r(s, a) + sum_s' k V(s')
              with set-valued sums (White 1982). Its policies are deterministic and may remember their history;
              with deterministic transitions that adds nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.fronts import nondominated
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import coverage_checks
from fenchel.theory.solvers.bellman import one_hot
from fenchel.theory.solvers.coverage import validate_objectives
from fenchel.theory.solvers.game_checks import certified
from fenchel.theory.solvers.solution import Solution

METHODS = ("auto", "enumeration", "dynamic")
CHUNK = 4096


def _enumerate(mdp: TabularMDP, limit: int) -> tuple[Tensor, Tensor]:
    choices = [torch.nonzero(m)[:, 0] for m in mdp.mask]
    count = 1
    for c in choices:
        count *= len(c)
    if count > limit:
        raise UserError(f"{count} deterministic policies exceed limit={limit}; use method=dynamic with a horizon.")
    every = torch.cartesian_prod(*choices).reshape(count, mdp.num_states)
    vectors, actions = mdp.P.new_zeros(0, len(mdp.r)), every[:0]
    eye = torch.eye(mdp.num_states, dtype=mdp.dtype, device=mdp.device)
    states = torch.arange(mdp.num_states, device=mdp.device)
    for chunk in every.split(CHUNK):
        kernel, reward = mdp.kernel[states, chunk], mdp.r[:, states, chunk].movedim(0, -1)
        J = torch.einsum("s,nsk->nk", mdp.mu0, torch.linalg.solve(eye - kernel, reward))
        vectors, actions = torch.cat([vectors, J]), torch.cat([actions, chunk])
        kept = nondominated(vectors)
        vectors, actions = vectors[kept], actions[kept]
    return vectors, actions


def _set_sum(terms: list[tuple[float, Tensor]], K: int, like: Tensor, limit: int) -> Tensor:
    """Nondominated part of sum_i weight_i * set_i; pruning between the sums loses nothing for weights >= 0."""
    total = like.new_zeros(1, K)
    for weight, vectors in terms:
        if len(total) * len(vectors) > limit:
            raise UserError(
                f"a sum of {len(total)} x {len(vectors)} vectors exceeds limit={limit}; use a smaller horizon."
            )
        total = (total[:, None] + weight * vectors[None]).reshape(-1, K)
        total = total[nondominated(total)]
    return total


def _backup(mdp: TabularMDP, state: int, values: list[Tensor], limit: int) -> Tensor:
    K, options = len(mdp.r), []
    for action in torch.nonzero(mdp.mask[state])[:, 0].tolist():
        row = mdp.kernel[state, action]
        terms = [(float(row[t]), values[t]) for t in torch.nonzero(row)[:, 0].tolist()]
        options.append(mdp.r[:, state, action] + _set_sum(terms, K, mdp.r, limit))
    union = torch.cat(options)
    return union[nondominated(union)]


def _reverse_topological(mdp: TabularMDP) -> list[int] | None:
    """States ordered so that successors come first, or None if a cycle survives the discount."""
    edges = ((mdp.kernel > 0) & mdp.mask[..., None]).any(1)
    order, left = [], set(range(mdp.num_states))
    while left:
        ready = [s for s in left if not any(t in left for t in torch.nonzero(edges[s])[:, 0].tolist())]
        if not ready:
            return None
        order += sorted(ready)
        left -= set(ready)
    return order


def _dynamic(mdp: TabularMDP, horizon: int | None, limit: int) -> Tensor:
    K = len(mdp.r)
    values = [mdp.r.new_zeros(1, K) for _ in range(mdp.num_states)]
    if horizon is None:
        order = _reverse_topological(mdp)
        if order is None:
            raise UserError("the states have a cycle: method=dynamic needs horizon, or use method=enumeration.")
        for state in order:
            values[state] = _backup(mdp, state, values, limit)
    else:
        for _ in range(horizon):
            values = [_backup(mdp, state, values, limit) for state in range(mdp.num_states)]
    return _set_sum([(float(p), v) for p, v in zip(mdp.mu0, values, strict=True) if p > 0], K, mdp.r, limit)


def solve_pareto(
    problem: TabularMDP, *, method: str = "auto", tol: float = 1e-8, horizon: int | None = None, limit: int = 1_000_000
) -> Solution:
    """extra["vectors"] (N, K): the nondominated J = mu0 . V, best first channel first; `policy` (N, S, A) when
    enumerated. limit: on policies enumerated, or on the vectors of one set sum.
    method "auto": dynamic when a horizon is given or the states have no cycle, else enumeration.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    validate_objectives(problem)
    if horizon is not None and horizon < 1:
        raise UserError(f"horizon={horizon} is not valid; it must be at least 1.")
    if method == "auto":
        acyclic = horizon is not None or _reverse_topological(problem) is not None
        method = "dynamic" if acyclic else "enumeration"
    if method == "enumeration":
        if horizon is not None:
            raise UserError("method=enumeration is for stationary policies; horizon needs method=dynamic.")
        vectors, actions = _enumerate(problem, limit)
    else:
        vectors = _dynamic(problem, horizon, limit)
    answer = Solution(extra={"vectors": vectors})
    if method == "enumeration":
        answer = replace(answer, policy=one_hot(actions, problem.num_actions, problem.dtype))
    return certified(answer, "pareto", coverage_checks.check_pareto, problem, tol, horizon=horizon)
