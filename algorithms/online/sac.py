"""Soft actor-critic with a learned temperature and a replay buffer per replica.

    Q:   min E (Q(s, a) - r - gamma (min_i Q'_i(s', a') - temperature log pi(a'|s')))^2,  a' ~ pi           (eq. 5)
    pi:  max E min_i Q_i(s, a) - temperature log pi(a|s),  a ~ pi by reparametrisation                      (eq. 7)
    log temperature: follows log pi(a|s) + target entropy                                                  (eq. 18)

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications" (arXiv 1812.05905).

Before the first update `learning_starts` transitions are collected with uniform actions; from then on every copy takes
one step per `act_every` updates, so `steps` updates take `steps * num_envs / act_every` steps of the environment.

Departures: none known; the temperature's loss uses its logarithm, as the authors' code does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Gaussian, Vector
from fenchel.algorithms.online.collector import Collector
from fenchel.algorithms.sampler import Batch
from fenchel.envs.task import Task
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class SACConfig(Config):
    num_envs: int = field(default=1, metadata={"range": (1, None)})
    """copies of the environment per replica"""
    act_every: int = field(default=1, metadata={"range": (1, None)})
    """updates per step of the copies"""
    learning_starts: int = field(default=1000, metadata={"range": (1, None)})
    """transitions with uniform actions before the first update"""
    buffer_size: int = field(default=1_000_000, metadata={"range": (1, None)})
    """transitions kept per replica, the newest; they are part of every checkpoint"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""
    target_entropy: float | None = None
    """nats that the temperature aims at; null: minus the number of action dimensions"""


class SAC(Learner):
    Config = SACConfig
    TITLE = "Soft actor-critic"
    FAMILY = "online"
    DEMO = "pendulum"
    ACTIONS = ("box",)
    ONLINE = True
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*pendulum*": {"buffer_size": 50_000, "lr": 1e-3},
    }

    def setup(self) -> None:
        config = self.config
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        self.policy = Gaussian(self.rng, "policy", self.spec, config.hidden, squash="sample", std="state", **options)
        self.critic = Critic(self.rng, "critic", self.spec, config.hidden, **options)
        self.target = self.critic.target()
        self.log_temperature = Vector(self.rng, dtype=self.dtype)
        self.critic_optimiser = Adam(self.critic, lr=config.lr, clip=config.clip_grad)
        self.policy_optimiser = Adam(self.policy, self.log_temperature, lr=config.lr, clip=config.clip_grad)
        self.target_entropy = -self.spec.action.dim if config.target_entropy is None else config.target_entropy

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs, shape = self.h, batch["obs"], batch["action"].shape[1:]
        log_temperature = self.log_temperature()
        temperature = log_temperature.detach().exp()
        with torch.no_grad():
            action, log_prob = self.policy.sample(batch["next_obs"], self.noise("next_action", shape))
            soft = self.target.of(batch["next_obs"], action).amin(1) - temperature * log_prob
            backup = value.bellman_backup(batch["reward"], batch["discount"], soft)
        critic_loss = reduce(value.td(self.critic(batch), backup.unsqueeze(1)).sum(1))
        self.critic_optimiser.step(critic_loss)
        action, log_prob = self.policy.sample(obs, self.noise("action", shape))
        q = self.critic.frozen.of(obs, action).amin(1)
        policy_loss = reduce(policy.sac_actor(log_prob, q, temperature=temperature))
        entropy_loss = reduce(policy.sac_temperature(log_temperature, log_prob, target_entropy=self.target_entropy))
        self.policy_optimiser.step(policy_loss, entropy_loss)
        self.target.track(self.critic, h.tau)
        losses = {"critic_loss": critic_loss, "policy_loss": policy_loss, "temperature": temperature.squeeze(1)}
        return {name: loss.detach() for name, loss in losses.items()}

    def source(self, task: Task, normalize_obs: bool = True) -> Replay:
        """Observations are not normalised: there is no data to take their moments from."""
        return Replay(self, task)


class Replay:
    """The newest `buffer_size` transitions of every replica, one packed row each."""

    def __init__(self, learner: SAC, task: Task):
        config, spec = learner.config, learner.spec
        self.learner, self.config = learner, config
        self.capacity = max(config.buffer_size, config.learning_starts + config.num_envs)
        self.collector = Collector(learner, task, config.num_envs)
        self.widths = {
            "obs": spec.obs_dim,
            "action": spec.action.dim,
            "reward": 1,
            "discount": 1,
            "next_obs": spec.obs_dim,
        }
        self.rows = learner.obs_mean.new_zeros(learner.R * self.capacity, sum(self.widths.values()))
        self.first = torch.arange(learner.R, device=learner.device).unsqueeze(1) * self.capacity

    def __call__(self, step: int) -> Batch:
        learner, config = self.learner, self.config
        while int(self.collector.clock) * config.num_envs < config.learning_starts:
            self._act(at_random=True)
        if step % config.act_every == 0:
            self._act(at_random=False)
        filled = min(int(self.collector.clock) * config.num_envs, self.capacity // config.num_envs * config.num_envs)
        index = (learner.noise("replay", (config.batch_size,), "uniform").double() * filled).long()
        rows = self.rows.index_select(0, (self.first + index).flatten()).view(*index.shape, -1)
        parts = rows.split(list(self.widths.values()), dim=-1)
        batch = {name: p.squeeze(-1) if w == 1 and name in ("reward", "discount") else p
                 for (name, w), p in zip(self.widths.items(), parts, strict=True)}  # fmt: skip
        return batch | {"obs_action": rows[..., : self.widths["obs"] + self.widths["action"]]}

    @torch.no_grad()
    def _act(self, at_random: bool) -> None:
        learner, collector = self.learner, self.collector
        at = int(collector.clock) % (self.capacity // self.config.num_envs)
        if at_random:
            action = 2 * collector.noise("uniform") - 1
        else:
            action, _ = learner.policy.sample(learner.normalise(collector.obs), collector.noise("normal"))
        move = collector.step(action)
        discount = learner.h.gamma * (~move.terminal).to(learner.dtype)
        row = torch.cat([move.obs, action, torch.stack([move.reward, discount], -1), move.next_obs], -1)
        place = self.first + at * self.config.num_envs + torch.arange(self.config.num_envs, device=learner.device)
        self.rows.index_copy_(0, place.flatten(), row.flatten(0, 1))

    def at_checkpoint(self, index: int) -> None:
        self.collector.at_checkpoint()

    def state(self) -> dict[str, Tensor]:
        return self.collector.state() | {"rows": self.rows}
