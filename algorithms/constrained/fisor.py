"""FISOR: stay where no cost need ever be paid, and earn there; elsewhere leave by the least violation. The limit is 0.

    h:     `violation` where c > 0, -1 elsewhere
    V_h:   min E_D |(1 - reach_expectile) - 1(Q_h' - V_h < 0)| (Q_h'(s, a) - V_h(s))^2       Q_h' = max of two targets
    Q_h:   min E_D ((1 - gamma) h + gamma max(h, V_h(s')) - Q_h(s, a))^2                     and h at a terminal
    V, Q:  implicit Q-learning of the reward, as in `offline.iql`
    w:     V_h > 0 (infeasible):  min(exp(unsafe_temperature (V_h - Q_h')), 150)
           V_h <= 0, Q_h' <= 0:   min(exp(temperature (Q' - V)), 100)
           V_h <= 0, Q_h' > 0:    0
    pi:    Box: min E_D w |noise - f(sqrt(k_t) a + sqrt(1 - k_t) noise, s, t)|^2, t uniform; Discrete: w log pi(a|s)

Zheng, Li, Yu, Yang, Li, Zhan, Liu 2024, "Safe offline reinforcement learning with feasibility-guided diffusion model"
(arXiv 2401.10700), and the authors' code. A Box policy denoises 16 actions by its slow copy and takes the one of least
Q_h'.

Without discount {V_h <= 0} is the largest set from which some policy never pays; with gamma = 0.99 a state is called
feasible whose violation is 325 steps or more away, whatever it does (`fenchel verify limits`).

Departures: a time-out is no terminal, where their code stops values at both; rewards as they are; no dropout, one-hot
diffusion times, one actor update per step; evaluation fixes the noise of a replica, so that its policy is a function.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Categorical, Critic, Value
from fenchel.algorithms.networks.diffusion import Denoiser, DiffusionPolicy
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import diffusion, offline_safety, policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class FISORConfig(Config):
    expectile: float | list[float] = field(default=0.9, metadata={"range": (0, 1)})
    """of the reward's value: 0.5 is the mean, towards 1 the best action in the data"""
    reach_expectile: float | list[float] = field(default=0.9, metadata={"range": (0, 1)})
    """of the violation's value: towards 1 the safest action in the data"""
    violation: float = field(default=25.0, metadata={"range": (0, None)})
    """h where there is a cost; elsewhere it is -1"""
    temperature: float | list[float] = field(default=3.0, metadata={"range": (0, None)})
    """inverse temperature of the weights of actions that stay feasible, exp(temperature * advantage)"""
    unsafe_temperature: float | list[float] = field(default=5.0, metadata={"range": (0, None)})
    """inverse temperature of the weights in infeasible states, exp(unsafe_temperature * (V_h - Q_h))"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""
    ema: float | list[float] = field(default=0.001, metadata={"range": (0, 1)})
    """how far the policy that acts moves towards the trained one per update"""
    diffusion_steps: int = field(default=5, metadata={"range": (1, None)})
    """denoising steps, of a Box policy"""
    candidates: int = field(default=16, metadata={"range": (1, None)})
    """actions of which the safest is taken, of a Box policy"""


class FISOR(Learner):
    Config = FISORConfig
    PAPER = 10
    TITLE = "FISOR"
    FAMILY = "constrained"
    DEMO = "point-goal-mixed"
    NEEDS = ("cost",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*point-goal*": {"lr": 1e-3, "tau": 0.02, "ema": 0.005, "violation": 1.0},
    }

    def setup(self) -> None:
        config = self.config
        self.expand("reach_expectile")
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.value = Value(self.rng, "value", self.spec, config.hidden, **options)
        self.critic = Critic(self.rng, "critic", self.spec, config.hidden, **options)
        self.target = self.critic.target()
        self.reach_value = Value(self.rng, "reach_value", self.spec, config.hidden, **options)
        self.reach_critic = Critic(self.rng, "reach_critic", self.spec, config.hidden, **options)
        self.reach_target = self.reach_critic.target()
        if self.spec.discrete:
            self.actor = Categorical(self.rng, "policy", self.spec, config.hidden, **options)
            self.policy = self.actor.target()
        else:
            size = {"steps": config.diffusion_steps, "dtype": self.dtype}
            self.actor = Denoiser(self.rng, "policy", self.spec, config.hidden, **size)
            self.policy = DiffusionPolicy(self.rng, "policy", self.actor.target(), config.candidates, self.danger)
        networks = self.actor, self.value, self.critic, self.reach_value, self.reach_critic
        self.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs, next_obs, discount = self.h, batch["obs"], batch["next_obs"], batch["discount"]
        violation = offline_safety.violation(batch["cost"], unsafe=h.violation)
        reach_q, q = self.reach_target(batch).amax(1), self.target(batch).amin(1)
        reach_v, v = self.reach_value(obs), self.value(obs)
        reach_backup = offline_safety.reach_backup(violation, discount, self.reach_value.frozen(next_obs))
        backup = value.bellman_backup(batch["reward"], discount, self.value.frozen(next_obs))
        options = {"safe_temperature": h.temperature, "unsafe_temperature": h.unsafe_temperature}
        weight = offline_safety.feasibility_weight(reach_q, reach_v.detach(), q - v.detach(), **options)
        losses = {
            "reach_value_loss": reduce(value.expectile(reach_v, reach_q, expectile=1 - h.reach_expectile)),
            "reach_critic_loss": reduce(value.td(self.reach_critic(batch), reach_backup.unsqueeze(1)).sum(1)),
            "value_loss": reduce(value.expectile(v, q, expectile=h.expectile)),
            "critic_loss": reduce(value.td(self.critic(batch), backup.unsqueeze(1)).sum(1)),
            "policy_loss": reduce(self.policy_loss(batch, weight)),
        }
        self.optimiser.step(*losses.values())
        self.target.track(self.critic, h.tau)
        self.reach_target.track(self.reach_critic, h.tau)
        self.policy.track(self.actor, h.ema)
        feasible = reduce((reach_v <= 0).to(v.dtype))
        return {name: loss.detach() for name, loss in losses.items()} | {"feasible": feasible}

    def policy_loss(self, batch: Batch, weight: Tensor) -> Tensor:
        """(R, B)."""
        obs, action = batch["obs"], batch["action"]
        if self.spec.discrete:
            return policy.weighted_nll(self.actor.log_prob(obs, action), weight)
        noise = self.noise("noise", action.shape[1:])
        t = (self.noise("time", action.shape[1:2], law="uniform") * self.config.diffusion_steps).long()
        t = t.clamp(max=self.config.diffusion_steps - 1)
        noisy = diffusion.diffuse(action, noise, self.policy.kept[t].unsqueeze(-1))
        return diffusion.denoising(self.actor(obs, noisy, t), noise, weight)

    def danger(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q_h' (R, B) of other actions."""
        return self.reach_target.of(obs, action).amax(1)
