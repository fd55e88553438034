"""Linear algebra of a fixed policy, and batched policy iteration, for the solvers whose inner problem is an MDP."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP

# relative size below which an improvement is rounding: switching on it could cycle, or leave a proper policy
STRICT = {torch.float64: 1e-12, torch.float32: 1e-5}


def evaluate(kernel: Float[Tensor, "*b S S"], reward: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S"]:
    """V = (I - kernel)^{-1} reward."""
    eye = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    return torch.linalg.solve(eye - kernel, reward[..., None])[..., 0]


def policy_value(mdp: TabularMDP, policy: Float[Tensor, "*b S A"]) -> Float[Tensor, "*b S"]:
    """V of a policy; with channels (..., K, S)."""
    kernel, reward = mdp.policy_kernel(policy), mdp.policy_reward(policy)
    return evaluate(kernel.unsqueeze(-3) if mdp.num_channels else kernel, reward)


def occupancy(mdp: TabularMDP, policy: Float[Tensor, "*b S A"]) -> Float[Tensor, "*b S A"]:
    """Unnormalised discounted occupancy d(s, a) = E sum_t (prod of discounts) 1[s_t = s, a_t = a]."""
    return evaluate(mdp.policy_kernel(policy).mT, mdp.mu0)[..., None] * policy


def q_values(mdp: TabularMDP, V: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S A"]:
    """r + kernel V, -inf where the action does not exist (reward without channels)."""
    Q = mdp.r + torch.einsum("...sat,...t->...sa", mdp.kernel, V)
    return Q.masked_fill(~mdp.mask, -torch.inf)


def one_hot(actions: Tensor, num_actions: int, dtype: torch.dtype) -> Float[Tensor, "*b A"]:
    return torch.nn.functional.one_hot(actions, num_actions).to(dtype)


def policy_iteration(
    mdp: TabularMDP, start: Tensor | None = None, frozen: Bool[Tensor, "*b S"] | None = None, limit: int = 1000
) -> tuple[Float[Tensor, "*b S"], Tensor, int]:
    """Howard's iteration over a whole batch -> (V, actions (..., S) int64, iterations).

    Actions change only on a strict improvement, so a proper start stays proper when nothing discounts (total reward).
    """
    actions = mdp.r.masked_fill(~mdp.mask, -torch.inf).argmax(-1) if start is None else start.clone()
    for iteration in range(1, limit + 1):
        policy = one_hot(actions, mdp.num_actions, mdp.dtype)
        V = policy_value(mdp, policy)
        Q = q_values(mdp, V)
        best, greedy = Q.max(-1)
        scale = 1 + V.abs().amax(-1, keepdim=True)
        better = best > Q.gather(-1, actions[..., None])[..., 0] + STRICT[mdp.dtype] * scale
        if frozen is not None:
            better &= ~frozen
        if not better.any():
            return V, actions, iteration
        actions = torch.where(better, greedy, actions)
    raise UserError(f"policy iteration did not settle in {limit} steps; valid are problems with finite values.")
