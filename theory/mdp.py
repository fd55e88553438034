"""Finite Markov decision processes as batched tensors.

    P        (..., S, A, S)     transition probabilities
    r        (..., S, A)        reward, or (..., K, S, A) with K channels (objectives, costs, goals) over one P
    mu0      (..., S)           initial distribution
    discount (..., S, A) or (..., S, A, S)   a float is broadcast; 0 terminates; an option of length n is gamma**n
    action_mask (..., S, A)     bool, True where the action exists (default: everywhere)

`...` is any batch shape, the same for all tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fenchel.errors import UserError

TOLERANCE = 1e-9


def _first(bad: Tensor) -> str:
    """`"state 3, action 1"` (with the batch index, if any) of the first True of a (..., S, A) tensor."""
    *batch, state, action = torch.nonzero(bad)[0].tolist()
    return f"{_where(batch)}state {state}, action {action}"


def _where(batch: list[int]) -> str:
    return f"problem {tuple(batch)}, " if batch else ""


@dataclass(frozen=True, eq=False)
class TabularMDP:
    P: Tensor
    r: Tensor
    mu0: Tensor
    discount: Tensor
    action_mask: Tensor | None = None

    def __init__(self, P, r, mu0, discount, action_mask=None, *, check: bool = True):
        dtype, device = P.dtype, P.device
        if not torch.is_tensor(discount) or discount.ndim == 0:
            discount = torch.as_tensor(discount, dtype=dtype, device=device).expand(P.shape[:-1])
        for name, value in dict(P=P, r=r, mu0=mu0, discount=discount, action_mask=action_mask).items():
            object.__setattr__(self, name, value)
        if check:
            self.validate()

    # -- shape ---------------------------------------------------------------------------------------------------
    @property
    def num_states(self) -> int:
        return self.P.shape[-1]

    @property
    def num_actions(self) -> int:
        return self.P.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        return self.P.shape[:-3]

    @property
    def num_channels(self) -> int | None:
        """K, or None when the reward has no channel axis."""
        return self.r.shape[-3] if self.r.ndim == self.P.ndim else None

    @property
    def dtype(self) -> torch.dtype:
        return self.P.dtype

    @property
    def device(self) -> torch.device:
        return self.P.device

    # -- derived quantities --------------------------------------------------------------------------------------
    @property
    def kernel(self) -> Tensor:
        """discount * P, (..., S, A, S): what multiplies V in every Bellman equation."""
        gamma = self.discount if self.discount.ndim == self.P.ndim else self.discount[..., None]
        return gamma * self.P

    @property
    def mask(self) -> Tensor:
        """The action mask as a tensor, (..., S, A) bool."""
        if self.action_mask is None:
            return torch.ones(self.P.shape[:-1], dtype=torch.bool, device=self.device)
        return self.action_mask

    def policy_kernel(self, policy: Tensor) -> Tensor:
        """(..., S, S) discounted kernel of a policy (..., S, A)."""
        return torch.einsum("...sa,...sat->...st", policy, self.kernel)

    def policy_reward(self, policy: Tensor) -> Tensor:
        """(..., [K,] S) expected reward of a policy (..., S, A)."""
        return (policy[..., None, :, :] * self.r).sum(-1) if self.num_channels else (policy * self.r).sum(-1)

    def scalarize(self, weights: Tensor) -> TabularMDP:
        """The MDP whose reward is the weighted sum of the channels; weights (..., K)."""
        return replace_reward(self, torch.einsum("...k,...ksa->...sa", weights, self.r))

    def channel(self, k: int) -> TabularMDP:
        """The MDP with channel k as its reward."""
        return replace_reward(self, self.r[..., k, :, :])

    # -- plumbing ------------------------------------------------------------------------------------------------
    def map(self, fn: Callable[[Tensor], Tensor]) -> TabularMDP:
        """Apply `fn` to every tensor (indexing, moving, repeating along the batch)."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return TabularMDP(**{k: None if v is None else fn(v) for k, v in values.items()}, check=False)

    def __getitem__(self, index) -> TabularMDP:
        return self.map(lambda t: t[index])

    def to(self, device=None, dtype=None) -> TabularMDP:
        return self.map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def validate(self) -> None:
        """Raise `UserError` naming the state and action of the first fault."""
        self._validate_shapes()
        validate_pairs(self.P, self.r, self.discount, self.mask)
        validate_start(self.mu0)

    def _validate_shapes(self) -> None:
        shape, batch = self.P.shape[:-1], self.P.shape[:-3]
        if self.P.ndim < 3 or self.P.shape[-1] != self.P.shape[-3]:
            raise UserError(f"P must be (..., S, A, S), not {tuple(self.P.shape)}.")
        if self.P.shape[-2] == 0 or self.P.shape[-1] == 0:
            raise UserError(f"P must have at least one state and one action, not shape {tuple(self.P.shape)}.")
        channels = self.r.shape[len(batch) : -2]
        if self.r.shape != batch + channels + shape[-2:] or len(channels) > 1:
            raise UserError(f"r must be (..., S, A) or (..., K, S, A) to match P, not {tuple(self.r.shape)}.")
        if self.mu0.shape != batch + self.P.shape[-1:]:
            raise UserError(f"mu0 must be (..., S) to match P, not {tuple(self.mu0.shape)}.")
        if self.discount.shape not in (shape, self.P.shape):
            raise UserError(f"discount must be (), (..., S, A) or (..., S, A, S), not {tuple(self.discount.shape)}.")
        if self.action_mask is not None and (self.action_mask.shape != shape or self.action_mask.dtype != torch.bool):
            raise UserError(f"action_mask must be bool (..., S, A) to match P, not {tuple(self.action_mask.shape)}.")


def validate_pairs(prob: Tensor, r: Tensor, discount: Tensor, mask: Tensor) -> None:
    """Refuse what is not an MDP. prob (..., S, A, X): the probabilities of each pair's successors, whatever X numbers.

    r (..., [K,] S, A), discount (..., S, A[, X]), mask (..., S, A). Where the mask is False only finiteness is asked
    for: a policy gives such a pair weight 0, and 0 times infinity is not 0.
    """
    if not mask.any(-1).all():
        *batch, state = torch.nonzero(~mask.any(-1))[0].tolist()
        raise UserError(f"{_where(batch)}state {state} has no action.")
    reward = torch.isfinite(r).all(-3) if r.ndim == prob.ndim else torch.isfinite(r)
    for name, bad in dict(P=~torch.isfinite(prob).all(-1), r=~reward).items():
        if bad.any():
            raise UserError(f"{name} is not finite at {_first(bad)}.")
    tolerance = _tolerance(prob)
    negative = (prob < 0).any(-1) & mask
    if negative.any():
        raise UserError(f"P has a negative probability at {_first(negative)}.")
    total = prob.sum(-1)
    off = ((total - 1).abs() > tolerance) & mask
    if off.any():
        raise UserError(f"P sums to {total[off][0].item():.6g}, not 1, at {_first(off)}.")
    outside = ~((discount >= 0) & (discount <= 1))
    bad = (outside.any(-1) if discount.ndim == prob.ndim else outside) & mask
    if bad.any():
        gammas = discount[bad].flatten()
        worst = gammas[~((gammas >= 0) & (gammas <= 1))][0].item()
        raise UserError(f"discount is {worst:g}, outside [0, 1], at {_first(bad)}.")


def validate_start(mu0: Tensor) -> None:
    if not torch.isfinite(mu0).all() or (mu0 < 0).any() or ((mu0.sum(-1) - 1).abs() > _tolerance(mu0)).any():
        raise UserError("mu0 must be finite, non-negative and sum to 1 over the states.")


def replace_reward(mdp: TabularMDP, r: Tensor) -> TabularMDP:
    """The same dynamics with another reward, (..., S, A) or (..., K, S, A)."""
    return TabularMDP(mdp.P, r, mdp.mu0, mdp.discount, mdp.action_mask, check=False)


def _tolerance(probabilities: Tensor) -> float:
    return TOLERANCE if probabilities.dtype == torch.float64 else 1e-4
