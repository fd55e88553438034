"""Distances to every goal: least expected cost until the goal is reached (stochastic shortest path), all pairs.

    D[g, s] = min over policies that reach g with certainty of E sum_t cost(s_t, a_t);  inf where there is none

Costs may be zero, so cycles may be free and the Bellman equation may have several solutions. The distance is the
greatest one: policy iteration from a proper policy (one that reaches the goal with certainty), switching only on a
strict improvement, stays proper and ends there (Bertsekas and Tsitsiklis 1991 for positive costs; a free cycle would
need a strict improvement around it, which sums to a contradiction).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import reachability_checks
from fenchel.theory.solvers.bellman import one_hot, policy_iteration
from fenchel.theory.solvers.game_checks import certified
from fenchel.theory.solvers.solution import Solution

METHODS = ("auto", "policy_iteration", "shortest_path")


def certain(edges: Bool[Tensor, "*g S A S"], goal: Bool[Tensor, "*g S"]) -> tuple[Tensor, Tensor]:
    """(states from which some policy reaches goal with probability one, such a policy (..., S) int64).

    Nested fixed point: the greatest set W in which every state can step towards the goal by actions that stay in W.
    """
    W = torch.ones_like(goal)
    while True:
        stays = ~(edges & ~W[..., None, None, :]).any(-1) & edges.any(-1)
        reached, action = goal, torch.zeros_like(goal, dtype=torch.int64)
        while True:
            hits = stays & (edges & reached[..., None, None, :]).any(-1)
            fresh = hits.any(-1) & W & ~reached
            if not fresh.any():
                break
            action = torch.where(fresh, hits.to(torch.int8).argmax(-1), action)
            reached = reached | fresh
        if (reached == W).all():
            return W, action
        W = reached


def _shortest_path(cost: Tensor, successor: Tensor, mask: Tensor, goals: Tensor) -> tuple[Tensor, Tensor, int]:
    """Bellman-Ford over all goals at once: after k sweeps, the cheapest paths of at most k steps."""
    S = cost.shape[0]
    D = torch.full((len(goals), S), torch.inf, dtype=cost.dtype, device=cost.device)
    D[torch.arange(len(goals)), goals] = 0
    actions = torch.zeros(len(goals), S, dtype=torch.int64, device=cost.device)
    for sweep in range(1, S + 1):
        through = (cost + D[:, successor]).masked_fill(~mask, torch.inf)
        best, greedy = through.min(-1)
        better = best < D
        if not better.any():
            return D, actions, sweep
        D, actions = torch.where(better, best, D), torch.where(better, greedy, actions)
    return D, actions, S


def _stochastic(mdp: TabularMDP, cost: Tensor, goals: Tensor) -> tuple[Tensor, Tensor, int]:
    G, S = len(goals), mdp.num_states
    goal = torch.nn.functional.one_hot(goals, S).bool()
    edges = ((mdp.P > 0) & mdp.mask[..., None]).expand(G, *mdp.P.shape)
    proper, start = certain(edges, goal)
    live = proper & ~goal
    # actions that may leave the proper set are forbidden; elsewhere and at the goal everything is absorbed at once
    stays = ~(edges & ~proper[..., None, None, :]).any(-1) & mdp.mask
    allowed = torch.where(live[..., None], stays, mdp.mask)
    P = mdp.P * live[..., :, None, None] * live[..., None, None, :]
    reward = -cost * live[..., None]
    start = torch.where(live, start, mdp.mask.to(torch.int8).argmax(-1))
    problem = TabularMDP(P, reward, mdp.mu0.expand(G, S), torch.ones_like(reward), allowed, check=False)
    V, actions, steps = policy_iteration(problem, start, frozen=~live)
    return torch.where(proper, -V, torch.inf), actions, steps


def solve_goal_distance(
    problem: TabularMDP, *, cost: Tensor | float = 1.0, goals: Tensor | None = None, method: str = "auto",
    tol: float = 1e-8,
) -> Solution:  # fmt: skip
    """V (G, S): the distance from each state to each goal (all states by default), inf where it cannot be ensured.

    cost (S, A) or a number, >= 0, per step before the goal; goals int64 (G,). policy (G, S, A) attains the distances.
    method: "shortest_path" (deterministic dynamics), "policy_iteration", "auto". Rewards and discounts are not used.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if problem.batch_shape:
        raise UserError("goals are the batch here; valid is one MDP at a time, P (S, A, S).")
    cost = torch.as_tensor(cost, dtype=problem.dtype, device=problem.device).expand(problem.P.shape[:-1])
    if not (cost[problem.mask] >= 0).all() or not torch.isfinite(cost[problem.mask]).all():
        state, action = torch.nonzero(problem.mask & ~((cost >= 0) & torch.isfinite(cost)))[0].tolist()
        raise UserError(f"cost must be finite and at least 0; it is not at state {state}, action {action}.")
    goals = torch.arange(problem.num_states, device=problem.device) if goals is None else goals
    deterministic = bool((problem.P.amax(-1) == 1).logical_or(~problem.mask).all())
    if method == "shortest_path" and not deterministic:
        raise UserError("method=shortest_path needs deterministic dynamics; use method=policy_iteration.")
    if deterministic and method != "policy_iteration":
        D, actions, steps = _shortest_path(cost, problem.P.argmax(-1), problem.mask, goals)
    else:
        D, actions, steps = _stochastic(problem, cost, goals)
    answer = Solution(V=D, policy=one_hot(actions, problem.num_actions, problem.dtype), iterations=steps)
    check = reachability_checks.check_goal_distance
    return certified(answer, "goal_distance", check, problem, tol, cost=cost, goals=goals)
