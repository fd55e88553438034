"""Batches with goals. Every goal of a row is its own state, a later state of its own episode, or any state of the data.

The states of all episodes stand in one table, an episode's last successor after its rows: a row at place p goes to
p + 1, and its episode ends at `last`. No draw ever leaves p .. last, whatever it is; released samplers that count with
a fixed length of episodes cross into the next one (docs/errata.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fenchel.algorithms.sampler import Batch, Sampler
from fenchel.errors import UserError

if TYPE_CHECKING:
    from fenchel.algorithms.goal_conditioned.learner import GoalLearner
    from fenchel.envs.dataset import OfflineDataset


def check(data: OfflineDataset, learner: GoalLearner, *, subgoal_steps: int, option_steps: int, entering: bool) -> None:
    """Raises UserError where the data, or the learner's options, cannot give the goals that it asks for."""
    config, index, name = learner.config, learner.goal_index, type(learner).__name__
    if learner.spec.obs_dim != data.obs.shape[1] or max(index) >= data.obs.shape[1]:
        raise UserError(
            f"Goals are coordinates {index} of {learner.spec.obs_dim} numbers, and the data's observations have "
            f"{data.obs.shape[1]}."
        )
    attained = torch.cat([learner.goal_of(data.obs), learner.goal_of(data.next_obs)])
    if bool((attained == attained[:1]).all()):
        raise UserError(f"The data has no goals for {name}: every state attains the same one.")
    longest = int((data.episode_ends - data.episode_starts).max())
    for option, steps in (("subgoal_steps", subgoal_steps), ("option_steps", option_steps)):
        if steps > longest:
            raise UserError(f"algo.{option}={steps} is longer than the longest episode of the data, {longest}.")
    for option in ("value_goals", "actor_goals"):
        shares = getattr(config, option)
        if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"algo.{option}={list(shares)} is not valid; valid are three shares that add up to 1.")
    if entering and config.value_goals[0] > 0:
        raise UserError(f"algo.value_goals must begin with 0 for {name}: the data did not enter the state itself.")


class GoalSampler(Sampler):
    """The batch of `Sampler` (rewards and discounts of the data are of no use here) with

    value_goal (R, B, goal_dim), value_reached (R, B)   a goal, and 1 where the state attains it already
    actor_goal                                          a goal of the policy
    subgoal (R, B, obs_dim)                             the state subgoal_steps later, at most the episode's last
    high_target                                         the same, at most the policy's goal where that is of the episode
    option_obs                                          the state option_steps later, at most the value's goal
    goal_obs, goal_action[, goal_obs_action]            the transition that enters the value's goal (entering=True; a
                                                        goal is then never an episode's first state, nor the own one)

    Raises UserError as `check` does.
    """

    def __init__(
        self,
        data: OfflineDataset,
        learner: GoalLearner,
        *,
        subgoal_steps: int = 0,
        option_steps: int = 0,
        entering: bool = False,
    ):
        check(data, learner, subgoal_steps=subgoal_steps, option_steps=option_steps, entering=entering)
        super().__init__(data, learner, rows=torch.arange(len(data)))
        self.subgoal_steps, self.option_steps, self.entering = subgoal_steps, option_steps, entering
        ends = data.episode_ends
        lengths = ends - data.episode_starts
        episode = torch.repeat_interleave(torch.arange(len(ends), device=ends.device), lengths)
        place = torch.arange(len(data), device=ends.device) + episode
        last = (ends + torch.arange(len(ends), device=ends.device))[episode]
        states = data.obs.new_empty(len(data) + len(ends), data.obs.shape[1])
        states[place], states[last] = data.obs, data.next_obs[ends - 1][episode]
        row_at = place.new_full((len(states),), -1)
        row_at[place] = torch.arange(len(data), device=ends.device)
        device = learner.device
        self.states = learner.normalise(states)
        self.place, self.last, self.row_at = place.to(device), last.to(device), row_at.to(device)
        self.longest = int(lengths.max())

    def __call__(self, step: int) -> Batch:
        config, index = self.learner.config, self.index(step)
        batch = self.unpack(self._take(self.rows, index))
        place, last = self.place[index], self.last[index]
        goal, future = self.draw(step, "value", config.value_goals, config.value_future, place, last)
        batch["value_goal"] = self._goal(self._take(self.states, goal))
        batch["value_reached"] = (self._goal(batch["obs"]) == batch["value_goal"]).all(-1).to(batch["obs"].dtype)
        if self.entering:
            rows = self.row_at[goal - 1]
            batch |= {f"goal_{k}": v for k, v in self.unpack(self._take(self.rows, rows)).items() if "action" in k}
            batch["goal_obs"] = self._take(self.states, goal - 1)
        if self.option_steps:
            option = torch.minimum(place + self.option_steps, torch.where(future, torch.maximum(goal, place), last))
            batch["option_obs"] = self._take(self.states, option)
        actor_goal, future = self.draw(step, "actor", config.actor_goals, config.actor_future, place, last)
        batch["actor_goal"] = self._goal(self._take(self.states, actor_goal))
        if self.subgoal_steps:
            ahead = torch.minimum(place + self.subgoal_steps, last)
            target = torch.where(future, torch.minimum(ahead, actor_goal), ahead)
            batch |= {"subgoal": self._take(self.states, ahead), "high_target": self._take(self.states, target)}
        return batch

    def draw(
        self, step: int, name: str, shares: tuple[float, ...], future: str, place: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(places of goals (R, B), whether each is of the own episode: the state itself or a later one)."""
        learner, (own, later, _) = self.learner, shares
        u = learner.blocks.draw(step, "uniform", f"goal/{name}", (3, place.shape[1]))
        kind, ahead, anywhere = u.unbind(1)
        if future == "geometric":
            gamma = torch.as_tensor(learner.h.gamma, device=u.device, dtype=u.dtype)
            # log u / log gamma, floored, is geometric; infinite at gamma = 1, which the episode's end then cuts
            offset = (-ahead.log() / -gamma.log()).clamp(max=self.longest).nan_to_num(self.longest).floor().long() + 1
        else:
            offset = (ahead * (last - place)).floor().long() + 1
        where = torch.minimum(place + offset, last)
        count = len(self.rows) if self.entering else len(self.states)
        random = (anywhere * count).floor().long().clamp(max=count - 1)
        random = self.place[random] + 1 if self.entering else random
        goal = torch.where(kind < own, place, torch.where(kind < own + later, where, random))
        return goal, kind < own + later

    def _goal(self, states: Tensor) -> Tensor:
        return self.learner.goal_of(states)

    @staticmethod
    def _take(table: Tensor, index: Tensor) -> Tensor:
        return table.index_select(0, index.flatten()).view(*index.shape, -1)
