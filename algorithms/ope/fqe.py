"""Fitted Q evaluation: the fixed point of the target policy's Bellman operator, by regression on its own target.

    Q:   min E_D loss(r + gamma Q'(s', pi) - Q(s, a)),   Q' a Polyak average of Q
    estimate  (1 - gamma) mean over the episodes' first states of Q(s0, pi)

Le, Voloshin, Yue 2019, "Batch policy learning under constraints" (arXiv 1903.08738), with a moving target in place of
a regression to the end at every iteration. The network gives (1 - gamma) Q, which has a reward's size whatever gamma
is. Q(s', pi) is a sum over discrete actions, one sampled action in a Box. A terminal has value 0 after it, a time-out
goes on. With Huber's loss the fixed point is not the mean: it is biased wherever r + gamma Q'(s', pi) is
skewed beyond `delta`.

interval: the data's episodes are resampled `members` times and one more Q is fitted to each, from its own initial
numbers, as in bootstrapped FQE (Hao et al. 2021, arXiv 2102.03607); the interval is estimate +- t sd, Student's t with
members - 1 degrees of freedom. It covers which episodes were seen and how the fit began, not what networks cannot
represent. At actions that the data lack Q is whatever a network makes of it; members disagree there as far as their
initial numbers do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from scipy import stats
from torch import Tensor

from fenchel.algorithms.learner import Learner
from fenchel.algorithms.networks import Adam, Critic
from fenchel.algorithms.ope import common
from fenchel.algorithms.ope.common import EvaluatorConfig
from fenchel.algorithms.sampler import Batch
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.task import Task
from fenchel.theory.objectives import value
from fenchel.theory.objectives.reduce import reduce


@dataclass
class FQEConfig(EvaluatorConfig):
    tau: float | list[float] = field(default=0.005, metadata={"range": (0, 1)})
    """how far the target Q moves towards Q per update"""
    loss: Literal["squared", "huber"] = "squared"
    """of the Bellman error"""
    delta: float = field(default=1.0, metadata={"range": (0, None)})
    """where Huber's loss turns linear, in units of one reward"""
    members: int = field(default=10, metadata={"range": (2, None)})
    """resamples of the episodes, each with a Q of its own, behind the interval"""


class FQE(Learner):
    Config = FQEConfig
    TITLE = "Fitted Q evaluation (off-policy evaluation by regression)"
    FAMILY = "ope"
    DEMO = "fourrooms-mixed"
    DETERMINISTIC = False
    PRESETS = {  # noqa: RUF012
        "small": {"hidden": [64, 64], "batch_size": 64},
    }

    def setup(self) -> None:
        common.prepare(self)
        options = {"members": 1 + self.config.members, "layer_norm": self.config.layer_norm, "dtype": self.dtype}
        self.critic = Critic(self.rng, "critic", self.spec, self.config.hidden, **options)
        self.target = self.critic.target()
        self.optimiser = Adam(self.critic, lr=self.config.lr, clip=self.config.clip_grad)

    def bind(self, task: Task) -> None:
        common.bind(self, task)

    def sampler(self, data: OfflineDataset) -> common.Episodes:
        return common.Episodes(data, self, self.config.members)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        h, noise = self.h, common.target_noise(self, "next", batch["reward"].shape[1])
        following = common.expectation(self.target, self, batch["next_obs"], noise)
        reward, discount = (1 - h.gamma) * batch["reward"], batch["discount"]
        backup = value.bellman_backup(reward.unsqueeze(1), discount.unsqueeze(1), following)
        q = self.critic(batch)
        error = value.td(q, backup) if h.loss == "squared" else value.huber(q, backup, delta=h.delta)
        loss = reduce((batch["count"] * error).sum(1))
        self.optimiser.step(loss)
        self.target.track(self.critic, h.tau)
        return {"critic_loss": loss.detach(), "q": reduce(q.detach()[:, 0])}

    @torch.no_grad()
    def report(self, source: common.Episodes) -> dict[str, list]:
        def start(batch: Batch, chunk: int) -> Tensor:
            return common.average(self.critic, self, batch["obs"], "start", chunk, common.SAMPLES)

        counts = source.resampled.double()
        members = (counts * common.over(source.start, start)).sum(-1) / counts.sum(-1)
        estimate, spread = members[:, 0], members[:, 1:].std(1)
        reach = float(stats.t.ppf((1 + common.LEVEL) / 2, self.config.members - 1)) * spread
        interval = torch.stack([estimate - reach, estimate + reach], 1).tolist()
        return common.report(self, source, estimate, interval)
