"""ODICE: a value from the dual of a divergence-regularised occupancy program, with the two halves of its gradient kept
apart: the one through V(s'), projected, regularises V over states without undoing the one through V(s).

    V:   min E_D (1 - lam) V(s) + lam f*_+(e),   e = r / T + gamma V(s') - V(s)
    g_f = grad E_D lam f*_+(r / T + gamma V'(s') - V(s)),   V' the target network
    g_b = grad E_D lam eta f*_+(r / T + gamma V(s') - V'(s))
         semi:        (1 - lam) grad E V + g_f
         orthogonal:  (1 - lam) grad E V + g_f + g_b - (<g_b, g_f> / |g_f|^2) g_f
         true:        the gradient of the loss as it stands
    pi:  max E_D min(w, max_weight) log pi(a|s),   w = w*(e) = (f*_+)'(e)

Mao, Xu, Zhang, Zhan 2024, "ODICE: revealing the mystery of distribution correction estimation via orthogonal-gradient
update" (arXiv 2402.00348). f* is the conjugate over w >= 0; the state-marginal of the first term is the data's. Both
members of V share the smaller target, and the projection runs over all of a replica's value parameters together.

variant=official weighs by max(e, 0), as the released code has for chi2, where w* is 1 + e / 2. Departures: T, which is
their reward scale (locomotion: T = range of returns / 1000) and in whose units V is; one width for every network, where
their policy has 2 x 1024; no weight decay; the policy's mean is squashed; the weights' residual is the members' mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import dual, policy
from fenchel.theory.objectives.reduce import reduce


@dataclass
class ODICEConfig(Config):
    lr: float | list[float] = field(default=2e-4, metadata={"range": (0, None)})
    """Adam's step size, of every network"""
    layer_norm: bool = True
    """LayerNorm after every hidden layer's affine map"""
    divergence: str = "chi2"
    """f: chi2, kl, soft_chi2, or alpha:<order of at least 1>"""
    gradient: Literal["orthogonal", "true", "semi"] = "orthogonal"
    """what becomes of the gradient through the next state's value: projected, kept or dropped"""
    lam: float | list[float] = field(default=0.6, metadata={"range": (0, 1)})
    """how far the value leans to the best action; the ends are excluded"""
    eta: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """weight of the projected gradient; of gradient=orthogonal only"""
    temperature: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """T, the weight of the divergence, in units of reward: rewards are divided by it"""
    variant: Literal["paper", "official"] = "paper"
    """the policy's weights: the dual's optimal ratio w*(e), or max(e, 0) as released"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the weights' upper bound"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target value moves towards the value per update"""


class ODICE(Learner):
    Config = ODICEConfig
    PAPER = 72
    TITLE = "ODICE"
    FAMILY = "dice"
    DEMO = "pointmaze-umaze"
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "hopper-*": {"temperature": 3.0},
        "*antmaze*": {"lr": 1e-4},
        "*pointmaze*": {"temperature": 0.1, "lr": 1e-3, "tau": 0.01},
    }

    def setup(self) -> None:
        config = self.config
        dual.check_lam(config.lam, config.divergence)
        dual.check_temperature(config.temperature)
        dual.check_unbounded(config.divergence)
        self.divergence = get_divergence(config.divergence)
        self.expand("lam", "eta", "temperature")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, members=2, **options)
        self.target = self.value.target()
        self.policy_optimiser = Adam(self.policy, lr=config.lr, clip=config.clip_grad)
        self.value_optimiser = Adam(self.value, lr=config.lr, clip=config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        log_prob = self.policy.log_prob(batch["obs"], batch["action"])
        value_loss, residual = self.improve_value(batch)
        policy_loss = reduce(policy.weighted_nll(log_prob, self.weight(residual)))
        self.policy_optimiser.step(policy_loss)
        self.target.track(self.value, self.h.tau)
        return {"value_loss": value_loss, "policy_loss": policy_loss.detach(), "residual": reduce(residual)}

    def improve_value(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step of V; its loss (R,), and the residuals e (R, B) that it was taken at."""
        h, obs, next_obs = self.h, batch["obs"], batch["next_obs"]
        reward, discount = (batch["reward"] / h.temperature).unsqueeze(1), batch["discount"].unsqueeze(1)
        v = self.value(obs)
        if h.gradient == "true":
            residual = reward + discount * self.value(next_obs) - v
        else:
            residual = dual.forward_residual(v, self.target(next_obs).amin(1, keepdim=True), reward, discount)
        lam, eta = h.lam.unsqueeze(1), h.eta.unsqueeze(1)  # against (R, members, B)
        loss = reduce(dual.odice_value(v, residual, lam=lam, divergence=self.divergence))
        if h.gradient == "orthogonal":
            # `orthogonal` does not see the scale of its second argument
            target = self.target(obs).amin(1, keepdim=True)
            backward = dual.backward_residual(target, self.value(next_obs), reward, discount)
            back = self.gradient(reduce(lam * eta * dual.residual_dual(backward, divergence=self.divergence)))
            ahead = self.gradient(reduce(dual.residual_dual(residual, divergence=self.divergence)))
            self.gradient(loss)
            self.value.grad.add_(dual.orthogonal([back], [ahead])[0])
            self.value_optimiser.apply()
        else:
            self.value_optimiser.step(loss)
        return dual.report_overflow(loss.detach(), residual, self.divergence), residual.detach().mean(1)

    def gradient(self, loss: Tensor) -> Tensor:
        """(R, parameters): the value's gradient of one loss (R,), a copy of what then lies in its buffer."""
        self.value.grad.zero_()
        torch.autograd.backward(loss, torch.ones_like(loss), retain_graph=True)
        return self.value.grad.clone()

    def weight(self, residual: Tensor) -> Tensor:
        """What a transition counts in the policy's likelihood, (R, B)."""
        weight = residual.relu() if self.h.variant == "official" else self.divergence.ratio(residual)
        return weight.clamp(max=self.h.max_weight)
