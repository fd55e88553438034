"""Soft actor-critic with a learned temperature and a replay buffer per replica.

    Q:   min E (Q(s, a) - r - gamma (min_i Q'_i(s', a') - temperature log pi(a'|s')))^2,  a' ~ pi           (eq. 5)
    pi:  max E min_i Q_i(s, a) - temperature log pi(a|s),  a ~ pi by reparametrisation                      (eq. 7)
    log temperature: follows log pi(a|s) + target entropy                                                  (eq. 18)

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications" (arXiv 1812.05905).

`steps` counts updates. Before the first one `learning_starts` transitions per replica are collected with uniform
actions; from then on every copy takes one step per `act_every` updates, so `steps` updates take `learning_starts +
steps * num_envs / act_every` environment steps per replica: with the defaults 10,000 updates are 11,000.

Observations are not normalised (`normalize_obs` has no effect). The replay buffer is part of every checkpoint.

Departures: the temperature's loss uses its logarithm, and log-deviations are kept within -20 and 2, as in the authors'
code.
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
from fenchel.errors import UserError
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
    """transitions kept per replica, the newest, rounded down to a multiple of num_envs"""
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
        "*[Pp]endulum*": {"hidden": [64, 64], "batch_size": 64, "lr": 1e-3, "buffer_size": 50_000, "steps": 10_000},
    }

    def setup(self) -> None:
        config = self.config
        options = {"layer_norm": config.layer_norm, "dtype": self.dtype}
        gaussian = {"squash": "sample", "std": "state", "log_std_range": (-20.0, 2.0)}
        self.policy = Gaussian(self.rng, "policy", self.spec, config.hidden, **gaussian, **options)
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
    """The newest `capacity` transitions of every replica, one packed row each, written round and round."""

    def __init__(self, learner: SAC, task: Task):
        config, spec = learner.config, learner.spec
        if config.buffer_size < config.num_envs:
            raise UserError(f"buffer_size={config.buffer_size} must be at least num_envs={config.num_envs}.")
        self.learner, self.config = learner, config
        self.capacity = config.buffer_size // config.num_envs * config.num_envs
        self.collector = Collector(learner, task, config.num_envs)
        self.widths = [spec.obs_dim, spec.action.dim, 1, 1, spec.obs_dim]
        self.rows = learner.obs_mean.new_zeros(learner.R * self.capacity, sum(self.widths))
        self.first = torch.arange(learner.R, device=learner.device).unsqueeze(1) * self.capacity
        self.copies = torch.arange(config.num_envs, device=learner.device)

    @property
    def env_steps(self) -> int:
        return self.collector.env_steps

    def __call__(self, step: int) -> Batch:
        learner, config = self.learner, self.config
        while self.env_steps < config.learning_starts:
            self._act(at_random=True)
        if step % config.act_every == 0:
            self._act(at_random=False)
        filled = min(self.env_steps, self.capacity)
        index = learner.blocks.draw(learner.steps, "integers", "replay", (config.batch_size,), 2**62) % filled
        rows = self.rows.index_select(0, (self.first + index).flatten()).view(*index.shape, -1)
        obs, action, reward, discount, next_obs = rows.split(self.widths, dim=-1)
        batch = {"obs": obs, "action": action, "reward": reward.squeeze(-1), "discount": discount.squeeze(-1)}
        return batch | {"next_obs": next_obs, "obs_action": rows[..., : sum(self.widths[:2])]}

    @torch.no_grad()
    def _act(self, at_random: bool) -> None:
        learner, collector = self.learner, self.collector
        place = self.first + collector.env_steps % self.capacity + self.copies
        if at_random:
            action = 2 * collector.noise("uniform") - 1
        else:
            action, _ = learner.policy.sample(learner.normalise(collector.obs), collector.noise("normal"))
        move = collector.step(action)
        discount = learner.h.gamma * (~move.terminal).to(learner.dtype)
        row = torch.cat([move.obs, action, torch.stack([move.reward, discount], -1), move.next_obs], -1)
        self.rows.index_copy_(0, place.flatten(), row.flatten(0, 1))

    def at_checkpoint(self, index: int) -> None:
        self.collector.at_checkpoint()

    def state(self) -> dict[str, Tensor]:
        return self.collector.state() | {"rows": self.rows}
