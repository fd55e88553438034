"""Proximal policy optimisation with replicas: every replica has its own environments, statistics and minibatches.

    pi:  max E min(rho A, clip(rho, 1 - clip, 1 + clip) A) + entropy_coef H(pi),  rho = pi(a|s) / pi_old(a|s)   (eq. 7)
    V:   min value_coef E (V(s) - (A + V_old(s)))^2 / 2
    A:   sum_l (gamma lambda)^l (r + gamma V(s') - V(s)), cut at an episode's end, bootstrapped at a time-out    (GAE)

Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347); GAE is arXiv 1506.02438.

`steps` counts updates, one minibatch each. A rollout of `horizon * num_envs` transitions per replica is learned from
in `epochs` passes, so `steps` updates take about `steps * batch_size / epochs` environment steps per replica: with the
defaults 10,000 updates are 64,000 environment steps. A minibatch that an epoch cannot fill is left out.

Observations are normalised by their running moments (`normalize_obs`), rewards by the running deviation of the
discounted return, as stable-baselines3's VecNormalize does. The policy acts in [-1, 1], clipped; log-probabilities are
those of the unclipped actions.

Departures: policy and value share no layers; the value loss is not clipped; the step size is constant. From
stable-baselines3: the value loss has its factor 1/2, so that its vf_coef is half our value_coef; Adam's epsilon is 1e-8
instead of 1e-5; normalised observations are not clipped at 10.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Value, stochastic_policy
from fenchel.algorithms.online.collector import Collector, Moments
from fenchel.algorithms.sampler import Batch
from fenchel.envs.task import Task
from fenchel.errors import UserError
from fenchel.theory.objectives import policy_gradient
from fenchel.theory.objectives.reduce import reduce
from fenchel.theory.objectives.returns import gae


@dataclass
class PPOConfig(Config):
    num_envs: int = field(default=8, metadata={"range": (1, None)})
    """copies of the environment per replica"""
    horizon: int = field(default=256, metadata={"range": (1, None)})
    """steps of every copy per rollout"""
    epochs: int = field(default=10, metadata={"range": (1, None)})
    """passes over a rollout"""
    batch_size: int = field(default=64, metadata={"range": (2, None)})
    """transitions per update and replica, whose advantages are normalised; at most a rollout"""
    hidden: tuple[int, ...] = field(default=(64, 64), metadata={"range": (1, None)})
    """widths of the hidden layers of both networks, which use tanh"""
    gae_lambda: float | list[float] = field(default=0.95, metadata={"range": (0, 1)})
    """lambda of the advantage: 0 is the TD error, 1 the return"""
    clip: float = field(default=0.2, metadata={"range": (0, None)})
    """how far the ratio may leave 1 with a gradient"""
    value_coef: float = field(default=0.5, metadata={"range": (0, None)})
    """weight of the value loss"""
    entropy_coef: float = field(default=0.0, metadata={"range": (0, None)})
    """weight of the entropy bonus"""
    clip_grad: float | None = field(default=0.5, metadata={"range": (0, None)})
    """largest norm of one replica's gradient; null: no clipping"""
    normalize_reward: bool = True
    """divide rewards by the running deviation of the discounted return"""


class PPO(Learner):
    Config = PPOConfig
    PAPER = 232
    TITLE = "Proximal policy optimization"
    FAMILY = "online"
    DEMO = "pendulum"
    ONLINE = True
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "*[Pp]endulum*": {"gamma": 0.9, "lr": 1e-3, "horizon": 128, "steps": 30_000},
    }

    def setup(self) -> None:
        build(self)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses, log_ratio = surrogate(self, batch, batch["advantage"])
        self.optimiser.step(*losses.values())
        return logged(self, losses, log_ratio)

    def source(self, task: Task, normalize_obs: bool = True) -> Rollouts:
        return Rollouts(self, task, normalize_obs)


def build(owner: Any) -> None:
    """PPO's networks, optimiser and statistics as attributes of `owner`: a learner before its `setup`, or the like."""
    config, spec = owner.config, owner.spec
    shared = {"activation": "tanh", "init": "orthogonal", "layer_norm": config.layer_norm, "dtype": owner.dtype}
    hidden = config.hidden
    owner.policy = stochastic_policy(owner.rng, "policy", spec, hidden, squash="none", last_gain=0.01, **shared)
    owner.value = Value(owner.rng, "value", spec, hidden, **shared)
    owner.optimiser = Adam(owner.policy, owner.value, lr=config.lr, clip=config.clip_grad)
    like = torch.empty(owner.R, 1, spec.obs_dim, device=owner.device, dtype=owner.dtype)
    owner.obs_mean, owner.obs_std = torch.zeros_like(like), torch.ones_like(like)


def surrogate(owner: Any, batch: Batch, advantage: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The losses (R,) for an advantage (R, B), which is normalised here, and log pi - log pi_old (R, B)."""
    h, obs = owner.h, batch["obs"]
    log_ratio = owner.policy.log_prob(obs, batch["action"]) - batch["log_prob"]
    clipped = policy_gradient.ppo_clip(log_ratio, whitened(advantage), clip=h.clip)
    error = policy_gradient.ppo_value(owner.value(obs), batch["value"], batch["return"])
    losses = {
        "policy_loss": reduce(clipped),
        "value_loss": h.value_coef * reduce(error),
        "entropy_loss": -h.entropy_coef * reduce(owner.policy.entropy(obs)),
    }
    return losses, log_ratio


def whitened(advantage: Tensor) -> Tensor:
    """(R, B): mean 0 and deviation 1 of every replica's minibatch."""
    centred = advantage - advantage.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-8)


def logged(owner: Any, losses: dict[str, Tensor], log_ratio: Tensor) -> dict[str, Tensor]:
    """The losses, and the share of ratios outside of the clipping interval."""
    outside = (log_ratio.detach().exp() - 1).abs() > owner.h.clip
    return {name: loss.detach() for name, loss in losses.items()} | {"clipped": outside.to(owner.dtype).mean(1)}


class Rollouts:
    """Minibatches of the newest rollout; a new one is collected when its epochs are over.

    learner: a PPO, or what `build` has made of something like it. Where the task has K objectives, rewards, values,
    advantages and returns are (..., K).
    """

    def __init__(self, learner: Any, task: Task, normalize_obs: bool):
        config = learner.config
        self.learner, self.config, self.normalize_obs = learner, config, normalize_obs
        self.size = config.horizon * config.num_envs
        if config.batch_size > self.size:
            raise UserError(
                f"batch_size={config.batch_size} exceeds a rollout, horizon * num_envs = {self.size} transitions."
            )
        self.per_epoch = self.size // config.batch_size
        self.collector = Collector(learner, task, config.num_envs)
        self.moments = Moments(learner.obs_mean, learner.obs_std)
        rows = learner.obs_mean.new_zeros(learner.R, self.size)
        wide = {"obs": learner.spec.obs_dim} | ({} if learner.spec.discrete else {"action": learner.spec.action.dim})
        self.rollout = {name: rows.new_zeros(*rows.shape, dim) for name, dim in wide.items()}
        self.rollout |= {"action": rows.long()} if learner.spec.discrete else {}
        self.vector = () if learner.spec.objectives is None else (learner.spec.objectives,)
        self.rollout |= {"log_prob": torch.zeros_like(rows)}
        self.rollout |= {name: rows.new_zeros(*rows.shape, *self.vector) for name in ("advantage", "value", "return")}
        one = rows.new_zeros(learner.R, 1, *(self.vector or (1,)))
        self.scale = Moments(one.clone(), torch.ones_like(one))  # of the discounted return so far
        self.discounted = rows.new_zeros(learner.R, config.num_envs, *self.vector)
        self.order = (-1, rows.long())

    @property
    def env_steps(self) -> int:
        return self.collector.env_steps

    def due(self, step: int) -> bool:
        """Whether a new rollout is collected before this step."""
        return step % (self.per_epoch * self.config.epochs) == 0

    def __call__(self, step: int) -> Batch:
        epoch, batch = divmod(step, self.per_epoch)
        if self.due(step):
            self._collect()
        if self.order[0] != epoch:
            self.order = (epoch, self.learner.rng.bits("order", (self.size,), counter=epoch).argsort(1))
        index = self.order[1][:, batch * self.config.batch_size : (batch + 1) * self.config.batch_size]
        return {name: _take(rows, index) for name, rows in self.rollout.items()}

    def at_checkpoint(self, index: int) -> None:
        self.collector.at_checkpoint()
        self.discounted.zero_()

    def state(self) -> dict[str, Tensor]:
        """Without `discounted`, which begins anew with the episodes at every checkpoint."""
        own = {"moments": self.moments.count}
        own |= {f"scale.{name}": tensor for name, tensor in vars(self.scale).items()}
        return own | self.collector.state() | {f"rollout.{name}": rows for name, rows in self.rollout.items()}

    @torch.no_grad()
    def _collect(self) -> None:
        """Act for `horizon` steps; advantages from the values as they are now."""
        learner, gamma, steps = self.learner, self.learner.h.gamma, []
        for _ in range(self.config.horizon):
            raw = self.collector.obs
            if self.normalize_obs:
                self.moments.update(raw)
            obs = learner.normalise(raw)
            action, log_prob = learner.policy.sample(obs, self.collector.noise(learner.policy.NOISE))
            move = self.collector.step(action)
            over = move.terminal | move.timeout
            row = {"obs": obs, "action": action, "log_prob": log_prob, "next_obs": learner.normalise(move.next_obs)}
            row |= {"reward": self._scaled(move.reward, over, gamma), "cut": over.to(learner.dtype)}
            row |= move.extras
            steps.append(row | {"discount": gamma * (~move.terminal).to(learner.dtype)})
        columns: dict[str, Tensor] = {name: torch.stack([row[name] for row in steps], 2) for name in steps[0]}
        columns |= self._estimates(columns)
        for name, rows in self.rollout.items():
            rows.copy_(columns[name].flatten(1, 2))

    def _estimates(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is learned from beside the steps themselves, from the columns (R, E, T, ...) of a new rollout."""
        for name, seen in (("value", "obs"), ("next_value", "next_obs")):
            columns[name] = self.learner.value(columns[seen].flatten(1, 2)).view_as(columns["reward"])
        advantage = self._advantage(columns)
        return {"advantage": advantage, "return": advantage + columns["value"]}

    def _advantage(self, columns: dict[str, Tensor]) -> Tensor:
        """(R, E, T[, K]), every objective's own; `gae` wants time last."""
        vector, lam = bool(self.vector), self.learner.h.gae_lambda
        lam = lam.view(-1, *[1] * (2 + vector)) if isinstance(lam, Tensor) else lam
        own = {name: columns[name].mT if vector else columns[name] for name in ("reward", "value", "next_value")}
        shared = {name: columns[name].unsqueeze(2) if vector else columns[name] for name in ("discount", "cut")}
        advantage = gae(**own, **shared, lam=lam)
        return advantage.mT if vector else advantage

    def _scaled(self, reward: Tensor, over: Tensor, gamma: Any) -> Tensor:
        if not self.config.normalize_reward:
            return reward
        scale = self.scale
        if self.vector:
            gamma, over = gamma.unsqueeze(-1) if isinstance(gamma, Tensor) else gamma, over.unsqueeze(-1)
        self.discounted.mul_(gamma).add_(reward)
        scale.update(self.discounted if self.vector else self.discounted.unsqueeze(-1))
        self.discounted.masked_fill_(over, 0.0)
        return (reward / (scale.std if self.vector else scale.std[..., 0])).clamp(-10, 10)


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """rows (R, N[, dim]) at index (R, B) -> (R, B[, dim])."""
    return rows.gather(1, index if rows.ndim == 2 else index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))
