"""Reach-avoid probabilities and safe sets. Nothing is discounted; the MDP's rewards and discounts are not used.

    reach_avoid   max_policy Pr(target is reached, avoid is not met before)
    safe_set      the largest set of states from which some action always stays in it, whatever happens

Without a discount the Bellman equation of reach_avoid has many solutions (any constant on a cycle); the probability is
the least one. Two measures find it: states that cannot reach the target are zero by graph search, and policy iteration
starts from a policy that reaches the target with positive probability from everywhere else. Switching only on a
strict improvement then never enters a cycle that stays away from the target (Puterman 1994, section 7.2).
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


def state_set(mdp: TabularMDP, name: str, states: Tensor | None) -> Bool[Tensor, "*b S"]:
    """A set of states as a bool tensor of the batch's shape; None is empty."""
    if states is None:
        return torch.zeros(*mdp.batch_shape, mdp.num_states, dtype=torch.bool, device=mdp.device)
    if states.dtype != torch.bool or states.shape[-1] != mdp.num_states:
        raise UserError(f"{name} must be bool (..., {mdp.num_states}), not {states.dtype} {tuple(states.shape)}.")
    return states.expand(*mdp.batch_shape, mdp.num_states)


def attractor(
    edges: Bool[Tensor, "*b S A S"], target: Bool[Tensor, "*b S"], allowed: Bool[Tensor, "*b S"]
) -> tuple[Bool[Tensor, "*b S"], Tensor]:
    """(states of `allowed` with a path to target, an action (..., S) that may move one step closer)."""
    reached, action = target, torch.zeros_like(target, dtype=torch.int64)
    for _ in range(edges.shape[-1]):
        hits = (edges & reached[..., None, None, :]).any(-1)
        fresh = hits.any(-1) & allowed & ~reached
        if not fresh.any():
            break
        action = torch.where(fresh, hits.to(torch.int8).argmax(-1), action)
        reached = reached | fresh
    return reached, action


def reach_mdp(mdp: TabularMDP, target: Tensor, live: Tensor) -> TabularMDP:
    """Total-reward MDP whose return is the reach probability: reward = chance to enter target; live states go on."""
    P = mdp.P * live[..., :, None, None]
    reward = (P * target[..., None, None, :]).sum(-1)
    inner = P * live[..., None, None, :]
    return TabularMDP(inner, reward, mdp.mu0, torch.ones_like(reward), mdp.action_mask, check=False)


def solve_reach_avoid(
    problem: TabularMDP, *, target: Tensor, avoid: Tensor | None = None, method: str = "auto", tol: float = 1e-8
) -> Solution:
    """V (..., S): greatest probability to reach `target` before `avoid` (both bool (..., S) or (S,)).

    policy: deterministic and stationary, attains V. lower = what the policy attains, upper = V as a supersolution.
    """
    if method not in ("auto", "policy_iteration"):
        raise unknown("method", method, ("auto", "policy_iteration"))
    target, avoid = state_set(problem, "target", target), state_set(problem, "avoid", avoid)
    if (target & avoid).any():
        raise UserError(f"state {torch.nonzero(target & avoid)[0, -1].item()} is in both target and avoid.")
    edges = (problem.P > 0) & problem.mask[..., None]
    possible, start = attractor(edges, target, ~avoid)
    live = possible & ~target
    start = torch.where(live, start, problem.mask.to(torch.int8).argmax(-1))
    inner, actions, steps = policy_iteration(reach_mdp(problem, target, live), start, frozen=~live)
    V = torch.where(live, inner.clamp(0, 1), target.to(problem.P))
    answer = Solution(
        V=V, policy=one_hot(actions, problem.num_actions, problem.dtype), lower=V, upper=V, iterations=steps
    )  # fmt: skip
    check = reachability_checks.check_reach_avoid
    return certified(answer, "reach_avoid", check, problem, tol, target=target, avoid=avoid)


def solve_safe_set(problem: TabularMDP, *, safe: Tensor, method: str = "auto", tol: float = 1e-8) -> Solution:
    """The largest controlled-invariant subset of `safe` (bool (..., S)): extra["states"] (..., S) bool.

    policy: keeps the set with probability one (first action outside it). extra["rank"] (..., S) int64: 0 inside, k for
    a state removed in round k: each of its actions may then lead to a state of smaller positive rank, the proof that
    no policy keeps it safe.
    """
    if method not in ("auto", "fixed_point"):
        raise unknown("method", method, ("auto", "fixed_point"))
    safe = state_set(problem, "safe", safe)
    edges, states = problem.P > 0, safe
    rank = (~safe).to(torch.int64)
    for steps in range(2, problem.num_states + 3):
        keeps = ~(edges & ~states[..., None, None, :]).any(-1) & problem.mask
        lost = states & ~keeps.any(-1)
        if not lost.any():
            break
        rank = torch.where(lost, steps, rank)
        states = states & ~lost
    usable = torch.where(states[..., None], keeps, problem.mask)
    policy = one_hot(usable.to(torch.int8).argmax(-1), problem.num_actions, problem.dtype)
    answer = Solution(policy=policy, iterations=steps - 1, extra={"states": states, "rank": rank})
    return certified(answer, "safe_set", reachability_checks.check_safe_set, problem, tol, safe=safe)
