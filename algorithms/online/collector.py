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

from fenchel.algorithms.learner import Learner
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


class Collector:
    """`clock` counts steps of every copy, `episode` the episodes begun by each; a checkpoint holds both.

    An episode is cut, by a time-out, at the task's `max_steps`, whatever the environment's own limit is.
    """

    def __init__(self, learner: Learner, task: Task, copies: int):
        if task.make_vec is None:
            raise UserError(
                f"env={task.id} has data but no environment to act in, which {type(learner).__name__} needs."
            )
        if task.metadata.get("objectives") and "objectives" not in learner.NEEDS:
            raise UserError(f"env={task.id} has vector rewards; {type(learner).__name__} learns from a single reward.")
        self.learner, self.copies, self.max_steps = learner, copies, task.max_steps
        self.env = task.make_vec(learner.R * copies, 0, device=learner.device)
        self.streams = Streams(learner.rng.bits("copy", (copies,)).flatten(), learner.device)
        self.episode = torch.zeros(learner.R * copies, dtype=torch.int64, device=learner.device)
        self.age = torch.zeros_like(self.episode)  # steps of the running episode
        self.clock = torch.zeros((), dtype=torch.int64)
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
        move = Transition(obs, *map(self._split, (result.reward, terminal, timeout, result.obs)))
        self.obs = move.next_obs
        if bool(over.any()):
            self.episode += over
            self.age.masked_fill_(over, 0)
            self.obs = self._split(self.env.reset(self._seeds(), over))
        return move

    def at_checkpoint(self) -> None:
        self.episode += 1
        self.age.zero_()
        self.obs = self._split(self.env.reset(self._seeds()))

    def state(self) -> dict[str, Tensor]:
        return {"episode": self.episode, "clock": self.clock}

    def _seeds(self) -> Tensor:
        return episode_seeds(self.streams, self.episode)

    def _split(self, x: Tensor) -> Tensor:
        """(R * E, ...) -> (R, E, ...), in a tensor of its own: environments reuse theirs."""
        x = x.to(self.learner.device, self.learner.dtype if x.is_floating_point() else x.dtype, copy=True)
        return x.unflatten(0, (self.learner.R, self.copies))


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
