"""DualDICE: the ratio w = d^pi / d_D of a target policy to the data, from flow constraints alone, without rewards.

    L(nu, w) = (1 - gamma) E nu(s0, pi) + E_D[w(s, a) e - f(w(s, a))],   e = gamma nu(s', pi) - nu(s, a)

    minimax   min over nu, max over w of L: at the saddle point w = d^pi / d_D, whatever f is
    convex    min over nu of (1 - gamma) E nu(s0, pi) + E_D f*(e), where w = (f*)'(e): one loss and one network, but f*
              meets one sample of s', so that it is right only where transitions are deterministic
    estimate  sum_D w r / sum_D w c, c = (1 - discount) / (1 - gamma); self_normalised=false: sum_D w r / N

Nachum, Chow, Dai, Li 2019, "DualDICE: behavior-agnostic estimation of discounted stationary distribution corrections"
(arXiv 1906.04733). nu is minus theirs. f is their f*: |x|^{3/2} of the residual, their code's default, is power:3 of w
here. nu(s', pi) is a sum over discrete actions, one sampled action in a Box. e has discount 0 after a terminal, gamma
after a time-out; the estimate divides by E_D[w c], which is 1 at the optimum, where google-research/dice_rl divides by
E_D w, which is 1 only without terminals. The network gives (1 - gamma) nu, and Adam's first moment has no memory, as in
google-research/policy_eval: with it the two players circle each other.

interval: percentiles over resamples of whole episodes of the estimate at the weights as they are. It covers the noise
of rewards and of which episodes were seen, not the error of w itself; in tables, whose w makes up for which episodes
were seen, it is too wide. Where the data lack pairs that the target takes, nothing holds nu down there and L has no
saddle point: `mass` = E_D[w c] then leaves 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic
from fenchel.algorithms.ope import common
from fenchel.algorithms.ope.common import EvaluatorConfig
from fenchel.algorithms.sampler import Batch
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.task import Task
from fenchel.theory.objectives import dual
from fenchel.theory.objectives.reduce import reduce


@dataclass
class DualDICEConfig(EvaluatorConfig):
    form: Literal["minimax", "convex"] = "minimax"
    """two networks against each other, or one that is exact for deterministic transitions only"""
    regulariser: str = "power:3"
    """f of the ratio: power:<p> is |w|^p / p; or a divergence, such as chi2"""
    ratio_lr: float | list[float] = field(default=1e-3, metadata={"range": (0, None)})
    """Adam's step size of the ratio w; lr is that of nu"""
    self_normalised: bool = True
    """divide by the weights' sum, which is known to be 1"""
    resamples: int = field(default=500, metadata={"range": (2, None)})
    """resamples of episodes behind the interval"""


class DualDICE(Learner):
    Config = DualDICEConfig
    TITLE = "DualDICE (off-policy evaluation by stationary ratios)"
    FAMILY = "ope"
    DEMO = "fourrooms-mixed"
    DETERMINISTIC = False
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
    }

    def setup(self) -> None:
        common.prepare(self)
        self.f = common.regulariser(self.config.regulariser, free=self.config.form == "minimax")
        options = {"members": 1, "layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.nu = Critic(self.rng, "nu", self.spec, self.config.hidden, **options)
        self.nu_optimiser = Adam(self.nu, lr=self.config.lr, clip=self.config.clip_grad, betas=common.BETAS)
        if self.config.form == "minimax":
            self.ratio = Critic(self.rng, "ratio", self.spec, self.config.hidden, **options)
            self.ratio_optimiser = Adam(
                self.ratio, lr=self.config.ratio_lr, clip=self.config.clip_grad, betas=common.BETAS
            )

    def bind(self, task: Task) -> None:
        common.bind(self, task)

    def sampler(self, data: OfflineDataset) -> common.Episodes:
        return common.Episodes(data, self)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        gamma, size = self.h.gamma, batch["reward"].shape[1]
        start = common.expectation(self.nu, self, batch["start_obs"], common.target_noise(self, "start", size))
        following = common.expectation(self.nu, self, batch["next_obs"], common.target_noise(self, "next", size))
        residual = self.residual(batch, following[:, 0])
        if self.config.form == "convex":
            loss = reduce(start[:, 0]) + reduce(dual.residual_dual(residual, divergence=self.f, nonneg=False))
            self.nu_optimiser.step(loss)
            return {"nu_loss": loss.detach()}
        ratio = self.ratio(batch)[:, 0]
        nu_loss = reduce(start[:, 0]) + reduce(dual.saddle_value(residual, ratio))
        ratio_loss = reduce(dual.saddle_ratio(ratio, residual, divergence=self.f))
        self.nu_optimiser.step(nu_loss)
        self.ratio_optimiser.step(ratio_loss)
        mass = reduce(ratio.detach() * common.mass_of(batch, gamma))
        return {"nu_loss": nu_loss.detach(), "ratio_loss": ratio_loss.detach(), "mass": mass}

    def residual(self, batch: Batch, following: Tensor) -> Tensor:
        """gamma nu(s', pi) - nu(s, a), (R, B)."""
        return (batch["discount"] * following - self.nu(batch)[:, 0]) / (1 - self.h.gamma)

    def weights(self, batch: Batch, chunk: int) -> Tensor:
        """w of a batch's pairs, (R, B), for the report."""
        if self.config.form == "minimax":
            return self.ratio(batch)[:, 0].detach()
        following = common.average(self.nu, self, batch["next_obs"], "next", chunk)[:, 0]
        residual = self.residual(batch, following).detach().requires_grad_()
        loss = dual.residual_dual(residual, divergence=self.f, nonneg=False)
        return torch.autograd.grad(loss.sum(), residual)[0]

    def report(self, source: common.Episodes) -> dict[str, list]:
        parts, facts = common.weighted(source, common.over(source, self.weights), self.config.self_normalised)
        interval = common.resampled(self, parts, self.config.resamples)
        return common.report(self, source, common.ratios(parts), interval, **facts)
