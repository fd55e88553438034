"""A point in a maze, thousands of copies at once, with the dynamics of OGBench's `pointmaze`.

    position <- position + 0.2 action, pushed out of the walls (unit 4, the point is a disc of radius 0.7)

Free motion and contact with one wall or one corner equal OGBench's MuJoCo environment; where the sphere touches two
boxes at once (concave corners, seams of a flat wall) a measured rule stands for MuJoCo's solver: the same cells are
visited in the same order in 99 of 100 episodes of blind pushing, and in all that walk.

`pointmaze-medium` has four of these steps per action, reward -1 per action and a terminal goal. `pointmaze-medium-v0`
is OGBench's single-task environment: one step per action, reward 0 and the end at the action taken inside the goal.
Data: a controller that visits random goals, one after the other, while the reward is for the one fixed goal, so that
copying it leads nowhere and values must be stitched. Layouts: OGBench (Park et al. 2024), umaze: D4RL (Fu et al. 2020).
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.theory.rng import Streams

VERSION = 2
UNIT, RADIUS, SPEED, GOAL_RADIUS = 4.0, 0.7, 0.2, 1.0
# soft contact, measured on OGBench's environment: what one wall leaves of a penetration; what the corner of the next
# box of a flat wall pushes along it; in a concave corner, friction makes the shallower contact push back harder too
SOFTNESS, SEAM, WEDGE = 0.177215, 0.3, (0.81, 0.31, 0.5)
WALK_NOISE = 0.5  # standard deviation of the controller's action noise, as in OGBench's navigate sets

LAYOUTS = {
    "umaze": ("#####", "#...#", "###.#", "#...#", "#####"),
    "medium": ("########", "#..##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#..#", "########"),
    "large": (
        "############", "#....#.....#", "#.##.#.#.#.#", "#......#...#", "#.####.###.#",
        "#..#.#.....#", "##.#.#.#.###", "#..#...#...#", "############",
    ),
    "giant": (
        "################", "#.#......##....#", "#.#.##.#.#..##.#", "#...#..#...#...#", "#.###.######.#.#",
        "#...#...#....#.#", "###.#.#..#.#.###", "#...#..#...#...#", "#.#.#.######.#.#", "#.###...#...##.#",
        "#.....#...#....#", "################",
    ),
    "teleport": (
        "############", "#.....#.#..#", "##.#...#..##", "##.###.....#", "#....#.#.#.#",
        "#.##.#.#.#.#", "#.##.#.#.#.#", "#....#...#.#", "############",
    ),
}  # fmt: skip
START = {"umaze": (1, 1), "medium": (1, 1), "large": (1, 1)}
GOAL = {"umaze": (3, 1), "medium": (6, 6), "large": (7, 10)}
MAX_STEPS = {"umaze": 200, "medium": 300, "large": 400}
# returns of (standing still, the noiseless controller), means over 1,000 starts; `python -m fenchel.envs.pointmaze`
REFERENCE = {
    "umaze": (-200.0, -25.1), "medium": (-300.0, -41.3), "large": (-400.0, -66.1),
    "umaze-v0": (-1000.0, -98.5), "medium-v0": (-1000.0, -160.9), "large-v0": (-1000.0, -258.6),
}  # fmt: skip


@lru_cache
def walls(maze: str) -> Tensor:
    """(rows, columns) bool; row is y, column is x, the cell (1, 1) has its centre at (0, 0)."""
    return torch.tensor([[c == "#" for c in line] for line in LAYOUTS[maze]])


def cell_centre(cell: Tensor) -> Tensor:
    """(..., 2) row, column -> (..., 2) x, y."""
    return cell.flip(-1).float() * UNIT - UNIT


def cell_of(xy: Tensor) -> Tensor:
    return ((xy + 1.5 * UNIT) / UNIT).floor().long().flip(-1)


class PointMaze:
    """A BatchedEnv. Observation: x, y. Action: two numbers in [-1, 1]. Starts within 1 of the start cell's centre.

    substeps: motions per action. early: success is judged before the motion (OGBench's single task) and rewards 0.
    anywhere: starts are uniform over the free cells instead, for data collection.
    """

    def __init__(
        self,
        maze: str,
        n: int,
        *,
        substeps: int = 4,
        max_steps: int | None = None,
        early: bool = False,
        anywhere: bool = False,
        device: torch.device | str = "cpu",
    ):
        self.maze, self.n, self.substeps, self.early, self.anywhere = maze, n, substeps, early, anywhere
        self.max_steps = max_steps or MAX_STEPS[maze]
        self.spec = Spec(2, Box((-1.0, -1.0), (1.0, 1.0)))
        self.device = torch.device(device)
        self.walls = walls(maze).to(device)
        self.free = (~self.walls).nonzero()
        self.goal = cell_centre(torch.tensor(GOAL[maze], device=device))
        self.xy = torch.zeros(n, 2, device=device)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        draw = Streams(seeds.to(self.device))
        cell = torch.tensor(START[self.maze], device=self.device).expand(self.n, 2)
        if self.anywhere:
            cell = self.free[draw.integers("pointmaze/cell", len(self.free))]
        xy = cell_centre(cell) + 2 * draw.uniform("pointmaze/start", (2,)) - 1
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self.xy = torch.where(mask[:, None], xy, self.xy)
        self.t = torch.where(mask, 0, self.t)
        return self.xy

    def step(self, action: Tensor) -> Step:
        action = action.to(self.xy).clamp(-1, 1)
        success = self._at_goal()
        xy = self.xy
        for _ in range(self.substeps):
            xy = push_out(xy + SPEED * action, self.walls)
        self.xy = xy
        self.t = self.t + 1
        if not self.early:
            success = self._at_goal()
        reward = success.float() - 1 if self.early else torch.full_like(xy[:, 0], -1.0)
        timeout = (self.t >= self.max_steps) & ~success
        return Step(xy, reward, success, timeout, {"success": success.float()})

    def _at_goal(self) -> Tensor:
        return (self.xy - self.goal).norm(dim=-1) <= GOAL_RADIUS


def push_out(xy: Tensor, wall: Tensor) -> Tensor:
    """(n, 2) -> (n, 2): what one step of soft contact gives back to a disc that went into the walls beside its cell.

    A motion is shorter than the radius, so the centre never enters a wall.
    """
    cell = cell_of(xy)
    row, column = cell.unbind(-1)
    inside = xy - cell_centre(cell)
    side = torch.where(inside >= 0, 1, -1)
    gap = UNIT / 2 - inside.abs()  # to the nearer side in x and in y
    beside = torch.stack([wall[row, column + side[:, 0]], wall[row + side[:, 1], column]], -1)
    depth = (RADIUS - gap).clamp_min(0) * beside
    distance = gap.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    corner = (RADIUS - distance).clamp_min(0) * gap / distance * wall[row + side[:, 1], column + side[:, 0], None]
    walls = beside.sum(-1, keepdim=True)
    push = (1 - SOFTNESS) * torch.where(walls == 0, corner, depth)
    push = push + SEAM * corner * ((walls == 1) & ~beside)
    deeper = depth.amax(-1, keepdim=True)
    wedge = torch.where(depth == deeper, WEDGE[0] * deeper, WEDGE[1] * deeper + WEDGE[2] * depth)
    return xy - side * torch.where(depth.amin(-1, keepdim=True) > 0, wedge, push)


@lru_cache
def next_cells(maze: str) -> Tensor:
    """(goals, cells, 2) over the flattened grid: the next cell on a shortest path (breadth first); itself at the goal.

    Ties go to the first of up, left, down, right, as in OGBench.
    """
    wall = walls(maze)
    rows, columns = wall.shape
    moves = ((-1, 0), (0, -1), (1, 0), (0, 1))
    table = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
    table = table.reshape(1, -1, 2).repeat(rows * columns, 1, 1)
    for goal in (~wall).nonzero().tolist():
        distance = {tuple(goal): 0}
        queue = [tuple(goal)]
        for i, j in queue:
            for di, dj in moves:
                beside = (i + di, j + dj)
                if not wall[beside] and beside not in distance:
                    distance[beside] = distance[i, j] + 1
                    queue.append(beside)
        for (i, j), d in distance.items():
            if d:
                best = min(((i + di, j + dj) for di, dj in moves), key=lambda c: distance.get(c, 10**9))
                table[goal[0] * columns + goal[1], i * columns + j] = torch.tensor(best)
    return table


class Controller:
    """Walks from cell to cell towards a goal; a reached goal (within half its radius) is followed by a random one.

    goal: a fixed (x, y) instead. Noise is added to the action and the sum clipped to the box.
    """

    def __init__(self, maze: str, n: int, *, seed: int, noise: float, substeps: int, goal: Tensor | None = None):
        self.next, self.free = next_cells(maze), (~walls(maze)).nonzero()
        self.columns = walls(maze).shape[1]
        self.streams, self.noise, self.reach, self.fixed = copy_streams(seed, n), noise, SPEED * substeps, goal
        self.goal = torch.zeros(n, 2) if goal is None else goal.expand(n, 2)
        self.t = 0

    def begin(self, fresh: Tensor) -> None:
        self._new_goals(fresh, "controller/first")

    def _new_goals(self, mask: Tensor, name: str) -> None:
        if self.fixed is None and bool(mask.any()):
            cell = self.free[self.streams.integers(name, len(self.free), counter=self.t)]
            xy = cell_centre(cell) + 2 * self.streams.uniform(name + "/xy", (2,), counter=self.t) - 1
            self.goal = torch.where(mask[:, None], xy, self.goal)

    def __call__(self, obs: Tensor) -> Tensor:
        self._new_goals((obs - self.goal).norm(dim=-1) < GOAL_RADIUS / 2, "controller/goal")
        here, there = (
            cell_of(obs) @ torch.tensor([self.columns, 1]),
            cell_of(self.goal) @ torch.tensor([self.columns, 1]),
        )
        target = torch.where((here == there)[:, None], self.goal, cell_centre(self.next[there, here]))
        way = target - obs
        action = way / way.norm(dim=-1, keepdim=True).clamp_min(self.reach)
        if self.noise:
            action = action + self.noise * self.streams.normal("controller/noise", (2,), counter=self.t)
        self.t += 1
        return action.clamp(-1, 1)


def task(
    id: str, *, transitions: int = 200_000, data_seed: int = 0, noise: float = WALK_NOISE, max_steps: int = 0
) -> Task:
    """`pointmaze-{umaze,medium,large}[-v0]`. max_steps 0: the maze's own limit (1000 for -v0).

    transitions, data_seed and noise (of the controller) describe the data set.
    """
    maze, exact = id.split("-")[1], id.endswith("-v0")
    limit = max_steps or (1000 if exact else MAX_STEPS[maze])
    make_env = partial(PointMaze, maze, substeps=1 if exact else 4, early=exact, max_steps=limit)
    config = {"transitions": transitions, "data_seed": data_seed, "noise": noise, "max_steps": limit}

    def make_vec(n: int, seed: int = 0, device: torch.device | str = "cpu") -> PointMaze:
        return make_env(n, device=device)

    def build() -> OfflineDataset:
        # each copy walks for a few time limits, so that most episodes are whole
        n = max(1, min(2000, math.ceil(transitions / (3 * limit))))
        env = make_env(n, anywhere=True)
        walker = Controller(maze, n, seed=data_seed, noise=noise, substeps=env.substeps)
        facts: dict[str, Any] = {"reward_range": (-1.0, 0.0 if exact else -1.0), "max_steps": limit}
        return collect(env, walker, transitions, seed=data_seed, meta=facts)

    return Task(
        id=id,
        spec=Spec(2, Box((-1.0, -1.0), (1.0, 1.0))),
        make_vec=make_vec,
        dataset=lambda: build_once(id, VERSION, config, build),
        reference=REFERENCE[id.removeprefix("pointmaze-")],
        max_steps=limit,
        metadata={"goal": tuple(cell_centre(torch.tensor(GOAL[maze])).tolist())},
    )


def reference(id: str, episodes: int = 1000) -> tuple[float, float]:
    """(return of standing still, mean return of the noiseless controller from the start cell)."""
    problem = task(id)
    assert problem.make_vec is not None
    env = problem.make_vec(episodes)
    walker = Controller(env.maze, episodes, seed=0, noise=0.0, substeps=env.substeps, goal=env.goal)
    obs, alive, total = env.reset(torch.arange(episodes)), torch.ones(episodes), torch.zeros(episodes)
    for _ in range(problem.max_steps):
        step = env.step(walker(obs))
        obs, total = step.obs, total + step.reward * alive
        alive = alive * ~(step.terminal | step.timeout)
    return -float(problem.max_steps), round(float(total.mean()), 1)


if __name__ == "__main__":
    for name in REFERENCE:
        print(name, reference(f"pointmaze-{name}"))
