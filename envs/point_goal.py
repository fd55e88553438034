"""A point with inertia among hazards: it collects goals, and every step in a hazard costs 1. Own, after Safety-Gym's.

    velocity <- 0.75 velocity + 0.05 action,   position <- position + velocity, kept in the square [-2, 2]^2
    reward = distance to the goal gained, + 1 for reaching it (within 0.2), after which there is another one
    cost = 1 where the new position lies in one of six discs of radius 0.5; 100 steps, never terminal

Going straight through is the quickest. `point-goal-mixed`: an episode's actions come from one of three controllers,
each with some noise: *reckless* steers straight at the goal, *cautious* around the discs, *random* nowhere.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.theory.rng import Streams

VERSION = 1
DRAG, FORCE, SIDE, GOAL_RADIUS, BONUS, MAX_STEPS = 0.75, 0.05, 2.0, 0.2, 1.0, 100
TOP_SPEED = FORCE / (1 - DRAG)
HAZARDS = ((-1.1, 1.0), (0.2, 1.2), (1.3, 0.3), (-0.2, -0.1), (-1.3, -0.7), (0.5, -1.3))
RADIUS = 0.5
KINDS = ("reckless", "cautious", "random")
MARGIN = 0.12  # how far the cautious controller keeps from a hazard
LIMITS = (2.0, 8.0, 40.0)  # per episode: tight, middle, loose (the reckless controller pays 26)
# least and greatest return of an episode of point-goal-mixed, for DSRL's normalised reward: `reference()`
REFERENCE = (-3.9, 26.3)
SPEC = Spec(6, Box((-1.0, -1.0), (1.0, 1.0)), {"cost": ()})


@lru_cache
def places() -> Tensor:
    """(N, 2): where goals and starts lie, a grid without the hazards' neighbourhoods."""
    axis = torch.linspace(-SIDE + 0.2, SIDE - 0.2, 37)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return grid[(grid[:, None] - torch.tensor(HAZARDS)).norm(dim=-1).amin(1) > RADIUS + GOAL_RADIUS]


class PointGoal:
    """A BatchedEnv. Observation: position, velocity, goal - position. Action: a force in [-1, 1]^2."""

    def __init__(self, n: int, *, device: torch.device | str = "cpu"):
        self.n, self.device, self.spec, self.max_steps = n, torch.device(device), SPEC, MAX_STEPS
        self.hazards, self.places = torch.tensor(HAZARDS, device=device), places().to(device)
        self.xy, self.v, self.goal = (torch.zeros(n, 2, device=device) for _ in range(3))
        self.t, self.reached = (torch.zeros(n, dtype=torch.int64, device=device) for _ in range(2))
        self._streams = Streams(self.t)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self._streams = Streams(torch.where(mask, seeds.to(self.device), self._streams.seeds), self.device)
        start = self.places[self._streams.integers("point/start", len(self.places))]
        self.xy = torch.where(mask[:, None], start, self.xy)
        self.v = torch.where(mask[:, None], 0.0, self.v)
        self.t, self.reached = torch.where(mask, 0, self.t), torch.where(mask, 0, self.reached)
        self._new_goals(mask)
        return self._obs()

    def step(self, action: Tensor) -> Step:
        before = (self.goal - self.xy).norm(dim=-1)
        v = DRAG * self.v + FORCE * action.to(self.xy).clamp(-1, 1)
        self.xy, free = (self.xy + v).clamp(-SIDE, SIDE), self.xy + v
        self.v = torch.where(self.xy == free, v, 0.0)
        distance = (self.goal - self.xy).norm(dim=-1)
        there = distance <= GOAL_RADIUS
        self.t, self.reached = self.t + 1, self.reached + there
        cost = (self.distances().amin(-1) < RADIUS).float()
        self._new_goals(there)
        info = {"cost": cost, "goals": there.float()}
        return Step(
            self._obs(), before - distance + BONUS * there, torch.zeros_like(there), self.t >= self.max_steps, info
        )

    def distances(self) -> Tensor:
        """(n, hazards): to their centres."""
        return (self.xy[:, None] - self.hazards).norm(dim=-1)

    def _new_goals(self, mask: Tensor) -> None:
        drawn = self._streams.integers("point/goal", len(self.places), counter=self.reached[:, None])
        self.goal = torch.where(mask[:, None], self.places[drawn], self.goal)

    def _obs(self) -> Tensor:
        return torch.cat([self.xy, self.v, self.goal - self.xy], -1)


def around(position: Tensor, way: Tensor, centres: Tensor, radius: float) -> Tensor:
    """(n, 2) directions: straight along `way`, or along the tangent to the first disc that it would run into.

    position, way (n, 2), centres (H, 2). Inside a disc: straight out of it.
    """
    rel = centres - position[:, None]
    far = rel.norm(dim=-1).clamp_min(1e-6)
    length = way.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    ahead = (rel * (way / length)[:, None]).sum(-1)
    side = rel[..., 0] * way[:, 1:] - rel[..., 1] * way[:, :1]  # positive: the centre lies to the right
    blocked = (ahead > 0) & (ahead < length + radius) & (side.abs() / length < radius) & (far > radius)
    first = torch.where(blocked, far, torch.inf).argmin(-1, keepdim=True)
    pick = first[..., None].expand(-1, -1, 2)
    towards, distance = rel.gather(1, pick)[:, 0], far.gather(1, first)
    turn = torch.asin((radius / distance).clamp(max=1.0)) * torch.where(side.gather(1, first) > 0, 1.0, -1.0)
    x, y = towards.split(1, -1)
    tangent = torch.cat([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], -1)
    way = torch.where(blocked.any(-1, keepdim=True), tangent, way)
    inside = far.argmin(-1, keepdim=True)
    out = -rel.gather(1, inside[..., None].expand(-1, -1, 2))[:, 0]
    way = torch.where(far.amin(-1, keepdim=True) < radius, out, way)
    return way / way.norm(dim=-1, keepdim=True).clamp_min(1e-6)


class Controllers:
    """One kind of controller per copy and episode, drawn when the episode begins; `kind` fixes it."""

    def __init__(self, n: int, seed: int = 0, kind: str | None = None, noise: float = 0.3):
        self.streams, self.t, self.noise = copy_streams(seed, n), 0, noise
        self.fixed = None if kind is None else KINDS.index(kind)
        self.kind = torch.full((n,), self.fixed or 0)

    def begin(self, fresh: Tensor) -> None:
        if self.fixed is None:
            drawn = self.streams.integers("point/kind", len(KINDS), counter=self.t)
            self.kind = torch.where(fresh, drawn, self.kind)

    def __call__(self, obs: Tensor) -> Tensor:
        xy, v, way = obs.split(2, -1)
        straight = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        wide = around(xy, way, torch.tensor(HAZARDS), RADIUS + MARGIN)
        ahead = torch.where((self.kind == 1)[:, None], wide, straight)
        force = (TOP_SPEED * ahead - DRAG * v) / FORCE
        force = force + self.noise * self.streams.normal("point/noise", (2,), counter=self.t)
        uniform = 2 * self.streams.uniform("point/uniform", (2,), counter=self.t // 5) - 1  # held for five steps
        self.t += 1
        return torch.where((self.kind == 2)[:, None], uniform, force).clamp(-1, 1)


def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> PointGoal:
    return PointGoal(n, device=device)


def env_task(id: str) -> Task:
    """`point-goal`: the environment without data."""
    budget = {"unit": "episode", "limits": LIMITS}
    return Task(id, SPEC, make_vec, reference=REFERENCE, max_steps=MAX_STEPS, metadata={"cost": budget})


def task(id: str, *, transitions: int = 100_000, data_seed: int = 0) -> Task:
    """`point-goal-mixed`. transitions and data_seed describe the data set."""
    config = {"transitions": transitions, "data_seed": data_seed}

    def build() -> OfflineDataset:
        n = max(1, min(500, transitions // MAX_STEPS))
        facts: dict[str, Any] = {"max_steps": MAX_STEPS, "budget_kind": "episode"}
        return collect(PointGoal(n), Controllers(n, data_seed), transitions, seed=data_seed, meta=facts)

    return replace(env_task(id), dataset=lambda: build_once(id, VERSION, config, build))


def reference() -> tuple[float, float]:
    """The least and the greatest return of an episode of the data."""
    dataset = task("point-goal-mixed").dataset
    assert dataset is not None
    returns = dataset().episode_returns()
    return round(float(returns.min()), 1), round(float(returns.max()), 1)


if __name__ == "__main__":
    print(reference())
