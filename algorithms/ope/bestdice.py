"""BestDICE: every DICE estimator as one regularised Lagrangian of the linear program of a policy's value.

    L(Q, lam; w) = (1 - gamma) E[Q(s0, pi)] + lam + E_D[w e] + alpha_q E_D Q(s, a)^2 / 2 - alpha_w E_D f(w(s, a))
    e = alpha_r r + gamma Q(s', pi) - Q(s, a) - lam c,   c = (1 - discount) / (1 - gamma)

    min over Q and lam, max over w, with w >= 0 if `positive`; lam is there if `normalise`, and asks for E_D[w c] = 1.

    dual        E_D[w r], divided by E_D[w c] if self_normalised
    primal      (1 - gamma) E[Q(s0, pi)] + lam
    lagrangian  L with alpha_r = 1 and no regulariser: doubly robust, right if either Q or w is

    method            alpha_q  alpha_w  alpha_r  positive  normalise
    DualDICE             0        1        0        no         no
    GenDICE              1        0        0        yes        yes
    GradientDICE         1        0        0        no         yes
    MQL, MWL             0        0      1, 0       no         no
    BestDICE             0        1        1        yes        yes      the defaults, with the dual estimate

Yang, Nachum, Dai, Li, Schuurmans 2020, "Off-policy evaluation via the regularized Lagrangian" (arXiv 2007.03438); the
table is that of google-research/dice_rl, whose w >= 0 is a square, as here. In tables with full coverage the dual
estimate is unbiased for alpha_w > 0, alpha_q = 0 and for alpha_q > 0, alpha_w = alpha_r = 0; the primal one only for
alpha_q > 0, alpha_w = 0, alpha_r = 1 without w >= 0 (`theory.claims.off_policy` checks the whole table).

Departures: their lam multiplies 1 - E_D w, right only where no episode ends by a terminal; c makes it hold everywhere.
f(Q) is Q^2 / 2, and alpha_q also weighs lam^2 / 2, as in GradientDICE: without it lam and w circle for ever, with it no
cell of the table changes. The network gives (1 - gamma) Q; Adam as in `dualdice`. interval: see `dualdice`; that of
`lagrangian` holds to first order in the errors of Q and w, that of `primal` knows of the start states alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Vector
from fenchel.algorithms.ope import common
from fenchel.algorithms.ope.common import EvaluatorConfig
from fenchel.algorithms.sampler import Batch
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.task import Task
from fenchel.theory.objectives import dual
from fenchel.theory.objectives.reduce import reduce
from fenchel.theory.objectives.value import bellman_backup


@dataclass
class BestDICEConfig(EvaluatorConfig):
    alpha_q: float | list[float] = field(default=0.0, metadata={"range": (0, None)})
    """weight of Q^2 / 2, and of lam^2 / 2"""
    alpha_w: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """weight of f(w)"""
    alpha_r: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """how much of the reward the Lagrangian sees: 0 or 1"""
    regulariser: str = "power:2"
    """f of the ratio: power:<p> is |w|^p / p; or a divergence, such as chi2"""
    positive: bool = True
    """w is a square, and so never negative"""
    normalise: bool = True
    """hold E_D[w c] to 1 by the multiplier lam"""
    estimator: Literal["dual", "primal", "lagrangian"] = "dual"
    """which of the three is the estimate; all are in the record"""
    ratio_lr: float | list[float] = field(default=1e-3, metadata={"range": (0, None)})
    """Adam's step size of the ratio w; lr is that of Q and lam"""
    self_normalised: bool = True
    """divide the dual estimate by the weights' sum, which is known to be 1"""
    resamples: int = field(default=500, metadata={"range": (2, None)})
    """resamples of episodes behind the interval"""


class BestDICE(Learner):
    Config = BestDICEConfig
    TITLE = "BestDICE (off-policy evaluation by the regularised Lagrangian)"
    FAMILY = "ope"
    DEMO = "fourrooms-mixed"
    DETERMINISTIC = False
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "gendice": {"alpha_q": 1.0, "alpha_w": 0.0, "alpha_r": 0.0, "lr": 1e-3, "ratio_lr": 1e-4},
        "gradientdice": {
            "alpha_q": 1.0,
            "alpha_w": 0.0,
            "alpha_r": 0.0,
            "positive": False,
            "lr": 1e-3,
            "ratio_lr": 1e-4,
        },
    }

    def setup(self) -> None:
        common.prepare(self)
        self.f = common.regulariser(self.config.regulariser, free=not self.config.positive)
        options = {"members": 1, "layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.value = Critic(self.rng, "value", self.spec, self.config.hidden, **options)
        self.ratio = Critic(self.rng, "ratio", self.spec, self.config.hidden, **options)
        self.lam = Vector(self.rng, dtype=self.dtype) if self.config.normalise else None
        primal = (self.value, self.lam) if self.lam is not None else (self.value,)
        self.value_optimiser = Adam(*primal, lr=self.config.lr, clip=self.config.clip_grad, betas=common.BETAS)
        self.ratio_optimiser = Adam(self.ratio, lr=self.config.ratio_lr, clip=self.config.clip_grad, betas=common.BETAS)

    def bind(self, task: Task) -> None:
        common.bind(self, task)

    def sampler(self, data: OfflineDataset) -> common.Episodes:
        return common.Episodes(data, self)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, size = self.h, batch["reward"].shape[1]
        start = common.expectation(self.value, self, batch["start_obs"], common.target_noise(self, "start", size))
        following = common.expectation(self.value, self, batch["next_obs"], common.target_noise(self, "next", size))
        scale = 1 - h.gamma
        value, ratio = self.value(batch)[:, 0] / scale, self.weights(batch)
        residual = self.residual(batch, value, following[:, 0] / scale, h.alpha_r)
        penalty = h.alpha_q * (value.square() + self.multiplier() ** 2) / 2
        value_loss = reduce(start[:, 0] + self.multiplier()) + reduce(dual.saddle_value(residual, ratio) + penalty)
        ratio_loss = reduce(dual.saddle_ratio(ratio, residual, divergence=self.f, temperature=h.alpha_w))
        self.value_optimiser.step(value_loss)
        self.ratio_optimiser.step(ratio_loss)
        mass = reduce(ratio.detach() * common.mass_of(batch, h.gamma))
        return {"value_loss": value_loss.detach(), "ratio_loss": ratio_loss.detach(), "mass": mass}

    def multiplier(self) -> Tensor | float:
        """lam, (R, 1)."""
        return self.lam() if self.lam is not None else 0.0

    def weights(self, batch: Batch) -> Tensor:
        """w of the batch's pairs, (R, B)."""
        ratio = self.ratio(batch)[:, 0]
        return ratio.square() if self.config.positive else ratio

    def residual(self, batch: Batch, value: Tensor, following: Tensor, reward: float | Tensor) -> Tensor:
        """reward r + gamma Q(s', pi) - Q(s, a) - lam c, (R, B)."""
        backup = bellman_backup(reward * batch["reward"], batch["discount"], following)
        return backup - value - self.multiplier() * common.mass_of(batch, self.h.gamma)

    @torch.no_grad()
    def report(self, source: common.Episodes) -> dict[str, list]:
        """`estimate` is the one of the three that `estimator` names."""
        scale = 1 - self.h.gamma

        def start(batch: Batch, chunk: int) -> Tensor:
            value = common.average(self.value, self, batch["obs"], "start", chunk, common.SAMPLES)[:, 0]
            return value + self.multiplier()

        def residual(batch: Batch, chunk: int) -> Tensor:
            following = common.average(self.value, self, batch["next_obs"], "next", chunk)[:, 0]
            return self.residual(batch, self.value(batch)[:, 0] / scale, following / scale, 1.0)

        weight = common.over(source, lambda batch, _: self.weights(batch))
        parts, facts = common.weighted(source, weight, self.config.self_normalised)
        starts, rows = common.over(source.start, start), torch.ones_like(weight)
        primal = [(starts, torch.ones_like(starts))]
        error = common.per_episode(source, weight * common.over(source, residual))
        forms = {"dual": parts, "primal": primal}
        forms["lagrangian"] = [*primal, (error, common.per_episode(source, rows))]
        estimates = {name: common.ratios(form) for name, form in forms.items()}
        chosen = self.config.estimator
        interval = common.resampled(self, forms[chosen], self.config.resamples)
        return common.report(self, source, estimates[chosen], interval, **estimates, **facts)
