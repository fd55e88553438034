"""ReBRAC: TD3+BC with its penalty in the critic too, and the design choices that made the difference.

    Q_i:  min E_D (r + gamma (min_j Q'_j(s', a') - beta_2 |a' - a'_D|^2) - Q_i(s, a))^2,   a' = pi'(s') + clip(noise)
    pi:   max E_D [ min_i Q_i(s, pi(s)) / mean|Q| - beta_1 |pi(s) - a|^2 ]

a'_D is the data's own next action. Norms are sums over action dimensions; the mean of |Q| runs over the batch and is a
constant for the gradient. Critics have LayerNorm, the policy has not. Every second update moves the policy and the
targets.

Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, "Revisiting the minimalist approach to offline reinforcement learning"
(arXiv 2305.09836); options are those of the authors' code, whose beta_1 and beta_2 are tuned per data set. A row whose
next action the data does not hold, the last before a time-out, is left out, as there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Deterministic
from fenchel.algorithms.sampler import Batch
from fenchel.envs.dataset import OfflineDataset
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class ReBRACConfig(Config):
    lr: float | list[float] = field(default=1e-3, metadata={"range": (0, None)})
    """Adam's step size of the critics"""
    policy_lr: float | list[float] = field(default=1e-3, metadata={"range": (0, None)})
    """Adam's step size of the policy"""
    batch_size: int = field(default=1024, metadata={"range": (1, None)})
    """transitions per update and replica"""
    hidden: tuple[int, ...] = field(default=(256, 256, 256), metadata={"range": (1, None)})
    """widths of the hidden layers of every network"""
    layer_norm: bool = True
    """LayerNorm after every hidden layer's affine map, in the critics"""
    policy_penalty: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """beta_1, weight of the distance to the data's action against the normalised Q"""
    critic_penalty: float | list[float] = field(default=1.0, metadata={"range": (0, None)})
    """beta_2, weight of the distance to the data's next action in the critics' targets, in units of return"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the targets move per update of the policy"""
    policy_noise: float | list[float] = field(default=0.2, metadata={"range": (0, None)})
    """standard deviation of the noise on target actions, in units of half the action range"""
    noise_clip: float = field(default=0.5, metadata={"range": (0, None)})
    """bound of that noise"""
    delay: int = field(default=2, metadata={"range": (1, None)})
    """critic updates per update of the policy and the targets"""


class ReBRAC(Learner):
    Config = ReBRACConfig
    TITLE = "ReBRAC"
    FAMILY = "offline"
    DEMO = "hopper-medium"
    ACTIONS = ("box",)
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
        "hopper-medium": {"policy_penalty": 0.01, "critic_penalty": 0.001},
        "hopper-medium-*": {"policy_penalty": 0.1, "critic_penalty": 0.01},
        "*antmaze*": {
            "policy_penalty": 0.003, "critic_penalty": 0.0, "gamma": 0.999, "batch_size": 256, "lr": 5e-5,
            "policy_lr": 3e-4,
        },
        "*pointmaze*": {"policy_penalty": 0.2, "critic_penalty": 0.01, "tau": 0.01},
    }  # fmt: skip

    def setup(self) -> None:
        config = self.config
        self.period = config.delay
        self.policy = Deterministic(self.rng, "policy", self.spec, config.hidden, dtype=self.dtype)
        self.critic = Critic(
            self.rng, "critic", self.spec, config.hidden, layer_norm=config.layer_norm, dtype=self.dtype
        )
        self.policy_target, self.critic_target = self.policy.target(), self.critic.target()
        self.policy_optimiser = Adam(self.policy, lr=config.policy_lr, clip=config.clip_grad, every=config.delay)
        self.critic_optimiser = Adam(self.critic, lr=config.lr, clip=config.clip_grad)

    def select(self, data: OfflineDataset) -> Tensor:
        return (~data.timeout | data.terminal).nonzero()[:, 0]

    def columns(self, data: OfflineDataset) -> dict[str, Tensor]:
        """next_action; after a terminal it is another episode's, and counts for nothing."""
        return {"next_action": self.spec.action.unscale(data.action.roll(-1, 0))}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs = self.h, batch["obs"]
        critic_loss = reduce(value.td(self.critic(batch), self.backup(batch).unsqueeze(1)).sum(1))
        self.critic_optimiser.step(critic_loss)
        losses = {"critic_loss": critic_loss.detach()}
        if self.steps % h.delay == h.delay - 1:
            action = self.policy.mode(obs)
            q = self.critic.frozen.of(obs, action).amin(1)
            # - |pi(s) - a|^2 is the log-density of a Gaussian at pi(s), up to a constant
            policy_loss = reduce(policy.ddpg_bc(q, -distance(action, batch["action"]), alpha=h.policy_penalty))
            self.policy_optimiser.step(policy_loss)
            self.policy_target.track(self.policy, h.tau)
            self.critic_target.track(self.critic, h.tau)
            losses["policy_loss"] = policy_loss.detach()
        return losses

    @torch.no_grad()
    def backup(self, batch: Batch) -> Tensor:
        """(R, B): r + gamma times the smaller target at a smoothed target action, less its distance to the data's."""
        h, next_obs = self.h, batch["next_obs"]
        scale = h.policy_noise.unsqueeze(-1) if isinstance(h.policy_noise, Tensor) else h.policy_noise
        noise = (self.noise("target", batch["action"].shape[1:]) * scale).clamp(-h.noise_clip, h.noise_clip)
        action = (self.policy_target.mode(next_obs) + noise).clamp(-1, 1)
        next_value = self.critic_target.of(next_obs, action).amin(1)
        next_value = next_value - h.critic_penalty * distance(action, batch["next_action"])
        return value.bellman_backup(batch["reward"], batch["discount"], next_value)


def distance(action: Tensor, other_target: Tensor) -> Tensor:
    """|a - b|^2, summed over dimensions: (R, B)."""
    return action.shape[-1] * policy.mse(action, other_target)
