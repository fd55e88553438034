"""f-DVL with a bound on an answer's expected cost: its Lagrangian, whose multiplier rises where the policy costs more.

    r <- r - lam c,   then a step of f-DVL
    V_c:  min E_D w (c + gamma V_c(s') - V_c(s))^2,   w the policy's weights, so that V_c is the cost of pi = w beta
    lam <- (lam + multiplier_lr (E V_c(start) - limit))_+,   over the data's prompts

For extraction=w the saddle point is max over pi of E r - T D(pi, beta) with E c <= limit, the divergence summed over
prefixes; with divergence=kl and gamma = 1 it is pi(y) proportional to beta(y) exp((r(y) - lam c(y)) / T). (The
Lagrangian of a constrained MDP, Altman 1999; projected ascent as in `theory.objectives.constraint`.) Ours; the same
objectives as `algorithms.constrained.f_dvl_lag`, beside the update of f-DVL as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fenchel.algorithms.networks import Adam, Vector
from fenchel.algorithms.offline.f_dvl import FDVL
from fenchel.llm.bridge.heads import PrefixValues
from fenchel.llm.bridge.learners import TokenFDVLConfig
from fenchel.llm.bridge.on_prefixes import OnPrefixes
from fenchel.llm.bridge.prefixes import PrefixSampler
from fenchel.theory.objectives import constraint, value
from fenchel.theory.objectives.reduce import reduce

USUAL = 0.9  # of the data's mean cost: the limit of a line that gives none


@dataclass
class TokenFDVLLagConfig(TokenFDVLConfig):
    cost: Literal["length", "repeats", "unfinished"] = "length"
    """of an answer: its tokens, the tokens that repeat the one before, or 1 where it has no end token"""
    limit: float | list[float] | None = field(default=None, metadata={"range": (None, None)})
    """the largest mean cost of an answer, in the units of the costs; null: 0.9 of the data's mean"""
    multiplier_lr: float | list[float] = field(default=0.01, metadata={"range": (0, None)})
    """how far the multiplier moves per update and unit of cost"""


class TokenFDVLLag(OnPrefixes, FDVL):
    Config = TokenFDVLLagConfig
    TITLE = "f-DVL with a bound on an answer's expected cost"
    PAPER = None
    NEEDS = ("cost",)

    def setup(self) -> None:
        super().setup()
        self.cost = PrefixValues(self, "cost")
        self.cost_optimiser = Adam(self.cost, lr=self.config.lr, clip=self.config.clip_grad)
        self.multiplier = Vector(self.rng, dtype=self.dtype)
        if self.config.limit is None:
            self.h.limit = 0.0  # until the data are there

    def cost_of(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(..., L): what each token of the answers costs; what is not finished costs 1 at its last token."""
        if self.config.cost == "length":
            found = mask
        elif self.config.cost == "repeats":
            found = mask & (tokens == tokens.roll(1, -1)) & mask.roll(1, -1)
        else:
            last = mask.cumsum(-1) == mask.sum(-1, keepdim=True)
            found = mask & last & (tokens != self.spec.eos)
        return found.to(self.dtype)

    def source(self, task: Any, normalize_obs: bool = True) -> PrefixSampler:
        source = super().source(task, normalize_obs)
        if self.config.limit is None:
            self.h.limit = USUAL * (source.columns["cost"].sum() / len(source.tokens)).item()
        return source

    def scores(self, task: Any, episodes: int, step: int) -> dict[str, list]:
        limit = self.h.limit if isinstance(self.h.limit, Tensor) else torch.tensor([[self.h.limit]])
        beside = {"limit": limit.expand(self.R, 1), "multiplier": self.multiplier.frozen()}
        return super().scores(task, episodes, step) | {name: x[:, 0].tolist() for name, x in beside.items()}

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
        multiplier.copy_(constraint.projected_ascent(multiplier, cost, budget=h.limit, lr=h.multiplier_lr))
        return losses | {
            "cost_loss": loss.detach(),
            "cost": cost.squeeze(1),
            "multiplier": multiplier.squeeze(1).clone(),
        }
