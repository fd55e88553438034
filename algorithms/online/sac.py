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

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
        build(self)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        heat = temperature(self)
        critic_loss, _ = critic_step(self, batch)
        policy_loss, _ = policy_step(self, batch)
        self.target.track(self.critic, self.h.tau)
        return {"critic_loss": critic_loss, "policy_loss": policy_loss, "temperature": heat.squeeze(1)}

    def source(self, task: Task, normalize_obs: bool = True) -> Replay:
        """Observations are not normalised: there is no data to take their moments from."""
        return Replay(self, task)


def build(owner: Any) -> None:
    """SAC's networks and optimisers as attributes of `owner`, which has what a learner has before `setup`."""
    config = owner.config
    options = {"layer_norm": config.layer_norm, "dtype": owner.dtype}
    gaussian = {"squash": "sample", "std": "state", "log_std_range": (-20.0, 2.0)}
    owner.policy = Gaussian(owner.rng, "policy", owner.spec, config.hidden, **gaussian, **options)
    owner.critic = Critic(owner.rng, "critic", owner.spec, config.hidden, **options)
    owner.target = owner.critic.target()
    owner.log_temperature = Vector(owner.rng, dtype=owner.dtype)
    owner.critic_optimiser = Adam(owner.critic, lr=config.lr, clip=config.clip_grad)
    owner.policy_optimiser = Adam(owner.policy, owner.log_temperature, lr=config.lr, clip=config.clip_grad)
    owner.target_entropy = -owner.spec.action.dim if config.target_entropy is None else config.target_entropy


def temperature(owner: Any) -> Tensor:
    """(R, 1), without gradient."""
    return owner.log_temperature().detach().exp()


def critic_step(owner: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """One update of the critics: their loss (R,), and the actions (R, B, dim) drawn at the next observations."""
    with torch.no_grad():
        action, log_prob = owner.policy.sample(batch["next_obs"], owner.noise("next_action", batch["action"].shape[1:]))
        soft = owner.target.of(batch["next_obs"], action).amin(1) - temperature(owner) * log_prob
        backup = value.bellman_backup(batch["reward"], batch["discount"], soft)
    loss = reduce(value.td(owner.critic(batch), backup.unsqueeze(1)).sum(1))
    owner.critic_optimiser.step(loss)
    return loss.detach(), action


def policy_step(
    owner: Any, batch: Batch, constrain: Callable[[Tensor, Tensor], Tensor] = lambda loss, action: loss
) -> tuple[Tensor, Tensor]:
    """One update of policy and temperature: the policy's loss (R,), and the actions (R, B, dim) that it was taken at.

    constrain(loss (R, B), action (R, B, dim)) -> (R, B): what else the loss of an action is to have.
    """
    action, log_prob = owner.policy.sample(batch["obs"], owner.noise("action", batch["action"].shape[1:]))
    q = owner.critic.frozen.of(batch["obs"], action).amin(1)
    loss = reduce(constrain(policy.sac_actor(log_prob, q, temperature=temperature(owner)), action))
    target = {"target_entropy": owner.target_entropy}
    entropy_loss = reduce(policy.sac_temperature(owner.log_temperature(), log_prob, **target))
    owner.policy_optimiser.step(loss, entropy_loss)
    return loss.detach(), action.detach()


class Replay:
    """The newest `capacity` transitions of every replica, one packed row each, written round and round."""

    def __init__(self, learner: Any, task: Task):
        """learner: a SAC, or what `build` has made of something like it; columns that it NEEDS are kept too."""
        config, spec = learner.config, learner.spec
        if config.buffer_size < config.num_envs:
            raise UserError(f"buffer_size={config.buffer_size} must be at least num_envs={config.num_envs}.")
        self.learner, self.config = learner, config
        self.capacity = config.buffer_size // config.num_envs * config.num_envs
        self.collector = Collector(learner, task, config.num_envs)
        self.widths = [spec.obs_dim, spec.action.dim, 1, 1, spec.obs_dim, *[1] * len(self.collector.extras)]
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
        obs, action, reward, discount, next_obs, *extras = rows.split(self.widths, dim=-1)
        batch = {"obs": obs, "action": action, "reward": reward.squeeze(-1), "discount": discount.squeeze(-1)}
        batch |= {name: column.squeeze(-1) for name, column in zip(self.collector.extras, extras, strict=True)}
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
        row = [move.obs, action, torch.stack([move.reward, discount], -1), move.next_obs]
        row = torch.cat([*row, *(column.unsqueeze(-1) for column in move.extras.values())], -1)
        self.rows.index_copy_(0, place.flatten(), row.flatten(0, 1))

    def at_checkpoint(self, index: int) -> None:
        self.collector.at_checkpoint()

    def state(self) -> dict[str, Tensor]:
        return self.collector.state() | {"rows": self.rows}
