"""log d_E / d_O by a classifier between demonstrations and other rows: the reward of SMODICE, DemoDICE and LobsDICE.

    c:  min  - E_E log sigmoid(c(x)) - E_O log(1 - sigmoid(c(x))) + penalty E (|grad_x c| - 1)^2

x is a state, a state and its action, or a state and its successor; the gradient is taken between rows of both kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fenchel.algorithms.networks import MLP
from fenchel.algorithms.sampler import Batch
from fenchel.envs.spec import Spec
from fenchel.theory.objectives import ratio
from fenchel.theory.objectives.reduce import reduce
from fenchel.theory.rng import Streams

Of = Literal["state", "state_action", "state_pair"]


class Discriminator(MLP):
    """The logit c, (R, B). of: what it looks at."""

    def __init__(self, rng: Streams, name: str, spec: Spec, hidden: Sequence[int], of: Of, **options: Any):
        self.spec, self.of = spec, of
        action = spec.action.n if spec.discrete else spec.action.dim
        more = {"state": 0, "state_action": action, "state_pair": spec.obs_dim}[of]
        super().__init__(rng, name, spec.obs_dim + more, 1, hidden, **options)

    def inputs(self, batch: Batch) -> Tensor:
        """(R, B, inputs)."""
        if self.of == "state":
            return batch["obs"]
        if self.of == "state_pair":
            return torch.cat([batch["obs"], batch["next_obs"]], -1)
        if not self.spec.discrete:
            return batch["obs_action"]
        action = batch["action"].unsqueeze(-1) == torch.arange(self.spec.action.n, device=batch["action"].device)
        return torch.cat([batch["obs"], action.to(batch["obs"].dtype)], -1)

    def loss(self, expert: Batch, offline: Batch, *, penalty: float | Tensor, share: Tensor) -> Tensor:
        """(R,). penalty: a float or (R, 1). share (R, B), uniform in (0, 1): where between two rows the gradient is
        taken."""
        mine, theirs = self.inputs(expert), self.inputs(offline)
        loss = ratio.logistic_ratio(self(mine).squeeze(-1), self(theirs).squeeze(-1))
        between = torch.lerp(theirs, mine, share.unsqueeze(-1)).requires_grad_()
        (slope,) = torch.autograd.grad(self(between).sum(), between, create_graph=True)
        return reduce(loss) + reduce(penalty * ratio.gradient_penalty(slope))

    def reward(self, batch: Batch, bound: float) -> Tensor:
        """(R, B): log d_E / d_O, cut at +- bound; without gradient."""
        with torch.no_grad():
            return self(self.inputs(batch)).squeeze(-1).clamp(-bound, bound)
