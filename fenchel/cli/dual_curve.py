"""`python -m fenchel.cli.dual_curve FILE`: what a limit is worth in the constrained tabular tasks, as a figure.

Above the optimum as a function of the limit, with its corners; below the multiplier, its slope. Dotted: the task's own
limits. Everything is computed by `theory.solvers.cmdp_curve`; nothing is learned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from fenchel.cli.plot import COLOURS, new_figure, write
from fenchel.envs.tabular_costs import PROBLEMS, limits, problem
from fenchel.theory.solvers.cmdp_curve import dual_corners, dual_curve

POINTS = 240


def draw(path: Path) -> None:
    """Writes the figure (png)."""
    figure = new_figure(3.4 * len(PROBLEMS), 4.4)
    axes = figure.subplots(2, len(PROBLEMS), sharex="col")
    for (above, below), name in zip(axes.T, PROBLEMS, strict=True):
        mdp, _ = problem(name)
        corners = dual_corners(mdp)
        least, free = float(corners[0, 0]), float(corners[-1, 0])
        span = free - least
        at = torch.linspace(least + 5e-3 * span, free + 0.3 * span, POINTS, dtype=torch.float64)
        curve = dual_curve(mdp, at)
        above.plot(at, curve.values, color=COLOURS[0])
        above.plot(*corners.T, "o", color=COLOURS[0], markersize=3)
        below.step(at, curve.multipliers, color=COLOURS[1], where="mid")
        below.set_ylim(bottom=0)
        for axis in (above, below):
            for limit in limits(name):
                axis.axvline(limit, color="0.6", linestyle=":", linewidth=1)
        above.set_title(name, fontsize=10)
        below.set_xlabel("limit (discounted cost)")
    axes[0, 0].set_ylabel("optimum")
    axes[1, 0].set_ylabel("multiplier")
    write(figure, path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
