"""OptiDICE: the best occupancy near the data's, by its dual, with the states in which episodes start.

    max over occupancies d of E_d r - T D_f(d || d_D)                                    d = w d_D, T the temperature
    nu, lambda:  min (1 - gamma) E V(s0) + E_D T f*_+(e / T) + lambda,   e = r + gamma V(s') - V(s) - c lambda
    e(s, a):     min E_D (e - e(s, a))^2            (mse)   or   E_D T f(w) - w e,  w = w*(e(s, a) / T)       (minimax)
    pi:          min E_D KL(pi(s) || beta(s) w(s, .)),  beta cloned from the data             (information_projection)
            or   max E_D min(w, max_weight) log pi(a|s)                                                  (weighted_bc)

V is nu, s0 comes from a draw of its own, and lambda is the multiplier of the mass of d, which its flow fixes anyway:
E_D c w = 1 with c = (1 - discount) / (1 - gamma), 1 but at terminals. It moves V's constant, which Adam moves slowly.

Lee, Jeon, Lee, Pineau, Kim 2021, "OptiDICE: offline policy optimization via stationary distribution correction
estimation" (arXiv 2106.10783), and the authors' code. Where transitions are stochastic, f* of one sample is above f* of
the mean: V belongs to the larger program in which w may depend on s' too. The regression's e(s, a) is the conditional
mean all the same, so that actions are not weighed by luck. `minimax`, the default of their code, has that minimiser
too, but no gradient where w = 0 (chi2) and a huge one where w is large (kl): `mse`, as in their example, is ours.

variant=official: E_D w = 1 though episodes end by terminals, and for chi2 the projection's log w is log 1e-10 at every
e < 0 (docs/errata.md). Departures: one lambda, where they fit another to the weights of e(s, a); beta is a Gaussian,
where they have a mixture of five; no bound on the policy's entropy and no warm-up; no absorbing state; rewards as they
are (theirs: standardised, times 0.1). Their chi-square is half of ours, so that their alpha is 2 T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Value, Vector, stochastic_policy
from fenchel.algorithms.sampler import Batch, StartSampler
from fenchel.envs.dataset import OfflineDataset
from fenchel.errors import UserError
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import dual, policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class OptiDICEConfig(Config):
    batch_size: int = field(default=512, metadata={"range": (1, None)})
    """transitions, and first states, per update and replica"""
    divergence: str = "soft_chi2"
    """f: soft_chi2, chi2, kl, or alpha:<order of at least 1>"""
    temperature: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """T, the weight of the divergence, in units of reward"""
    extraction: Literal["information_projection", "weighted_bc"] = "information_projection"
    """the policy: nearest in KL to the data's policy times w, or weighted likelihood of the data's actions"""
    residual_loss: Literal["mse", "minimax"] = "mse"
    """how e(s, a) is fitted to the residuals"""
    variant: Literal["corrected", "official"] = "corrected"
    """mass and logarithms that hold at terminals and for chi2, or as released"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the weights' upper bound; of extraction=weighted_bc only"""


class OptiDICE(Learner):
    Config = OptiDICEConfig
    TITLE = "OptiDICE"
    FAMILY = "dice"
    DEMO = "pointmaze-umaze"
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*pointmaze*": {"temperature": 0.1, "lr": 1e-3},
    }

    def setup(self) -> None:
        config = self.config
        dual.check_temperature(config.temperature)
        dual.check_unbounded(config.divergence)
        if not all(gamma < 1 for gamma in torch.as_tensor(config.gamma).flatten().tolist()):
            raise UserError(f"gamma={config.gamma} is not valid; it lies below 1, since first states weigh 1 - gamma.")
        self.divergence = get_divergence(config.divergence)
        self.expand("gamma", "temperature")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        policy_options = {"squash": "sample", "std": "state", **options}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **policy_options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        self.multiplier = Vector(self.rng, dtype=self.dtype)
        self.residual = Critic(self.rng, "residual", self.spec, config.hidden, members=1, **options)
        networks = [self.policy, self.value, self.multiplier, self.residual]
        if config.extraction == "information_projection":
            self.behaviour = stochastic_policy(self.rng, "behaviour", self.spec, config.hidden, **policy_options)
            networks.append(self.behaviour)
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)

    def sampler(self, data: OfflineDataset) -> StartSampler:
        return StartSampler(data, self)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h = self.h
        value_loss, error = self.value_loss(batch)
        estimate = self.residual(batch).squeeze(1)
        if h.residual_loss == "mse":
            residual_loss = value.td(estimate, error)
        else:
            ratio = self.divergence.ratio(estimate / h.temperature)
            residual_loss = dual.saddle_ratio(ratio, error, divergence=self.divergence, temperature=h.temperature)
        losses = {"value_loss": value_loss, "residual_loss": reduce(residual_loss)}
        if h.extraction == "weighted_bc":
            weight = self.divergence.ratio(estimate / h.temperature).clamp(max=h.max_weight)
            log_prob = self.policy.log_prob(batch["obs"], batch["action"])
            losses["policy_loss"] = reduce(policy.weighted_nll(log_prob, weight))
        else:
            losses["policy_loss"] = reduce(self.projection(batch["obs"]))
            losses["behaviour_loss"] = reduce(policy.nll(self.behaviour.log_prob(batch["obs"], batch["action"])))
        self.optimiser.step(*losses.values())
        y = error / h.temperature
        shown = {"value_loss": dual.report_overflow(value_loss, y, self.divergence), "mass": self.mass(batch, y)}
        return {name: loss.detach() for name, loss in (losses | shown).items()}

    def value_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The dual's loss (R,), and the residuals e (R, B) less their multiplier."""
        h, multiplier, span = self.h, self.multiplier(), self.span(batch)
        next_value = self.value(batch["next_obs"])
        error = value.bellman_backup(batch["reward"], batch["discount"], next_value) - self.value(batch["obs"])
        options = {"divergence": self.divergence, "temperature": h.temperature, "mass": span}
        start_loss = reduce((1 - h.gamma) * self.value(batch["start_obs"]))
        loss = start_loss + reduce(dual.normalised_dual(error, multiplier, **options))
        return loss, (error - span * multiplier).detach()

    def span(self, batch: Batch) -> Tensor | float:
        """c, (R, B): how many steps a row stands for, the terminal one for all that it saves."""
        return 1.0 if self.h.variant == "official" else (1 - batch["discount"]) / (1 - self.h.gamma)

    def mass(self, batch: Batch, y: Tensor) -> Tensor:
        """(R,): E_D c w, which is 1 at the optimum."""
        return reduce(self.span(batch) * self.divergence.ratio(y))

    def projection(self, obs: Tensor) -> Tensor:
        """(R, B): KL(pi || beta w) up to a constant, exact for Discrete actions, at one sample of pi in a Box."""
        residual = self.residual.frozen
        if self.spec.discrete:
            log_prob, log_data = self.policy.log_probs(obs), self.behaviour.frozen.log_probs(obs)
            log_weight = self.log_weight(residual.table(obs).squeeze(1))
            return (log_prob.exp() * policy.information_projection(log_prob, log_data, log_weight)).sum(-1)
        action, log_prob = self.policy.sample(obs, self.noise("policy", (obs.shape[1], self.spec.action.dim)))
        log_data = self.behaviour.frozen.log_prob(obs, action)
        log_weight = self.log_weight(residual.of(obs, action).squeeze(1))
        return policy.information_projection(log_prob, log_data, log_weight)

    def log_weight(self, estimate: Tensor) -> Tensor:
        """log w of e(s, a), (R, B) or (R, B, n)."""
        temperature = self.h.temperature
        y = estimate / (temperature if estimate.ndim == 2 else temperature.unsqueeze(-1))
        log_weight = dual.log_ratio(y, divergence=self.divergence)
        if self.h.variant == "official" and self.divergence.name == "chi2":
            return torch.where(y < 0, math.log(1e-10), log_weight)
        return log_weight
