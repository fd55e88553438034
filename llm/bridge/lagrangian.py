"""f-DVL with a bound on an answer's expected cost: its Lagrangian, whose multiplier rises where the policy costs more.

    r <- r - lam c,   then a step of f-DVL
    V_c:  min E_D w (c + gamma V_c(s') - V_c(s))^2,   w the policy's weights, so that V_c is the cost of pi = w beta
    lam <- (lam + multiplier_lr (E V_c(start) - budget))_+,   over the data's prompts

For extraction=w the saddle point is max over pi of E r - T D(pi, beta) with E c <= budget, the divergence summed over
prefixes; with divergence=kl and gamma = 1 it is pi(y) proportional to beta(y) exp((r(y) - lam c(y)) / T). (The
Lagrangian of a constrained MDP, Altman 1999; projected ascent as in `theory.objectives.constraint`.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fenchel.algorithms.networks import Adam, Vector
from fenchel.algorithms.offline.f_dvl import FDVL
from fenchel.llm.bridge.heads import PrefixValues
from fenchel.llm.bridge.learners import TokenFDVLConfig, read_prefixes
from fenchel.theory.objectives import constraint, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class TokenFDVLLagConfig(TokenFDVLConfig):
    budget: float | list[float] = field(default=0.0, metadata={"range": (None, None)})
    """the largest mean cost of an answer, in the units of the data's costs"""
    multiplier_lr: float | list[float] = field(default=0.01, metadata={"range": (0, None)})
    """how far the multiplier moves per update and unit of cost"""


class TokenFDVLLag(FDVL):
    Config = TokenFDVLLagConfig
    NEEDS = ("cost",)

    def setup(self) -> None:
        super().setup()
        read_prefixes(self)
        self.cost = PrefixValues(self, "cost")
        self.cost_optimiser = Adam(self.cost, lr=self.config.lr, clip=self.config.clip_grad)
        self.multiplier = Vector(self.rng, dtype=self.dtype)

    def update(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        h, obs, multiplier = self.h, batch["obs"], self.multiplier.frozen()
        penalised = -constraint.lagrangian(-batch["reward"], batch["cost"], multiplier, budget=0.0)
        losses = super().update(batch | {"reward": penalised})
        weight = self.weight(self.value.frozen(obs), self.target(batch).amin(1))
        backup = value.bellman_backup(batch["cost"], batch["discount"], self.cost.frozen(batch["next_obs"]))
        error = value.td(self.cost(obs), backup)
        loss = reduce(weight * error)
        self.cost_optimiser.step(loss)
        cost = reduce(self.cost.frozen(batch["start"]), batch["start_weight"]).unsqueeze(1)
        multiplier.copy_(constraint.projected_ascent(multiplier, cost, budget=h.budget, lr=h.multiplier_lr))
        return losses | {
            "cost_loss": loss.detach(),
            "cost": cost.squeeze(1),
            "multiplier": multiplier.squeeze(1).clone(),
        }
