"""DemoDICE: few demonstrations, and imperfect ones beside them that hold the policy to what has been seen.

    max over occupancies d   - KL(d || d_E) - alpha KL(d || d_U) = E_d log(d_E / d_U) - T KL(d || d_U),   T = 1 + alpha

    c:   the discriminator, whose logit is r = log d_E / d_U of states and actions
    V:   min (1 - gamma) E V(s0) + T log E_U exp(e / T),   e = r + gamma V(s') - V(s)
    pi:  max E_U w log pi(a|s),   w = exp(e / T) / E_U exp(e / T) = d / d_U

Kim, Seo, Lee, Jeon, Hwang, Yang, Kim 2022, "DemoDICE: offline imitation learning with supplementary imperfect
demonstrations" (ICLR). d_U is the union of all rows, so that it covers the demonstrations.

The logarithm is the sum of the multiplier of E_U w = 1. An occupancy of episodes that end has less mass than 1, and
w then vanishes on every row that ends one (docs/errata.md); normalised=false has T E_U (exp(e / T) - 1) instead, whose
optimum is the same where no episode ends, and right where one does. A residual holds one successor, so that stochastic
dynamics bias exp(e / T) upwards, here as in the authors' code.

Departures from geon-hyeong/imitation-dice: a terminal's value is 0, where they go on to the state after it unless an
absorbing state is added; r is cut at +- max_log_ratio, where theirs is kept between -6.9 and 13.8 by constants; the
gradient penalty looks between demonstrations and others only, and V has none; the policy's mean is squashed, not its
sample; no he_normal initial weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.imitation import flow
from fenchel.algorithms.imitation.discriminator import Discriminator
from fenchel.algorithms.imitation.source import ImitationSampler, expert_part
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import dual, policy
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset


@dataclass
class DemoDICEConfig(Config):
    batch_size: int = field(default=512, metadata={"range": (1, None)})
    """rows of the union, demonstrations' rows and first states per update and replica, of each so many"""
    temperature: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """T = 1 + alpha of the paper, the weight of the divergence from all rows; 0 is excluded"""
    normalised: bool = True
    """log E exp(e / T) as in the paper; false where episodes end"""
    penalty: float | list[float] = field(default=0.1, metadata={"range": (0, None)})
    """weight of the discriminator's gradient penalty"""
    max_log_ratio: float = field(default=7.0, metadata={"range": (0, None)})
    """where the discriminator's log-ratio is cut"""


class DemoDICE(Learner):
    Config = DemoDICEConfig
    TITLE = "DemoDICE"
    FAMILY = "imitation"
    DEMO = "pendulum-imitation"
    NEEDS = ("expert",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*fourrooms*": {"gamma": 0.95, "lr": 1e-3, "normalised": False},
        "*stitchmaze*": {"gamma": 0.95, "lr": 1e-3, "normalised": False},
        "*pendulum*": {"lr": 1e-3},
    }

    def setup(self) -> None:
        config = self.config
        dual.check_temperature(config.temperature)
        flow.check_gamma(config.gamma)
        self.expand("gamma")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        self.discriminator = Discriminator(
            self.rng, "discriminator", self.spec, config.hidden, "state_action", dtype=self.dtype
        )
        networks = (self.policy, self.value, self.discriminator)
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)

    def sampler(self, data: OfflineDataset) -> ImitationSampler:
        return ImitationSampler(data, self, union=True)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, share = self.h, self.noise("between", batch["reward"].shape[1:], "uniform")
        discriminator_loss = self.discriminator.loss(expert_part(batch), batch, penalty=h.penalty, share=share)
        residual = self.discriminator.reward(batch, h.max_log_ratio) + flow.advantage(self.value, batch)
        conjugate = flow.kl_conjugate(residual, h.temperature, h.normalised)
        log_prob = self.policy.log_prob(batch["obs"], batch["action"])
        weight = flow.kl_weight(residual.detach(), h.temperature)
        losses = {
            "discriminator_loss": discriminator_loss,
            "value_loss": reduce(flow.start(self.value, batch, h.gamma)) + reduce(conjugate),
            "policy_loss": reduce(policy.weighted_nll(log_prob, weight)),
        }
        self.optimiser.step(*losses.values())
        return {name: loss.detach() for name, loss in losses.items()}
