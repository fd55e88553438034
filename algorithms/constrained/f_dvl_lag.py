"""f-DVL under a limit on cost: the Lagrangian of its program, whose multiplier rises where the policy costs too much.

    V, Q, pi:  a step of f-DVL (`offline.f_dvl`) on r - lam c
    V_c:       min E_D w (c + gamma V_c(s') - V_c(s))^2,  w the policy's weights, so that V_c is the cost of pi = w beta
    lam:       lam <- clip(lam + multiplier_lr (E V_c(s0) - budget), 0, max_multiplier),   s0 first states of episodes

For divergence=kl, extraction=w the saddle point is max over pi of E_pi sum_t gamma^t (r - T KL(pi || beta)) with
E_pi sum_t gamma^t c <= budget: a smooth problem, whose policy is random where the linear program's is, and whose
multiplier tends to the program's as T falls; other divergences smooth alike. The budget is the limit in discounted
units.

f-DVL: Sikchi, Zheng, Zhang, Niekum 2024, "Dual RL" (arXiv 2302.08560). The Lagrangian of a constrained MDP: Altman
1999. Ours; the same objectives as `f_dvl_lag` on token prefixes (`fenchel.llm.bridge`).

Departure from f_dvl: extraction=w is the default, since exponentials of the advantage (awr) have another temperature
than the value. No variants of the value's loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from fenchel.algorithms import constraints
from fenchel.algorithms.constraints import Constrained, Multiplier
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Value, stochastic_policy
from fenchel.algorithms.sampler import Batch, StartSampler
from fenchel.theory.objectives import constraint, dual, policy, value
from fenchel.theory.objectives.reduce import reduce

if TYPE_CHECKING:
    from fenchel.envs.dataset import OfflineDataset
    from fenchel.envs.task import Task


@dataclass
class FDVLLagConfig(Constrained):
    divergence: str = "chi2"
    """f: chi2, kl, soft_chi2, or alpha:<order of at least 1>"""
    lam: float | list[float] = field(default=0.5, metadata={"range": (0, 1)})
    """how far the value leans to the best action; the ends are excluded"""
    temperature: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """T, the weight of the divergence, in units of return"""
    extraction: Literal["w", "awr"] = "w"
    """the policy's weights: the dual's own optimal ratio, or exponentials of the advantage"""
    inverse_temperature: float = field(default=3.0, metadata={"range": (0, None)})
    """of the weights exp(inverse_temperature * advantage); of extraction=awr only"""
    max_weight: float = field(default=100.0, metadata={"range": (0, None)})
    """the weights' upper bound"""
    delta: float = field(default=20.0, metadata={"range": (0, None)})
    """where the critics' Huber loss turns linear"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""
    initial_multiplier: float = field(default=1.0, metadata={"range": (0, None)})
    """lam at the first update, in units of reward per cost"""
    multiplier_lr: float | list[float] = field(default=0.003, metadata={"range": (0, None)})
    """how far lam moves per update and unit of discounted cost"""
    max_multiplier: float = field(default=100.0, metadata={"range": (0, None)})
    """lam's upper bound"""


class FDVLLag(Learner):
    Config = FDVLLagConfig
    TITLE = "f-DVL with a Lagrangian"
    FAMILY = "constrained"
    DEMO = "hazard-rooms-mixed"
    NEEDS = ("cost",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*point-goal*": {"lr": 1e-3, "tau": 0.01, "temperature": 0.5, "initial_multiplier": 0.5, "multiplier_lr": 1e-4},
    }

    def setup(self) -> None:
        config = self.config
        dual.check_lam(config.lam, config.divergence)
        dual.check_temperature(config.temperature)
        dual.check_unbounded(config.divergence)
        self.expand("lam", "temperature")
        self.DETERMINISTIC = not self.spec.discrete  # optima under a limit randomise
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = stochastic_policy(self.rng, "policy", self.spec, config.hidden, **options)
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        self.critic = Critic(self.rng, "critic", self.spec, config.hidden, **options)
        self.target = self.critic.target()
        self.cost = Value(self.rng, "cost", self.spec, config.hidden, **options)
        networks = self.policy, self.value, self.critic, self.cost
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)
        first, most = config.initial_multiplier, config.max_multiplier
        self.multiplier = Multiplier(self, lr=config.multiplier_lr, initial=first, ceiling=most)
        self.h.budget = constraints.budget(self, "discounted")

    def bind(self, task: Task) -> None:
        self.limits, self.h.budget = constraints.bind(self, task, "discounted")

    def sampler(self, data: OfflineDataset) -> StartSampler:
        constraints.require(self, self.h.budget)
        return StartSampler(data, self)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs, discount = self.h, batch["obs"], batch["discount"]
        reward = -constraint.lagrangian(-batch["reward"], batch["cost"], self.multiplier(), budget=0.0)
        q_target = self.target(batch).amin(1)
        v = self.value(obs)
        backup = value.bellman_backup(reward, discount, self.value.frozen(batch["next_obs"]))
        form = {"divergence": h.divergence, "lam": h.lam, "temperature": h.temperature}
        weight = self.weight(v.detach(), q_target)
        cost = value.bellman_backup(batch["cost"], discount, self.cost.frozen(batch["next_obs"]))
        log_prob = self.policy.log_prob(obs, batch["action"])
        losses = {
            "value_loss": reduce(dual.dual_v(v, q_target, **form)),
            "critic_loss": reduce(value.huber(self.critic(batch), backup.unsqueeze(1), delta=h.delta).sum(1)),
            "cost_loss": reduce(weight * value.td(self.cost(obs), cost)),
            "policy_loss": reduce(policy.weighted_nll(log_prob, weight)),
        }
        self.optimiser.step(*losses.values())
        self.target.track(self.critic, h.tau)
        start_cost = reduce(self.cost.frozen(batch["start_obs"]))
        self.multiplier.step(start_cost, h.budget)
        shown = {name: loss.detach() for name, loss in losses.items()}
        y = (q_target - v.detach()) / h.temperature
        shown["value_loss"] = dual.report_overflow(shown["value_loss"], y, h.divergence)
        return shown | {"cost": start_cost, "multiplier": self.multiplier().squeeze(1)}

    def weight(self, v: Tensor, q: Tensor) -> Tensor:
        """What a transition counts in the policy's likelihood and in its cost, (R, B)."""
        h = self.h
        if h.extraction == "awr":
            return policy.awr_weight(q - v, inverse_temperature=h.inverse_temperature, clip=h.max_weight)
        weight = dual.dual_v_weight(v, q, divergence=h.divergence, lam=h.lam, temperature=h.temperature)
        return weight.clamp(max=h.max_weight)
