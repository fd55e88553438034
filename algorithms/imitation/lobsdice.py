"""LobsDICE: imitation of demonstrations without their actions, by matching pairs of consecutive states.

    max over occupancies d   - KL(d(s, s') || d_E(s, s')) - alpha KL(d(s, a) || d_U(s, a))

    c:   the discriminator, whose logit is r = log d_E / d_U of a state and its successor
    V:   min (1 - gamma) E V(s0) + T log E_U exp(e / T),   e = r + gamma V(s') - V(s),   T = 1 + alpha    closed_form
    V,M: min (1 - gamma) E V(s0) + log E_U exp(r + M) + alpha log E_U exp((gamma V(s') - V(s) - M) / alpha)   otherwise,
         M(s, s') the multiplier of d(s, s') = sum_a d(s, a) P(s'|s, a)
    pi:  max E_U w log pi(a|s),   w = d / d_U, the exponential of the last term over its mean

Kim, Lee, Jang, Yang, Kim 2022, "LobsDICE: offline learning from observation via stationary distribution correction
estimation" (arXiv 2202.13536). The best M is (gamma V(s') - V(s) - alpha r) / T, which is the closed form. d_U are the
rows that are no demonstrations, so that no action of a demonstration is read; union=true adds the demonstrations'
own rows with their actions, as the released code does.

As in DemoDICE, log E_U exp is for data without an end of episodes; normalised=false has T E_U (exp(e / T) - 1). One
successor per row is exact where the dynamics are deterministic. Departures from geon-hyeong/imitation-dice: those of
DemoDICE, and with M the weight of the last term is 1 + alpha there, the closed form of alpha + 1 (docs/errata.md).
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
from fenchel.errors import UserError
from fenchel.theory.objectives import policy
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset


@dataclass
class LobsDICEConfig(Config):
    batch_size: int = field(default=512, metadata={"range": (1, None)})
    """offline rows, demonstrations' rows and first states per update and replica, of each so many"""
    alpha: float | list[float] = field(default=0.1, metadata={"range": (0, None)})
    """weight of the divergence from the data's states and actions"""
    closed_form: bool = True
    """with the best multiplier M put in, or M as a network; the latter needs alpha > 0"""
    union: bool = False
    """learn from all rows, or from those that are no demonstrations"""
    normalised: bool = True
    """log E exp(e / T) as in the paper; false where episodes end"""
    penalty: float | list[float] = field(default=0.1, metadata={"range": (0, None)})
    """weight of the discriminator's gradient penalty"""
    max_log_ratio: float = field(default=7.0, metadata={"range": (0, None)})
    """where the discriminator's log-ratio is cut"""


class LobsDICE(Learner):
    Config = LobsDICEConfig
    TITLE = "LobsDICE"
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
        alphas = config.alpha if isinstance(config.alpha, list) else [config.alpha]
        if not config.closed_form and min(alphas) <= 0:
            raise UserError(f"alpha={config.alpha} is not valid with closed_form=false; it lies above 0.")
        flow.check_gamma(config.gamma)
        self.expand("gamma", "alpha")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        pairs = (self.spec, config.hidden, "state_pair")
        self.discriminator = Discriminator(self.rng, "discriminator", *pairs, dtype=self.dtype)
        networks = [self.policy, self.value, self.discriminator]
        if not config.closed_form:
            self.multiplier = Discriminator(self.rng, "multiplier", *pairs, **options)
            networks.append(self.multiplier)
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)

    def sampler(self, data: OfflineDataset) -> ImitationSampler:
        return ImitationSampler(data, self, union=self.config.union)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, share = self.h, self.noise("between", batch["reward"].shape[1:], "uniform")
        discriminator_loss = self.discriminator.loss(expert_part(batch), batch, penalty=h.penalty, share=share)
        reward, advantage = self.discriminator.reward(batch, h.max_log_ratio), flow.advantage(self.value, batch)
        if h.closed_form:
            residual, temperature = reward + advantage, 1 + h.alpha
            conjugate = flow.kl_conjugate(residual, temperature, h.normalised)
        else:
            multiplier = self.multiplier(self.multiplier.inputs(batch)).squeeze(-1)
            residual, temperature = advantage - multiplier, h.alpha
            conjugate = flow.kl_conjugate(residual, temperature, h.normalised)
            conjugate = conjugate + flow.kl_conjugate(reward + multiplier, 1.0, h.normalised)
        log_prob = self.policy.log_prob(batch["obs"], batch["action"])
        weight = flow.kl_weight(residual.detach(), temperature)
        losses = {
            "discriminator_loss": discriminator_loss,
            "value_loss": reduce(flow.start(self.value, batch, h.gamma)) + reduce(conjugate),
            "policy_loss": reduce(policy.weighted_nll(log_prob, weight)),
        }
        self.optimiser.step(*losses.values())
        return {name: loss.detach() for name, loss in losses.items()}
