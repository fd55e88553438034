"""Conservative Q-learning: a critic that is pushed down where the data is silent, and a soft actor-critic on top.

    Q:   min alpha E_D [ log sum_a exp Q(s, a) - Q(s, a_data) ] + E_D (r + gamma Q'(s', a') - Q(s, a))^2     (eq. 4)
    pi:  max E_{s ~ D, a ~ pi} [ min_i Q_i(s, a) - temperature log pi(a|s) ]                                  (SAC)

Kumar, Zhou, Tucker, Levine 2020, "Conservative Q-learning for offline reinforcement learning" (arXiv 2006.04779).

Box: the sum over actions is estimated from uniform ones and from pi(s) and pi(s'), each weighted by its density
(appendix F); a' ~ pi(s') under the smaller target, without an entropy term, as in the authors' code.
Discrete: the sum is exact, a' is the greedy action of the online critics (double Q-learning), and pi is greedy.

Options are those of the authors' README for locomotion (alpha 5 or 10, policy_lr 1e-4, CQL(H) by importance weights).
Departures: no Lagrangian for alpha, which they use on AntMaze; no behaviour cloning of the policy in the first 40,000
updates, which their code says makes little difference; the temperature's update follows the policy's instead of
preceding it. The squared error has no factor 1/2, as in their code: their alpha is twice the alpha of eq. 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fenchel.algorithms.config import Config
from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic, Gaussian, Greedy, Vector, critic_bins
from fenchel.algorithms.sampler import Batch
from fenchel.theory.objectives import policy, value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class CQLConfig(Config):
    hidden: tuple[int, ...] = (256, 256, 256)
    """widths of the hidden layers of every network"""
    alpha: float | list[float] = field(default=5.0, metadata={"range": (0, None)})
    """weight of the conservative penalty; for Discrete actions 1 is usual"""
    policy_lr: float | list[float] = field(default=1e-4, metadata={"range": (0, None)})
    """Adam's step size of the policy and its temperature; lr is the critics'"""
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target critics move towards the critics per update"""
    samples: int = field(default=10, metadata={"range": (1, None)})
    """actions per state from each of the three distributions that estimate the penalty"""
    value_loss: Literal["mse", "hl_gauss", "two_hot"] = "mse"
    """the critics' loss: squared, or the cross-entropy of a law over 101 bins of value_range [124]"""
    value_range: tuple[float, ...] | None = None
    """of value_loss=hl_gauss and two_hot: the lowest and the highest return"""


class CQL(Learner):
    Config = CQLConfig
    TITLE = "Conservative Q-learning"
    FAMILY = "offline"
    DEMO = "hopper-medium"
    PRESETS = {"small": {"hidden": [64, 64], "batch_size": 64}}  # noqa: RUF012

    def setup(self) -> None:
        options = {"layer_norm": self.config.layer_norm, "dtype": self.dtype}
        bins = critic_bins(self.config.value_loss, self.config.value_range, device=self.device, dtype=self.dtype)
        self.critic = Critic(self.rng, "critic", self.spec, self.config.hidden, bins=bins, **options)
        self.target = self.critic.target()
        self.critic_optimiser = Adam(self.critic, lr=self.config.lr, clip=self.config.clip_grad)
        if self.spec.discrete:
            self.policy = Greedy(self.critic)
            return
        self.policy = Gaussian(
            self.rng, "policy", self.spec, self.config.hidden, squash="sample", std="state", **options
        )
        self.log_temperature = Vector(self.rng, dtype=self.dtype)
        self.policy_optimiser = Adam(
            self.policy, self.log_temperature, lr=self.config.policy_lr, clip=self.config.clip_grad
        )

    def update(self, batch: Batch) -> dict[str, Tensor]:
        losses = {}
        if not self.spec.discrete:
            losses |= self.improve(batch["obs"])
        raw, all_q, log_prob = self.discrete_q(batch) if self.spec.discrete else self.box_q(batch)
        error = reduce(self.critic.error(raw, self.backup(batch).unsqueeze(1)).sum(1))
        penalty = value.cql_penalty(all_q, self.critic.decode(raw), log_prob=log_prob).sum(1)
        self.critic_optimiser.step(error, reduce(self.h.alpha * penalty))
        self.target.track(self.critic, self.h.tau)
        return losses | {"critic_loss": error.detach(), "penalty": reduce(penalty).detach()}

    def improve(self, obs: Tensor) -> dict[str, Tensor]:
        """One step of the policy and of its temperature, which holds the entropy at -dim nats."""
        action, log_prob = self.policy.sample(obs, self.noise("policy", (obs.shape[1], self.spec.action.dim)))
        q = self.critic.frozen.of(obs, action).amin(1)
        log_temperature = self.log_temperature()
        temperature = log_temperature.detach().exp()
        policy_loss = reduce(policy.sac_actor(log_prob, q, temperature=temperature))
        entropy_loss = policy.sac_temperature(log_temperature, log_prob, target_entropy=-self.spec.action.dim)
        self.policy_optimiser.step(policy_loss, reduce(entropy_loss))
        return {"policy_loss": policy_loss.detach(), "temperature": temperature.squeeze(1)}

    @torch.no_grad()
    def backup(self, batch: Batch) -> Tensor:
        """(R, B): r + gamma Q'(s', a')."""
        next_obs = batch["next_obs"]
        if self.spec.discrete:
            action = self.critic.frozen.table(next_obs).mean(1).argmax(-1)
        else:
            action, _ = self.policy.sample(next_obs, self.noise("backup", batch["action"].shape[1:]))
        return value.bellman_backup(batch["reward"], batch["discount"], self.target.of(next_obs, action).amin(1))

    def discrete_q(self, batch: Batch) -> tuple[Tensor, Tensor, None]:
        """The raw Q of the data's actions (R, 2, B[, bins]), and Q of all actions (R, 2, B, n)."""
        table = self.critic.raw_table(batch["obs"])
        return self.critic.pick(table, batch["action"]), self.critic.decode(table), None

    def box_q(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The raw Q of the data's actions (R, 2, B[, bins]), Q of 3 K sampled ones (R, 2, B, 3 K), and the log-density
        of these."""
        obs = batch["obs"]
        (replicas, count, _), (k, dim) = obs.shape, (self.config.samples, self.spec.action.dim)
        with torch.no_grad():
            uniform = 2 * self.noise("uniform", (count, k, dim), law="uniform") - 1
            flat = torch.full(uniform.shape[:-1], -dim * math.log(2), device=obs.device, dtype=obs.dtype)
            here, log_here = self.policy.sample(obs, self.noise("here", (count, k, dim)))
            there, log_there = self.policy.sample(batch["next_obs"], self.noise("there", (count, k, dim)))
            action = torch.cat([uniform, here, there], dim=2)
            log_prob = torch.cat([flat, log_here, log_there], dim=2).unsqueeze(1)
        repeated = obs.unsqueeze(2).expand(-1, -1, 3 * k, -1)
        q = self.critic.of(repeated.flatten(1, 2), action.flatten(1, 2))
        return self.critic.raw(batch), q.view(replicas, -1, count, 3 * k), log_prob
