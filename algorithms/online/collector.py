"""Acting in an environment while learning: `copies` environments per replica, all stepped at once.

The environment never resets by itself, so a step's successor is always the true one; what has ended is reset before the
next step. The seed of every episode is a function of (replica's seed, copy, number of the episode).

An environment's inner state cannot be saved. So that a resumed run equals an untouched one, both begin new episodes at
every checkpoint (`at_checkpoint`); checkpoints should therefore be many episodes apart, as they are by default.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fenchel.algorithms.learner import Learner, refuse
from fenchel.envs.collect import episode_seeds
from fenchel.envs.task import Task
from fenchel.errors import UserError
from fenchel.theory.rng import Streams


class Transition(NamedTuple):
    """One step of every copy, (R, E, ...), as the environment gives it; a time-out is not terminal."""

    obs: Tensor
    reward: Tensor
    terminal: Tensor
    timeout: Tensor
    next_obs: Tensor
    extras: dict[str, Tensor]  # what the learner NEEDS beside these


class Collector:
    """`clock` counts steps of every copy, `episode` the episodes begun by each; a checkpoint holds both.

    An episode is cut, by a time-out, at the task's `max_steps`, whatever the environment's own limit is.
    """

    def __init__(self, learner: Learner, task: Task, copies: int):
        if task.make_vec is None:
            raise UserError(
                f"env={task.id} has data but no environment to act in, which {type(learner).__name__} needs."
            )
        refuse(learner, task)
        self.learner, self.copies, self.max_steps = learner, copies, task.max_steps
        self.extras = [name for name in learner.NEEDS if name in task.spec.extras]
        self.env = task.make_vec(learner.R * copies, 0, device=learner.device)
        self.streams = Streams(learner.rng.bits("copy", (copies,)).flatten(), learner.device)
        self.episode = torch.zeros(learner.R * copies, dtype=torch.int64, device=learner.device)
        self.age = torch.zeros_like(self.episode)  # steps of the running episode
        self.clock = torch.zeros((), dtype=torch.int64)
        self.costs = Costs(learner, copies) if "cost" in self.extras else None
        self.obs = self._split(self.env.reset(self._seeds()))

    @property
    def env_steps(self) -> int:
        """Steps of the environment per replica so far."""
        return int(self.clock) * self.copies

    def noise(self, law: str) -> Tensor:
        """This step's numbers for the policy, (R, E, outputs)."""
        action = self.learner.spec.action
        width = action.n if self.learner.spec.discrete else action.dim
        return self.learner.blocks.draw(int(self.clock), law, "act", (self.copies, width))

    def step(self, action: Tensor) -> Transition:
        """action (R, E, dim) in [-1, 1], clipped to it, or (R, E) int64.

        A replica whose actions are not finite acts with zeros: it must not end the run of the others.
        """
        spec, obs = self.learner.spec, self.obs
        if not spec.discrete:
            action = spec.action.scale(action.nan_to_num(0.0).clamp(-1, 1))
        result = self.env.step(action.flatten(0, 1))
        self.clock += 1
        self.age += 1
        terminal = result.terminal.to(self.learner.device)
        timeout = (result.timeout.to(self.learner.device) | (self.age >= self.max_steps)) & ~terminal
        over = terminal | timeout
        extras = {name: self._split(result.info[name]) for name in self.extras}
        move = Transition(obs, *map(self._split, (result.reward, terminal, timeout, result.obs)), extras)
        self.obs = move.next_obs
        if self.costs is not None:
            self.costs.add(extras["cost"], self._split(over))
        if bool(over.any()):
            self.episode += over
            self.age.masked_fill_(over, 0)
            self.obs = self._split(self.env.reset(self._seeds(), over))
        return move

    def at_checkpoint(self) -> None:
        self.episode += 1
        self.age.zero_()
        self.obs = self._split(self.env.reset(self._seeds()))
        if self.costs is not None:
            self.costs.running.zero_()

    def state(self) -> dict[str, Tensor]:
        costs = self.costs.state() if self.costs is not None else {}
        return {"episode": self.episode, "clock": self.clock} | costs

    def _seeds(self) -> Tensor:
        return episode_seeds(self.streams, self.episode)

    def _split(self, x: Tensor) -> Tensor:
        """(R * E, ...) -> (R, E, ...), in a tensor of its own: environments reuse theirs."""
        x = x.to(self.learner.device, self.learner.dtype if x.is_floating_point() else x.dtype, copy=True)
        return x.unflatten(0, (self.learner.R, self.copies))


class Costs:
    """What the episodes of training cost, undiscounted: the price of learning, and a measurement for a multiplier.

    Episodes that a checkpoint cuts off are not counted. `totals` and `recent` (R, 3): episodes that ended, their cost,
    and how many of them exceeded the replica's limit; since the beginning, and since `recent` was last zeroed.
    """

    def __init__(self, learner: Learner, copies: int):
        """learner: with `limits`, one per replica, where it has any."""
        limits = getattr(learner, "limits", None) or [torch.inf] * learner.R
        self.limit = learner.obs_mean.new_tensor(limits).unsqueeze(1)
        self.running = self.limit.new_zeros(learner.R, copies)
        self.totals, self.recent = (self.limit.new_zeros(learner.R, 3) for _ in range(2))

    def add(self, cost: Tensor, over: Tensor) -> None:
        """One step: cost (R, E), and which episodes it ended, (R, E) bool."""
        self.running += cost
        ended = torch.stack([over.to(cost), self.running * over, (self.running > self.limit) & over], 1).sum(2)
        self.totals += ended
        self.recent += ended
        self.running.masked_fill_(over, 0.0)

    def report(self) -> dict[str, list]:
        """Of all episodes so far: their mean cost, and which share of them exceeded the limit; None before any."""
        count, cost, beyond = self.totals.unbind(1)
        rows = {"training_cost": cost / count, "training_violations": beyond / count}
        return {name: [x if x == x else None for x in row.tolist()] for name, row in rows.items()}

    def state(self) -> dict[str, Tensor]:
        """Without the sums of running episodes, which begin anew at every checkpoint."""
        return {"costs.totals": self.totals, "costs.recent": self.recent}


class Moments:
    """Running mean and variance of what each replica has seen, (R, 1, dim). (Chan, Golub, LeVeque 1979.)"""

    def __init__(self, mean: Tensor, std: Tensor):
        """mean, std: the tensors to keep current, (R, 1, dim)."""
        self.mean, self.std = mean, std
        self.count = torch.full_like(mean[..., :1], 1e-4)

    def update(self, x: Tensor) -> None:
        """x (R, N, dim)."""
        n, columns = x.shape[1], x.mT.contiguous()  # sums of contiguous rows: a replica's bits do not depend on R
        mean = columns.mean(-1)
        var = (columns - mean.unsqueeze(-1)).square().mean(-1).unsqueeze(1)
        mean = mean.unsqueeze(1)
        total = self.count + n
        delta = mean - self.mean
        spread = self.std.square() * self.count + var * n + delta.square() * self.count * n / total
        self.mean.add_(delta * n / total)
        self.std.copy_((spread / total).clamp(min=1e-8).sqrt())
        self.count.copy_(total)
