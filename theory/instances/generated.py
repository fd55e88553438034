"""Random problems from an `Rng`, as batches: Garnets, dense MDPs, rings, trees, and one sparse problem at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.sparse import SparseMDP


def garnet(
    rng: Rng,
    n: int,
    num_states: int = 6,
    num_actions: int = 3,
    branching: int = 2,
    gamma: float = 0.9,
    channels: int | None = None,
) -> TabularMDP:
    """n Garnets (Archibald, McKinnon, Thomas 1995): `branching` distinct successors per pair, uniform on their simplex.

    Rewards standard normal, (n, S, A) or (n, K, S, A) with `channels`; mu0 uniform over the simplex.
    """
    if not 1 <= branching <= num_states:
        raise UserError(f"branching={branching} must lie in 1 .. {num_states}, the number of states.")
    shape = (n, num_states, num_actions)
    successors = rng.permutation(*shape, num_states)[..., :branching]
    weights = rng.simplex(*shape, branching)
    P = weights.new_zeros(*shape, num_states).scatter_(-1, successors, weights)
    r = rng.normal(n, *([channels] if channels else []), num_states, num_actions)
    return TabularMDP(P, r, rng.simplex(n, num_states), gamma)


def dense(rng: Rng, n: int, num_states: int = 6, num_actions: int = 3, gamma: float = 0.9) -> TabularMDP:
    """n MDPs whose rows are uniform on the full simplex: they mix within a few steps, and flatter every solver."""
    return garnet(rng, n, num_states, num_actions, num_states, gamma)


def garnet_sparse(
    rng: Rng, num_states: int = 100, num_actions: int = 4, branching: int = 5, gamma: float = 0.95
) -> SparseMDP:
    """One Garnet with successors drawn with replacement (a repeated successor has the summed probability)."""
    shape = (num_states, num_actions)
    index = rng.integers(num_states, *shape, branching).to(torch.int32)
    mu0 = torch.full((num_states,), 1 / num_states, dtype=rng.dtype, device=rng.device)
    return SparseMDP(index, rng.simplex(*shape, branching), rng.normal(*shape), mu0, gamma, check=False)


def ring(
    rng: Rng, n: int, num_states: int = 20, num_actions: int = 3, reach: int = 2, gamma: float = 0.95
) -> TabularMDP:
    """n rings: from s only s - reach .. s + reach are reachable, so that values travel slowly and mixing is slow."""
    if not 0 <= reach <= (num_states - 1) // 2:
        raise UserError(f"reach={reach} must lie in 0 .. {(num_states - 1) // 2}, or a step would wrap onto itself.")
    shape = (n, num_states, num_actions)
    weights = rng.simplex(*shape, 2 * reach + 1)
    P = weights.new_zeros(*shape, num_states).scatter_(-1, _around(num_states, reach, shape, rng.device), weights)
    return TabularMDP(P, rng.normal(*shape), rng.simplex(n, num_states), gamma)


def ring_sparse(
    rng: Rng, num_states: int = 100, num_actions: int = 4, reach: int = 2, gamma: float = 0.95
) -> SparseMDP:
    """One ring of `ring`, sparse."""
    shape = (num_states, num_actions)
    index = _around(num_states, reach, (1, *shape), rng.device)[0]
    mu0 = torch.full((num_states,), 1 / num_states, dtype=rng.dtype, device=rng.device)
    return SparseMDP(index, rng.simplex(*shape, 2 * reach + 1), rng.normal(*shape), mu0, gamma)


def _around(num_states: int, reach: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    states = torch.arange(num_states, device=device)
    near = (states[:, None] + torch.arange(-reach, reach + 1, device=device)) % num_states
    return near[None, :, None, :].expand(*shape, 2 * reach + 1)


def tree(
    rng: Rng, n: int, depth: int = 3, num_actions: int = 2, slip: float = 0.0, rewards: str = "binary"
) -> TabularMDP:
    """n complete trees of 1 + A + ... + A^depth nodes (level order), undiscounted, reward on the last move only.

    Action a leads to child a, and with probability `slip` to a uniform child. rewards: "binary" leaves in {0, 1},
    or "normal". Leaves are terminal. Greedy on the uniform policy's Q is optimal iff binary and deterministic
    (ROVER, papers 24 and 17; `counterexamples.random_policy_trap` shows the failures).
    """
    if rewards not in ("binary", "normal"):
        raise UserError(f"rewards={rewards} is unknown; valid are binary, normal.")
    A, inner = num_actions, sum(num_actions**d for d in range(depth))
    leaves, S = A**depth, inner + A**depth
    child = 1 + A * torch.arange(inner)[:, None] + torch.arange(A)
    move = torch.nn.functional.one_hot(child, S).to(rng.dtype)
    P = torch.eye(S, dtype=rng.dtype)[:, None, :].repeat(1, A, 1)
    P[:inner] = (1 - slip) * move + slip * move.mean(1, keepdim=True)
    payoff = rng.normal(n, leaves) if rewards == "normal" else rng.integers(2, n, leaves).to(rng.dtype)
    value = torch.cat([payoff.new_zeros(n, inner), payoff.to("cpu")], -1)
    last = inner - A ** (depth - 1) if depth else 0
    r = torch.zeros(n, S, A, dtype=rng.dtype)
    r[:, last:inner] = torch.einsum("sat,nt->nsa", P[last:inner], value)
    discount = torch.ones(S, A, dtype=rng.dtype)
    discount[inner:] = 0.0
    mu0 = torch.nn.functional.one_hot(torch.tensor(0), S).to(rng.dtype)
    batch = TabularMDP(P.expand(n, S, A, S), r, mu0.expand(n, S), discount.expand(n, S, A))
    return batch.to(device=rng.device)
