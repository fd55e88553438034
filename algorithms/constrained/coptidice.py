"""COptiDICE: OptiDICE's occupancy under a limit on its cost, the cost taken at an upper bound of what the data say.

    max over occupancies d of E_d r - T D_f(d || d_D)   s.t.   E_d c <= budget             d = w d_D, T the temperature
    nu, mass:  min (1 - gamma) E V(s0) + E_D T f*_+(e / T) + m,   e = r - lam c + gamma V(s') - V(s) - k m
    w:         w*(e / T), a number per row
    chi, tau:  min tau log E_D exp(x / tau) + tau epsilon,  x = (1 - gamma) chi(s0) + w (c + gamma chi(s') - chi(s))
    lam:       lam <- (lam + multiplier_lr (that minimum - budget))_+
    pi:        max E_D min(w*(e(s, a) / T), max_weight) log pi(a|s),   e(s, a):  min E_D (e - e(s, a))^2

V is nu, m the multiplier of the mass and k = (1 - discount) / (1 - gamma) as in `offline.optidice`. The minimum over
chi and tau is the largest cost of w under laws of the data within KL epsilon in which w is a flow still; without
epsilon (radius=null) it is E_D w c, which is the cost in the Lagrangian's own gradient. d is normalised, so that budget
is the limit in *normalised* units, (1 - gamma) times the discounted ones.

Lee, Paduraru, Mankowitz, Heess, Precup, Kim, Guez 2022, "COptiDICE: offline constrained reinforcement learning via
stationary distribution correction estimation" (arXiv 2204.08957).

Released code compares E_D w c with the *discounted* limit, about 1 / (1 - gamma) times too large, or computes chi and
tau and leaves them out (docs/errata.md). Departures: one nu network, where the minimum of two is no longer convex; the
bound is the dual's own value, which bounds at every chi and tau, where theirs is E w c under the weights that these
imply; the policy clones by the conditional mean e(s, a) of the residual, so that luck is not rewarded; first states
are drawn apart; rewards and costs as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fenchel.algorithms import constraints
from fenchel.algorithms.constraints import Constrained, Multiplier
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Value, Vector, stochastic_policy
from fenchel.algorithms.sampler import Batch, StartSampler
from fenchel.errors import UserError
from fenchel.theory.divergences import get_divergence
from fenchel.theory.objectives import constraint, dual, offline_safety, policy, value
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset
    from fenchel.envs.task import Task


@dataclass
class COptiDICEConfig(Constrained):
    batch_size: int = field(default=512, metadata={"range": (1, None)})
    """transitions, and first states, per update and replica"""
    divergence: str = "soft_chi2"
    """f: soft_chi2, chi2, kl, or alpha:<order of at least 1>"""
    temperature: float | list[float] = field(default=0.5, metadata={"range": (0, None)})
    """T, the weight of the divergence, in units of reward"""
    radius: float | list[float] | None = field(default=0.01, metadata={"range": (0, None)})
    """epsilon, of the ball in KL around the data over which the cost is the largest; null: no bound"""
    bound_lr: float | list[float] = field(default=3e-4, metadata={"range": (0, None)})
    """Adam's step size of chi and log tau; not used by radius=null"""
    multiplier_lr: float | list[float] = field(default=0.003, metadata={"range": (0, None)})
    """how far lam moves per update and unit of normalised cost"""
    initial_multiplier: float = field(default=1.0, metadata={"range": (0, None)})
    """lam at the first update, in units of reward per cost"""
    max_multiplier: float = field(default=100.0, metadata={"range": (0, None)})
    """lam's upper bound"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the upper bound of the policy's weights"""


class COptiDICE(Learner):
    Config = COptiDICEConfig
    TITLE = "COptiDICE"
    FAMILY = "constrained"
    DEMO = "hazard-rooms-mixed"
    NEEDS = ("cost",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*point-goal*": {"lr": 1e-3, "bound_lr": 1e-3, "temperature": 0.1, "initial_multiplier": 0.5},
    }

    def setup(self) -> None:
        config = self.config
        dual.check_temperature(config.temperature)
        dual.check_unbounded(config.divergence)
        if not all(gamma < 1 for gamma in torch.as_tensor(config.gamma).flatten().tolist()):
            raise UserError(f"gamma={config.gamma} is not valid; it lies below 1, since first states weigh 1 - gamma.")
        self.divergence = get_divergence(config.divergence)
        self.expand("gamma", "temperature")
        self.DETERMINISTIC = not self.spec.discrete  # optima under a limit randomise
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        self.mass = Vector(self.rng, dtype=self.dtype)
        self.residual = Critic(self.rng, "residual", self.spec, config.hidden, members=1, **options)
        networks = self.policy, self.value, self.mass, self.residual
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)
        if config.radius is not None:
            self.expand("radius")
            self.chi = Value(self.rng, "chi", self.spec, config.hidden, **options)
            self.log_tau = Vector(self.rng, dtype=self.dtype)
            self.bound_optimiser = Adam(self.chi, self.log_tau, lr=config.bound_lr, clip=config.clip_grad)
        first, most = config.initial_multiplier, config.max_multiplier
        self.multiplier = Multiplier(self, lr=config.multiplier_lr, initial=first, ceiling=most)
        self.h.budget = constraints.budget(self, "normalised")

    def bind(self, task: Task) -> None:
        self.limits, self.h.budget = constraints.bind(self, task, "normalised")

    def sampler(self, data: OfflineDataset) -> StartSampler:
        constraints.require(self, self.h.budget)
        return StartSampler(data, self)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h = self.h
        value_loss, error = self.value_loss(batch)
        estimate = self.residual(batch).squeeze(1)
        weight = self.divergence.ratio(estimate / h.temperature).clamp(max=h.max_weight)
        log_prob = self.policy.log_prob(batch["obs"], batch["action"])
        losses = {
            "value_loss": value_loss,
            "residual_loss": reduce(value.td(estimate, error)),
            "policy_loss": reduce(policy.weighted_nll(log_prob, weight)),
        }
        self.optimiser.step(*losses.values())
        y = error / h.temperature
        ratio = self.divergence.ratio(y)
        cost = reduce(ratio * batch["cost"])
        shown = {"value_loss": dual.report_overflow(value_loss, y, self.divergence), "cost": cost}
        if h.radius is not None:
            bound = self.cost_bound(batch, ratio)
            self.bound_optimiser.step(bound)
            cost = shown["cost_bound"] = bound.detach()
        self.multiplier.step(cost, h.budget)
        shown["multiplier"] = self.multiplier().squeeze(1)
        return {name: loss.detach() for name, loss in (losses | shown).items()}

    def value_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The dual's loss (R,), and the residuals e (R, B) less their multiplier of the mass."""
        h, mass = self.h, self.mass()
        span = (1 - batch["discount"]) / (1 - h.gamma)
        reward = -constraint.lagrangian(-batch["reward"], batch["cost"], self.multiplier(), budget=0.0)
        error = value.bellman_backup(reward, batch["discount"], self.value(batch["next_obs"]))
        error = error - self.value(batch["obs"])
        options = {"divergence": self.divergence, "temperature": h.temperature, "mass": span}
        start_loss = reduce((1 - h.gamma) * self.value(batch["start_obs"]))
        return start_loss + reduce(dual.normalised_dual(error, mass, **options)), (error - span * mass).detach()

    def cost_bound(self, batch: Batch, ratio: Tensor) -> Tensor:
        """(R,): the dual of the largest cost near the data; an upper bound at every chi and tau."""
        h, values = self.h, (self.chi(batch[name]) for name in ("obs", "next_obs", "start_obs"))
        element = offline_safety.flow_cost(batch["cost"], ratio, *values, discount=batch["discount"], gamma=h.gamma)
        return reduce(offline_safety.cost_bound(element, self.log_tau().exp(), radius=h.radius))
