"""The cost critics of off-policy learners: an ensemble of E, each with a target of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms.networks import Adam, Critic
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import value
from fenchel.theory.objectives.reduce import reduce


def build(owner: Any, members: int) -> None:
    """`cost_critic`, `cost_target` and `cost_optimiser` as attributes of `owner`."""
    config = owner.config
    options = {"members": members, "layer_norm": config.layer_norm, "dtype": owner.dtype}
    owner.cost_critic = Critic(owner.rng, "cost_critic", owner.spec, config.hidden, **options)
    owner.cost_target = owner.cost_critic.target()
    owner.cost_optimiser = Adam(owner.cost_critic, lr=config.lr, clip=config.clip_grad)


def step(owner: Any, batch: Batch, next_action: Tensor) -> Tensor:
    """One update of every member i towards c + discount Q'_i(s', a'), and of its target; the loss (R,).

    discount is 0 at a terminal and not at a time-out, so the cost that would have followed a time-out counts.
    """
    with torch.no_grad():
        following = owner.cost_target.of(batch["next_obs"], next_action)
        backup = value.bellman_backup(batch["cost"].unsqueeze(1), batch["discount"].unsqueeze(1), following)
    loss = reduce(value.td(owner.cost_critic(batch), backup).sum(1))
    owner.cost_optimiser.step(loss)
    owner.cost_target.track(owner.cost_critic, owner.h.tau)
    return loss.detach()
