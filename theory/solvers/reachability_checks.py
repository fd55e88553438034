"""Certificates of reachability: an upper bound by one backup, a lower bound by following the policy forever."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.solution import Solution

DOUBLINGS = 60  # 2^60 steps of the policy's chain


def _forever(chain: Float[Tensor, "*b S S"], gain: Float[Tensor, "*b S"]) -> tuple[Tensor, Tensor]:
    """(sum over 2^DOUBLINGS steps of chain^k gain, the chain's mass left) by doubling, from below."""
    for _ in range(DOUBLINGS):
        gain = gain + (chain @ gain[..., None])[..., 0]
        chain = chain @ chain
    return gain, chain.sum(-1)


def check_reach_avoid(mdp: TabularMDP, answer: Solution, target: Tensor, avoid: Tensor | None = None) -> dict:
    """supersolution: V >= max_a P V, 1 on target and >= 0 elsewhere, so no policy reaches more (least fixed point).

    attained: the policy's own probability, summed over its path lengths, is V.
    """
    V = answer.V
    target = target.expand(V.shape)
    avoid = torch.zeros_like(target) if avoid is None else avoid.expand(V.shape)
    end = target | avoid
    backup = (mdp.P @ V[..., None, :, None])[..., 0].masked_fill(~mdp.mask, -torch.inf).amax(-1)
    above = torch.where(end, torch.zeros_like(V), (backup - V).clamp(min=0))
    boundary = torch.where(target, (V - 1).abs(), torch.where(avoid, V.abs(), (-V).clamp(min=0)))
    chain = torch.einsum("...sa,...sat->...st", answer.policy, mdp.P) * (~end)[..., :, None]
    enter = (chain * target[..., None, :]).sum(-1)
    reached, _ = _forever(chain * (~end)[..., None, :], enter)
    reached = torch.where(target, torch.ones_like(V), reached)
    return {
        "supersolution": above.amax(-1), "boundary": boundary.amax(-1), "attained": (V - reached).abs().amax(-1)
    }  # fmt: skip


def check_safe_set(mdp: TabularMDP, answer: Solution, safe: Tensor) -> dict[str, Tensor]:
    """invariant: the policy stays in the set, which lies in `safe`. maximal: the ranks prove every other state lost."""
    states, rank = answer.extra["states"], answer.extra["rank"]
    safe = safe.expand(states.shape)
    leaves = torch.einsum("...sa,...sat,...t->...s", answer.policy, mdp.P, (~states).to(mdp.P)) > 0
    broken = states & (leaves | ~safe)
    # a lost state is unsafe, or each of its actions may lead to a state lost earlier
    earlier = (rank[..., None, None, :] > 0) & (rank[..., None, None, :] < rank[..., :, None, None])
    forced = ((mdp.P > 0) & earlier).any(-1) | ~mdp.mask
    unproven = ~states & ~((~safe) | forced.all(-1))
    return {"invariant": broken.to(mdp.P).amax(-1), "maximal": unproven.to(mdp.P).amax(-1)}


def check_goal_distance(
    mdp: TabularMDP, answer: Solution, cost: Any = 1.0, goals: Tensor | None = None
) -> dict[str, Tensor]:
    """subsolution: D <= min_a cost + P D where finite, 0 at the goal: no proper policy is cheaper. attained: the policy
    costs D and ends at the goal. unreachable: from an infinite state no policy reaches the goal with certainty.
    """
    D, policy = answer.V, answer.policy
    goals = torch.arange(mdp.num_states, device=mdp.device) if goals is None else goals
    at_goal = torch.nn.functional.one_hot(goals, mdp.num_states).bool()
    cost = torch.as_tensor(cost, dtype=mdp.dtype, device=mdp.device).expand(mdp.P.shape[:-1])
    finite = torch.isfinite(D)
    filled = torch.where(finite, D, torch.zeros_like(D))
    leaves = torch.einsum("sat,gt->gsa", mdp.P, (~finite).to(D)) > 0  # such actions cost infinity
    through = (cost + torch.einsum("sat,gt->gsa", mdp.P, filled)).masked_fill(leaves | ~mdp.mask, torch.inf)
    live = finite & ~at_goal
    short = torch.where(live, (filled - through.amin(-1)).clamp(min=0), torch.zeros_like(D))
    chain = torch.einsum("gsa,sat->gst", policy, mdp.P)
    escapes = (chain * (~finite)[:, None, :]).sum(-1) * live
    inner = chain * live[:, :, None] * live[:, None, :]
    total, left = _forever(inner, (policy * cost).sum(-1) * live)
    return {
        "subsolution": short.amax(-1),
        "attained": ((total - filled).abs() * live).amax(-1),
        "proper": torch.maximum(left.amax(-1), escapes.amax(-1)),
        "goal": torch.where(at_goal, D.abs(), torch.zeros_like(D)).amax(-1),
        "unreachable": _not_refuted(mdp, at_goal, ~finite),
    }


def _not_refuted(mdp: TabularMDP, goal: Tensor, infinite: Tensor) -> Tensor:
    """1 where an infinite state has a chance of one: then the greatest reach probability from it would be 1.

    Value iteration by squaring is not available to a maximum, so the refutation is by graph: repeatedly drop states
    that cannot reach the goal along allowed actions, and actions that may lead to dropped ones.
    """
    alive = torch.ones_like(goal)
    if not infinite.any():
        return infinite.to(mdp.P).amax(-1)
    allowed = mdp.mask.expand(len(goal), *mdp.mask.shape)
    while True:
        adjacency = ((mdp.P > 0) & allowed[..., None]).any(-2).to(mdp.dtype)
        path, before = goal, torch.zeros_like(goal)
        while not torch.equal(path, before):
            path, before = path | ((adjacency @ path.to(mdp.dtype)[..., None])[..., 0] > 0), path
        if torch.equal(path, alive):
            return (infinite & alive).to(mdp.P).amax(-1)
        alive = path
        allowed = allowed & ~((mdp.P > 0) & ~alive[:, None, None, :]).any(-1)
