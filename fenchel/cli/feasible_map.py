"""`python -m fenchel.cli.feasible_map FILE [STEPS]`: trajectories of learners over the exact feasible region, a figure.

`point-obstacle-mixed`, seed 0, networks of 64x64, STEPS updates (4000). Every car starts eastwards. Black: the
obstacle. Grey: where, heading east, it can no longer be missed (`envs.point_obstacle.feasible`, exact). Red
trajectories pay from a start that is feasible; the dashed line is FISOR's own border, V_h = 0, at that heading.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fenchel import envs
from fenchel.algorithms import get_algorithm
from fenchel.algorithms.runner import Runner
from fenchel.cli.plot import COLOURS, new_figure, write
from fenchel.envs.point_obstacle import GOAL, MAX_STEPS, PointObstacle, feasible, hit

QUICK = {"hidden": (64, 64), "batch_size": 64, "lr": 1e-3}
LEARNERS: dict[str, dict[str, Any]] = {
    "bc": QUICK,
    "bc_safe": QUICK | {"limit": 1.0},
    "fisor": QUICK | {"tau": 0.02, "ema": 0.005, "violation": 1.0},
}
WEST, EAST, SIDE = -2.0, 2.3, 1.3


def grid(count: int) -> tuple[Tensor, Tensor]:
    """x (count,) and y (count,) of the map."""
    return torch.linspace(WEST, EAST, count), torch.linspace(-SIDE, SIDE, count)


def drive(learner: Any, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (steps + 1, n, 2) of cars that start at xy (n, 2) eastwards, and whether each has paid (n,)."""
    env = PointObstacle(len(xy))
    env.reset(torch.arange(len(xy)))
    env.xy, env.heading = xy.clone(), torch.zeros(len(xy))
    alive, paid, path = torch.ones(len(xy), dtype=torch.bool), torch.zeros(len(xy), dtype=torch.bool), [xy]
    obs = env._obs()
    for _ in range(MAX_STEPS):
        result = env.step(learner.act(obs.unsqueeze(0))[0])
        paid |= alive & (result.info["cost"] > 0)
        path.append(torch.where(alive[:, None], env.xy, path[-1]))
        alive, obs = alive & ~result.terminal, result.obs
    return torch.stack(path), paid


def draw(path: Path, steps: int = 4000) -> dict[str, int]:
    """Writes the figure (png); how many of the feasible starts each learner pays from."""
    task, found = envs.make("point-obstacle-mixed"), {}
    x, y = grid(120)
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    east = torch.zeros(at.shape[:2])
    lost = ~feasible(at, east)
    starts = torch.cartesian_prod(torch.tensor([-1.9, -1.5, -1.1]), torch.linspace(-1.1, 1.1, 9))
    possible = feasible(starts, torch.zeros(len(starts)))
    figure = new_figure(3.3 * len(LEARNERS), 2.6)
    for axis, (key, options) in zip(figure.subplots(1, len(LEARNERS), sharey=True), LEARNERS.items(), strict=True):
        learner = get_algorithm(key)(task.spec, options)
        Runner(learner, learner.source(task)).advance(steps)
        trajectories, paid = drive(learner, starts)
        axis.contourf(x, y, lost.float(), levels=[0.5, 1.5], colors=["0.85"])
        axis.contourf(x, y, hit(at).float(), levels=[0.5, 1.5], colors=["0.2"])
        for line, bad in zip(trajectories.unbind(1), (paid & possible).tolist(), strict=True):
            axis.plot(*line.T, color="tab:red" if bad else COLOURS[0], linewidth=0.8)
        if key == "fisor":
            obs = torch.cat([at, torch.stack([east.cos(), east.sin()], -1)], -1).flatten(0, 1).unsqueeze(0)
            border = learner.reach_value(learner.normalise(obs)).detach().view(at.shape[:2])
            axis.contour(x, y, border, levels=[0.0], colors=["k"], linestyles="dashed", linewidths=1)
        axis.plot(*GOAL, "*", color="tab:green")
        found[key] = int((paid & possible).sum())
        axis.set_title(f"{key}: {found[key]} of {int(possible.sum())} pay", fontsize=9)
        axis.set_xlim(WEST, EAST)
        axis.set_ylim(-SIDE, SIDE)
        axis.set_aspect("equal")
    write(figure, path)
    return found


if __name__ == "__main__":
    print(draw(Path(sys.argv[1]), *map(int, sys.argv[2:3])))
