"""f-DVL, and with it XQL, SQL and EQL: the dual-V program, whose value is an implicit maximum under an f-divergence.

    V:   min E_D (1 - lam) V(s) + lam T f*_+((Q'(s, a) - V(s)) / T + c)       Q' = min of two target critics
    Q:   min E_D huber(r + gamma V(s') - Q(s, a))
    pi:  max E_D w log pi(a|s),   w = min(exp(inverse_temperature (Q' - V)), max_weight)                         (awr)
                             or   w = min(lam / (1 - lam) w*((Q' - V) / T + c), max_weight), w* = (f*_+)'        (w)

T is `temperature`, f* the conjugate over w >= 0 of f, and c = f'((1 - lam) / lam) makes a constant Q its own value
(`theory.objectives.dual.dual_v`). At lam = 1/2 the `w` policy is the maximiser of E_pi Q - T D_f(pi || data).

Sikchi, Zheng, Zhang, Niekum 2024, "Dual RL: unification and new methods for reinforcement and imitation learning"
(arXiv 2302.08560).

| method | options |
|---|---|
| f-DVL as released (hari-sikchi/DVL) | variant=official, divergence=chi2 or tv, lam in their `--temp` |
| XQL (Garg 2023), temperature beta | divergence=kl lam=0.5 temperature=beta extraction=awr |
| XQL as released, exponent cut at 7 | divergence=kl variant=official, lam * temperature = beta |
| SQL (Xu 2023, IVR), temperature alpha | divergence=chi2 lam=0.5 temperature=alpha extraction=w |
| EQL (Xu 2023, IVR), temperature alpha | divergence=kl lam=0.5 temperature=alpha extraction=w |

Departures: variant=corrected is the default, and lam = 1/2 with a temperature its parameters, because the literal loss
(variant=paper) adds - T f'((1 - lam) / lam) at every backup and the released chi2 loss tends to mean(Q) + 2 instead of
max Q (docs/errata.md). The losses are evaluated at the same parameters; step sizes are constant; no uniformly random
actions in the value's batch; no reward scaling and no dropout. SQL and EQL learn Q by squared error: a large `delta`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.errors import UserError
from fenchel.theory.objectives import dual, policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class FDVLConfig(Config):
    batch_size: int = field(default=1024, metadata={"range": (1, None)})
    """transitions per update and replica"""
    divergence: str = "chi2"
    """f: chi2, kl, soft_chi2, tv, or alpha:<order of at least 1>"""
    variant: Literal["corrected", "paper", "official"] = "corrected"
    """the value's loss: with the right fixed point, as printed, or as released (chi2, tv and kl)"""
    lam: float | list[float] = field(default=0.5, metadata={"range": (0, 1)})
    """how far the value leans to the best action; the ends are excluded, and for tv all up to 1/2"""
    temperature: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """T, the weight of the divergence, in units of return"""
    extraction: Literal["awr", "w"] = "awr"
    """the policy's weights: exponentials of the advantage, or the dual's own optimal ratio"""
    inverse_temperature: float | list[float] = field(default=3.0, metadata={"range": (0, None)})
    """of the weights exp(inverse_temperature * advantage); not used by extraction=w"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the weights' upper bound"""
    delta: float = field(default=20.0, metadata={"range": (0, None)})
    """where the critics' Huber loss turns linear"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""


class FDVL(Learner):
    Config = FDVLConfig
    PAPER = 2
    TITLE = "f-DVL (XQL, SQL and EQL as options)"
    FAMILY = "dual"
    DEMO = "pointmaze-umaze"
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        # the released code divides rewards by a thousandth of the range of returns, about 3 for Hopper
        "hopper-*": {"temperature": 3.0, "inverse_temperature": 1.0},
        "*antmaze*": {"inverse_temperature": 10.0},
        "*pointmaze*": {"temperature": 0.1, "inverse_temperature": 10.0, "lr": 1e-3, "tau": 0.01},
        "*kitchen*": {"inverse_temperature": 0.5},
    }

    def setup(self) -> None:
        config = self.config
        dual.check_lam(config.lam, config.divergence)
        dual.check_temperature(config.temperature)
        if config.divergence != "tv":
            dual.check_unbounded(config.divergence)
        if config.extraction == "w" and config.variant == "official":
            raise UserError("extraction=w has no variant=official; valid are extraction=awr, variant=corrected, paper.")
        self.expand("lam", "temperature")
        self.form = {"divergence": config.divergence, "variant": config.variant}
        zero = self.h.lam.new_zeros(self.R, 1)
        dual.dual_v(zero, zero, lam=self.h.lam, temperature=self.h.temperature, **self.form)  # refuses what has no loss
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        self.critic = Critic(self.rng, "critic", self.spec, config.hidden, **options)
        self.target = self.critic.target()
        self.optimiser = Adam(self.policy, self.value, self.critic, lr=config.lr, clip=config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs = self.h, batch["obs"]
        q_target = self.target(batch).amin(1)
        v = self.value(obs)
        backup = value.bellman_backup(batch["reward"], batch["discount"], self.value.frozen(batch["next_obs"]))
        value_loss = dual.dual_v(v, q_target, lam=h.lam, temperature=h.temperature, **self.form)
        log_prob = self.policy.log_prob(obs, batch["action"])
        losses = {
            "value_loss": reduce(value_loss),
            "critic_loss": reduce(value.huber(self.critic(batch), backup.unsqueeze(1), delta=h.delta).sum(1)),
            "policy_loss": reduce(policy.weighted_nll(log_prob, self.weight(v, q_target))),
        }
        self.optimiser.step(*losses.values())
        self.target.track(self.critic, h.tau)
        shown = {name: loss.detach() for name, loss in losses.items()}
        if h.variant != "official":  # whose exponent is cut
            y = (q_target - v.detach()) / h.temperature
            shown["value_loss"] = dual.report_overflow(shown["value_loss"], y, h.divergence)
        return shown

    def weight(self, v: Tensor, q: Tensor) -> Tensor:
        """What a transition counts in the policy's likelihood, (R, B)."""
        h = self.h
        if h.extraction == "awr":
            return policy.awr_weight(q - v, inverse_temperature=h.inverse_temperature, clip=h.max_weight)
        weight = dual.dual_v_weight(v, q, lam=h.lam, temperature=h.temperature, **self.form)
        return weight.clamp(max=h.max_weight)
