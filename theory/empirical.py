"""The maximum-likelihood model of recorded transitions, as a `TabularMDP`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP

UNVISITED = ("mask", "stop", "stay", "uniform")


@dataclass(frozen=True, eq=False)
class EmpiricalMDP:
    """mdp: the model. counts (S, A): visits of each pair. behaviour (S, A): the empirical policy; states that were
    never left have the uniform policy over the model's actions."""

    mdp: TabularMDP
    counts: Tensor
    behaviour: Tensor


def empirical_mdp(
    state: Int[Tensor, " N"],
    action: Int[Tensor, " N"],
    reward: Tensor,
    next_state: Int[Tensor, " N"],
    discount: Float[Tensor, " N"],
    num_states: int,
    num_actions: int,
    *,
    start: Int[Tensor, " E"] | None = None,
    unvisited: str = "mask",
) -> EmpiricalMDP:
    """Transition frequencies, mean rewards and mean discounts of N recorded steps.

    reward (N,) or (N, K). discount: gamma, or 0 where the step ended the episode (a time-out keeps gamma). The model's
    discount is per (s, a, s'), so that an ending that happens only sometimes is kept apart from the successor.
    start: states in which episodes began; by default mu0 is the empirical law of `state`.

    unvisited says what a pair without data does; reward and discount 0 unless stated:
        "mask"     it does not exist; a state without any data is absorbing with discount 0
        "stop"     it ends the episode: discount 0
        "stay"     self-loop with reward 0 and the mean discount of the data
        "uniform"  a uniform successor with reward 0 and the mean discount of the data

    float64. Raises UserError for indices out of range or an unknown `unvisited`.
    """
    if unvisited not in UNVISITED:
        raise unknown("unvisited", unvisited, UNVISITED)
    S, A = num_states, num_actions
    for name, index, size in (("state", state, S), ("action", action, A), ("next_state", next_state, S)):
        if not len(index) or int(index.min()) < 0 or int(index.max()) >= size:
            raise UserError(f"{name} must hold at least one number, all within 0 .. {size - 1}.")
    pair = (state * A + action).long()
    triple = pair * S + next_state.long()
    reward, discount = reward.double(), discount.double()
    visits = _sum(triple, torch.ones_like(discount), S * A * S).view(S, A, S)
    counts = visits.sum(-1)
    gammas = _sum(triple, discount, S * A * S).view(S, A, S) / visits.clamp(min=1)
    total = torch.stack([_sum(pair, column, S * A) for column in reward.reshape(len(state), -1).T])
    r = total.view(-1, S, A) / counts.clamp(min=1)
    seen = counts > 0
    P, gammas = _fill(visits / counts.clamp(min=1)[..., None], gammas, seen, unvisited, float(discount.mean()))
    # a state without data keeps all its actions, so that no action set is empty
    mask = seen | ~seen.any(-1, keepdim=True) if unvisited == "mask" else torch.ones_like(seen)
    mu0 = torch.bincount((state if start is None else start).long(), minlength=S).double()
    mdp = TabularMDP(P, r if reward.ndim == 2 else r[0], mu0 / mu0.sum(), gammas, None if mask.all() else mask)
    some = seen.any(-1, keepdim=True)
    behaviour = torch.where(some, counts, mask.double())
    return EmpiricalMDP(mdp, counts, behaviour / behaviour.sum(-1, keepdim=True))


def _sum(index: Tensor, value: Tensor, size: int) -> Tensor:
    return value.new_zeros(size).index_add_(0, index, value)


def _fill(P: Tensor, gammas: Tensor, seen: Tensor, unvisited: str, gamma: float) -> tuple[Tensor, Tensor]:
    S = P.shape[-1]
    successor = torch.eye(S, dtype=P.dtype, device=P.device)[:, None]
    if unvisited == "uniform":
        successor = torch.full_like(successor, 1 / S)
    later = 0.0 if unvisited in ("mask", "stop") else gamma
    return torch.where(seen[..., None], P, successor), torch.where(seen[..., None], gammas, later)
