"""The cells of OGBench's mazes as a small MDP with goals, whose distances are known exactly.

    gridmaze-{medium,large,giant}-{navigate,stitch}

A state is a free cell, one-hot; four moves, of which the share `slip` goes astray; a wall stops. Every state is a goal.
An episode ends on the goal. Copy i of an environment has problem i mod 5, OGBench's pairs of cells.

    navigate   episodes of 50 steps walk from random cells to random cells, 30 % of the moves are uniform
    stitch     the same towards goals exactly four cells away and about there, 12 steps: most pairs of cells occur in
               no episode and can only be reached by putting several together

`metadata["goal_mdp"]` is the MDP, without rewards, for `solve(mdp, "goal_distance")`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.goalmaze import PROBLEMS, STITCH_CELLS, cell_distances
from fenchel.envs.pointmaze import LAYOUTS, walls
from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.tabular import TabularEnv
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError
from fenchel.theory.instances.grids import MOVES, cells, grid
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import solve

VERSION = 1
MAZES = ("medium", "large", "giant")
LENGTH = {"navigate": 50, "stitch": 12}
RANDOM_MOVES = 0.3
GAMMA = 0.95


def maze_mdp(maze: str, slip: float = 0.0) -> TabularMDP:
    """The free cells in reading order, every one of them a start; no rewards, no ends."""
    return grid([line.replace(".", "S") for line in LAYOUTS[maze]], {}, terminal="", slip=slip, gamma=GAMMA)


class GoalGrid(TabularEnv):
    """`goal` (n, S) one-hot; reward 1 on the goal, which ends the episode."""

    def __init__(
        self, mdp: TabularMDP, problems: Tensor, n: int, *, max_steps: int, device: torch.device | str = "cpu"
    ):
        """problems (P, 2) int64: pairs of states; copy i has problem i mod P."""
        super().__init__(mdp, n, max_steps=max_steps, device=device)
        self.start, self.target = problems.to(device)[torch.arange(n) % len(problems)].unbind(1)
        self.goal = torch.nn.functional.one_hot(self.target, mdp.num_states).float()

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        super().reset(seeds, mask)
        self.state = self.start.clone() if mask is None else torch.where(mask.to(self.device), self.start, self.state)
        return self._obs()

    def step(self, action: Tensor) -> Step:
        step = super().step(action)
        success = self.state == self.target
        info = {"success": success.float()}
        return Step(step.obs, success.float(), success, (self.t >= self.max_steps) & ~success, info)


class Walker:
    """For n copies: moves on a shortest path towards a goal, RANDOM_MOVES of them uniform. For navigate a reached goal
    is followed by another one."""

    def __init__(self, policy: Tensor, near: Tensor, kind: str, n: int, seed: int):
        """policy (G, S) int64: the action towards goal g; near (S, S) bool: which goals an episode from s may have."""
        self.policy, self.kind = policy, kind
        self.near, self.choices = near.float().cumsum(1), near.sum(1)
        self.streams, self.t = copy_streams(seed, n), 0
        self.goal = torch.zeros(n, dtype=torch.int64)
        self.fresh = torch.ones(n, dtype=torch.bool)

    def begin(self, fresh: Tensor) -> None:
        self.fresh = fresh

    def __call__(self, obs: Tensor) -> Tensor:
        state, n = obs.argmax(-1), len(obs)
        new = self.fresh | ((state == self.goal) & (self.kind == "navigate"))
        pick = self.streams.integers("walker/goal", 2**31, counter=self.t) % self.choices[state].clamp_min(1)
        other = (self.near[state] <= pick[:, None]).sum(1).clamp(max=len(self.policy) - 1)
        self.goal = torch.where(new, other, self.goal)
        self.fresh = torch.zeros(n, dtype=torch.bool)
        u = self.streams.uniform("walker/random", (), counter=self.t)
        random = self.streams.integers("walker/move", len(MOVES), counter=self.t)
        self.t += 1
        return torch.where(u < RANDOM_MOVES, random, self.policy[self.goal, state])


def task(id: str, *, transitions: int = 50_000, data_seed: int = 0, slip: float = 0.0, max_steps: int = 100) -> Task:
    """`gridmaze-{medium,large,giant}-{navigate,stitch}`; transitions and data_seed describe the data set."""
    if not 0 <= slip < 1:
        raise UserError(f"task.slip={slip} is not valid; it lies from 0 to below 1.")
    _, maze, kind = id.split("-")
    mdp, number = maze_mdp(maze, slip), cells(LAYOUTS[maze])
    problems = torch.tensor([[number[cell] for cell in pair] for pair in PROBLEMS[maze]])
    config = {"transitions": transitions, "data_seed": data_seed, "slip": slip}
    length = LENGTH[kind]

    def build() -> OfflineDataset:
        free = (~walls(maze)).flatten().nonzero()[:, 0]
        distance = cell_distances(maze)[free][:, free]
        near = distance == STITCH_CELLS if kind == "stitch" else distance > 0
        n = max(1, min(500, transitions // length))
        walker = Walker(solve(mdp, "goal_distance").policy.argmax(-1), near, kind, n, data_seed)
        facts: dict[str, Any] = {"reward_range": (0.0, 0.0), "max_steps": length, "goals": True}
        return collect(TabularEnv(mdp, n, max_steps=length), walker, transitions, seed=data_seed, meta=facts)

    return Task(
        id=id,
        spec=Spec(mdp.num_states, Discrete(mdp.num_actions), goal=tuple(range(mdp.num_states))),
        make_vec=lambda n, seed=0, device="cpu": GoalGrid(mdp, problems, n, max_steps=max_steps, device=device),
        dataset=partial(build_once, id, VERSION, config, build),
        reference=(0.0, 1.0),
        max_steps=max_steps,
        metadata={"goals": len(problems), "goal_mdp": mdp, "discount": GAMMA},
    )
