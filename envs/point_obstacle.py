"""A car of constant speed and bounded turn, a round obstacle, and the exact set of states from which it can be missed.

    heading <- heading + 0.2 action,   position <- position + 0.1 (cos heading, sin heading)
    reward = distance to the goal (2, 0) gained, + 1 for reaching it (within 0.3), which ends the episode
    cost = 1 where the new position lies in the disc of radius 0.6 around the origin; 60 steps

The tightest circle that the car can drive has a radius of about 0.5, so that a cap of states before the obstacle is
lost before anything has been paid. `feasible` tells them apart: whoever turns away as hard as possible for some steps,
and then drives straight on, misses the obstacle if anybody does. Going round costs no return: the question here is
where it is too late, not what safety is worth. `point-obstacle-mixed`: an episode's actions come from one of three
controllers, *reckless* (towards the goal, whatever lies there), *cautious* (around it) and *random*.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.point_goal import KINDS, around
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.theory.rng import Streams

VERSION = 1
SPEED, TURN, RADIUS, GOAL, GOAL_RADIUS, BONUS, MAX_STEPS = 0.1, 0.2, 0.6, (2.0, 0.0), 0.3, 1.0, 60
MARGIN = 0.1  # how far the cautious controller keeps from the obstacle
LIMITS = (1.0, 4.0, 12.0)  # per episode: tight, middle, loose
# least and greatest return of an episode of point-obstacle-mixed, for DSRL's normalised reward: `reference()`
REFERENCE = (-5.2, 4.9)
SPEC = Spec(4, Box((-1.0,), (1.0,)), {"cost": ()})


def move(xy: Tensor, heading: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """The new position (..., 2) and heading (...)."""
    heading = heading + TURN * action
    return xy + SPEED * torch.stack([heading.cos(), heading.sin()], -1), heading


def hit(xy: Tensor) -> Tensor:
    return xy.norm(dim=-1) < RADIUS


def feasible(xy: Tensor, heading: Tensor, turns: int = 16, steps: int = 48) -> Tensor:
    """(...,) bool: whether some sequence of actions never pays again.

    Left and right, 0 to `turns` steps of full turn (half a circle), then straight on for long enough to have passed.
    """
    safe = torch.zeros_like(heading, dtype=torch.bool)
    for side in (-1.0, 1.0):
        there, angle, clean = xy, heading, torch.ones_like(safe)
        for _ in range(turns + 1):
            reach = (there * torch.stack([angle.cos(), angle.sin()], -1)).sum(-1)[..., None]
            ahead = SPEED * torch.arange(1, steps + 1, device=xy.device)
            # squared distances from the origin along the straight line
            line = there.square().sum(-1, keepdim=True) + 2 * reach * ahead + ahead.square()
            safe = safe | (clean & (line >= RADIUS**2).all(-1))
            there, angle = move(there, angle, torch.full_like(angle, side))
            clean = clean & ~hit(there)
    return safe


class PointObstacle:
    """A BatchedEnv. Observation: x, y, cos heading, sin heading. Action: the turn in [-1, 1].

    Starts: x in [-2, -1], y in [-1.2, 1.2], heading within a quarter turn of the x axis; from some no way is free.
    """

    def __init__(self, n: int, *, device: torch.device | str = "cpu"):
        self.n, self.device, self.spec, self.max_steps = n, torch.device(device), SPEC, MAX_STEPS
        self.goal = torch.tensor(GOAL, device=device)
        self.xy, self.heading = torch.zeros(n, 2, device=device), torch.zeros(n, device=device)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        x, y, angle = Streams(seeds.to(self.device)).uniform("obstacle/start", (3,)).unbind(-1)
        start = torch.stack([-2 + x, 2.4 * y - 1.2], -1)
        self.xy = torch.where(mask[:, None], start, self.xy)
        self.heading = torch.where(mask, math.pi * (angle - 0.5), self.heading)
        self.t = torch.where(mask, 0, self.t)
        return self._obs()

    def step(self, action: Tensor) -> Step:
        before = (self.goal - self.xy).norm(dim=-1)
        self.xy, self.heading = move(self.xy, self.heading, action.to(self.xy).reshape(-1).clamp(-1, 1))
        distance = (self.goal - self.xy).norm(dim=-1)
        there = distance <= GOAL_RADIUS
        self.t = self.t + 1
        info = {"cost": hit(self.xy).float(), "success": there.float()}
        return Step(self._obs(), before - distance + BONUS * there, there, ~there & (self.t >= self.max_steps), info)

    def _obs(self) -> Tensor:
        return torch.stack([*self.xy.unbind(-1), self.heading.cos(), self.heading.sin()], -1)


class Controllers:
    """One kind of controller per copy and episode, drawn when the episode begins; `kind` fixes it."""

    def __init__(self, n: int, seed: int = 0, kind: str | None = None, noise: float = 0.3):
        self.streams, self.t, self.noise = copy_streams(seed, n), 0, noise
        self.fixed = None if kind is None else KINDS.index(kind)
        self.kind = torch.full((n,), self.fixed or 0)

    def begin(self, fresh: Tensor) -> None:
        if self.fixed is None:
            drawn = self.streams.integers("obstacle/kind", len(KINDS), counter=self.t)
            self.kind = torch.where(fresh, drawn, self.kind)

    def __call__(self, obs: Tensor) -> Tensor:
        xy, ahead = obs.split(2, -1)
        way = torch.tensor(GOAL) - xy
        wide = around(xy, way, torch.zeros(1, 2), RADIUS + MARGIN)
        way = torch.where((self.kind == 1)[:, None], wide, way)
        across = ahead[:, 0] * way[:, 1] - ahead[:, 1] * way[:, 0]
        turn = torch.atan2(across, (ahead * way).sum(-1)) / TURN
        turn = turn + self.noise * self.streams.normal("obstacle/noise", (), counter=self.t)
        uniform = 2 * self.streams.uniform("obstacle/uniform", (), counter=self.t // 4) - 1  # held for four steps
        self.t += 1
        return torch.where(self.kind == 2, uniform, turn).clamp(-1, 1)[:, None]


def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> PointObstacle:
    return PointObstacle(n, device=device)


def env_task(id: str) -> Task:
    """`point-obstacle`: the environment without data."""
    budget = {"unit": "episode", "limits": LIMITS}
    return Task(id, SPEC, make_vec, reference=REFERENCE, max_steps=MAX_STEPS, metadata={"cost": budget})


def task(id: str, *, transitions: int = 60_000, data_seed: int = 0) -> Task:
    """`point-obstacle-mixed`. transitions and data_seed describe the data set."""
    config = {"transitions": transitions, "data_seed": data_seed}

    def build() -> OfflineDataset:
        n = max(1, min(500, transitions // MAX_STEPS))
        facts: dict[str, Any] = {"max_steps": MAX_STEPS, "budget_kind": "episode"}
        return collect(PointObstacle(n), Controllers(n, data_seed), transitions, seed=data_seed, meta=facts)

    return replace(env_task(id), dataset=lambda: build_once(id, VERSION, config, build))


def reference() -> tuple[float, float]:
    """The least and the greatest return of an episode of the data."""
    dataset = task("point-obstacle-mixed").dataset
    assert dataset is not None
    returns = dataset().episode_returns()
    return round(float(returns.min()), 1), round(float(returns.max()), 1)


if __name__ == "__main__":
    print(reference())
