"""TD3+BC: a deterministic policy that climbs Q and is held to the data by regression.

    Q_i:  min E_D (r + gamma min_j Q'_j(s', pi'(s') + clip(noise)) - Q_i(s, a))^2                            (TD3)
    pi:   max E_D [ alpha Q_1(s, pi(s)) / mean|Q_1| - |pi(s) - a|^2 ]                                     (eqs. 3, 5)

Fujimoto and Gu 2021, "A minimalist approach to offline reinforcement learning" (arXiv 2106.06860). The mean of |Q|
runs over the batch and is a constant for the gradient. Every second update moves the policy and the targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Deterministic
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class TD3BCConfig(Config):
    alpha: float | list[float] = field(default=2.5, metadata={"range": (0, None)})
    """weight of the normalised Q against regression to the data"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the targets move per update of the policy"""
    policy_noise: float | list[float] = field(default=0.2, metadata={"range": (0, None)})
    """standard deviation of the noise on target actions, in units of half the action range"""
    noise_clip: float = field(default=0.5, metadata={"range": (0, None)})
    """bound of that noise"""
    delay: int = field(default=2, metadata={"range": (1, None)})
    """critic updates per update of the policy and the targets"""


class TD3BC(Learner):
    Config = TD3BCConfig
    TITLE = "TD3+BC"
    FAMILY = "offline"
    DEMO = "hopper-medium-replay"
    ACTIONS = ("box",)
    PRESETS = {"small": {"hidden": [64, 64], "batch_size": 64}}  # noqa: RUF012

    def setup(self) -> None:
        options = {"layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.period = self.config.delay
        self.policy = Deterministic(self.rng, "policy", self.spec, self.config.hidden, **options)
        self.critic = Critic(self.rng, "critic", self.spec, self.config.hidden, **options)
        self.policy_target, self.critic_target = self.policy.target(), self.critic.target()
        self.policy_optimiser = Adam(
            self.policy, lr=self.config.lr, clip=self.config.clip_grad, every=self.config.delay
        )
        self.critic_optimiser = Adam(self.critic, lr=self.config.lr, clip=self.config.clip_grad)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, obs = self.h, batch["obs"]
        critic_loss = reduce(value.td(self.critic(batch), self.backup(batch).unsqueeze(1)).sum(1))
        self.critic_optimiser.step(critic_loss)
        losses = {"critic_loss": critic_loss.detach()}
        if self.steps % h.delay == h.delay - 1:
            action = self.policy.mode(obs)
            q = self.critic.frozen.of(obs, action)[:, 0]
            policy_loss = reduce(policy.td3_bc(q, action, batch["action"], alpha=h.alpha))
            self.policy_optimiser.step(policy_loss)
            self.policy_target.track(self.policy, h.tau)
            self.critic_target.track(self.critic, h.tau)
            losses["policy_loss"] = policy_loss.detach()
        return losses

    @torch.no_grad()
    def backup(self, batch: Batch) -> Tensor:
        """(R, B): r + gamma min_j Q'_j at a smoothed target action."""
        h, next_obs = self.h, batch["next_obs"]
        scale = h.policy_noise.unsqueeze(-1) if isinstance(h.policy_noise, Tensor) else h.policy_noise
        noise = (self.noise("target", batch["action"].shape[1:]) * scale).clamp(-h.noise_clip, h.noise_clip)
        action = (self.policy_target.mode(next_obs) + noise).clamp(-1, 1)
        return value.bellman_backup(batch["reward"], batch["discount"], self.critic_target.of(next_obs, action).amin(1))
