"""SMODICE: imitation from other people's data, by the occupancy nearest to the demonstrations' and to those data.

    max over occupancies d   E_d log(d_E / d_O) - T D_f(d || d_O)

    c:   the discriminator, whose logit is r = log d_E / d_O of states (or states and actions)
    V:   min (1 - gamma) E V(s0) + E_O T f*_+(e / T),   e = r + gamma V(s') - V(s)
    pi:  max E_O min(w*(e / T), max_weight) log pi(a|s),   w* = (f*_+)' = d / d_O

Ma, Shen, Jayaraman, Bastani 2022, "Versatile offline imitation from observations and examples via state-occupancy
matching" (arXiv 2202.02433). f* is the conjugate over w >= 0; d_O are the rows that are no demonstrations, so that they
have to cover the expert. Divergences are in the convention of `theory.divergences`: the paper's chi2 is half of ours,
hence the default T = 1/2.

variant=official (JasonMa2016/SMODICE) drops w >= 0 from the chi2 loss, whose optimum is then a signed flow, while its
policy weighs by max(w, 0); with kl it takes log E_O exp(e). Departures: the discriminator is learned along with V,
where the authors train it first; r is cut at +- max_log_ratio; no absorbing state is added (a terminal's value is 0);
no entropy constraint and no weight decay; the policy's mean is squashed, not its sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.imitation import flow
from fenchel.algorithms.imitation.discriminator import Discriminator
from fenchel.algorithms.imitation.source import ImitationSampler, expert_part
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.errors import UserError
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import dual, policy
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset


@dataclass
class SMODICEConfig(Config):
    batch_size: int = field(default=512, metadata={"range": (1, None)})
    """offline rows, demonstrations' rows and first states per update and replica, of each so many"""
    match: Literal["state", "state_action"] = "state"
    """what the discriminator looks at: states alone, or states and actions"""
    divergence: str = "chi2"
    """f: chi2, kl, soft_chi2, or alpha:<order of at least 1>"""
    variant: Literal["paper", "official"] = "paper"
    """with w >= 0 in the value's loss, or as released"""
    temperature: float | list[float] = field(default=0.5, metadata={"range": (0, None)})
    """T, the weight of the divergence from the offline data, in nats; 0 is excluded"""
    penalty: float | list[float] = field(default=10.0, metadata={"range": (0, None)})
    """weight of the discriminator's gradient penalty"""
    max_log_ratio: float = field(default=7.0, metadata={"range": (0, None)})
    """where the discriminator's log-ratio is cut"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the policy weights' upper bound"""


class SMODICE(Learner):
    Config = SMODICEConfig
    TITLE = "SMODICE"
    FAMILY = "imitation"
    DEMO = "pendulum-imitation"
    NEEDS = ("expert",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*fourrooms*": {"gamma": 0.95, "lr": 1e-3},
        "*stitchmaze*": {"gamma": 0.95, "lr": 1e-3},
        "*pendulum*": {"lr": 1e-3},
    }

    def setup(self) -> None:
        config = self.config
        dual.check_temperature(config.temperature)
        dual.check_unbounded(config.divergence)
        self.divergence = get_divergence(config.divergence)
        if config.variant == "official" and self.divergence.name not in ("chi2", "kl"):
            raise UserError(f"divergence={self.divergence.name} has no variant=official; valid are chi2, kl.")
        flow.check_gamma(config.gamma)
        self.expand("gamma", "temperature")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        self.discriminator = Discriminator(
            self.rng, "discriminator", self.spec, config.hidden, config.match, dtype=self.dtype
        )
        networks = (self.policy, self.value, self.discriminator)
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)

    def sampler(self, data: OfflineDataset) -> ImitationSampler:
        return ImitationSampler(data, self, union=False)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, share = self.h, self.noise("between", batch["reward"].shape[1:], "uniform")
        discriminator_loss = self.discriminator.loss(expert_part(batch), batch, penalty=h.penalty, share=share)
        residual = self.discriminator.reward(batch, h.max_log_ratio) + flow.advantage(self.value, batch)
        weight = self.divergence.ratio(residual.detach() / h.temperature).clamp(max=h.max_weight)
        log_prob = self.policy.log_prob(batch["obs"], batch["action"])
        losses = {
            "discriminator_loss": discriminator_loss,
            "value_loss": reduce(flow.start(self.value, batch, h.gamma)) + reduce(self.conjugate(residual)),
            "policy_loss": reduce(policy.weighted_nll(log_prob, weight)),
        }
        self.optimiser.step(*losses.values())
        return {name: loss.detach() for name, loss in losses.items()} | {"weight": reduce(weight)}

    def conjugate(self, residual: Tensor) -> Tensor:
        """What the divergence turns residuals into, (R, B)."""
        h, official = self.h, self.h.variant == "official"
        if official and self.divergence.name == "kl":
            return dual.donsker_varadhan(residual, temperature=h.temperature)
        form = {"divergence": self.divergence, "temperature": h.temperature}
        return dual.residual_dual(residual, nonneg=not official, **form)
