"""The figure of docs/multi-objective.md: `python -m fenchel.cli.exact_fronts` writes docs/results/exact-fronts.png.

Points of deterministic policies, and the upper hull that mixtures of them reach, at discount .99.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fenchel.cli.plot import COLOURS, new_figure, write
from fenchel.envs import make
from fenchel.theory.fronts import supported

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "exact-fronts.png"
PLANAR = ("deep-sea-treasure", "deep-sea-treasure-concave", "mo-point")


def draw(path: Path = PAGE) -> Path:
    figure = new_figure(11, 3.0)
    for i, id in enumerate(PLANAR):
        axes = figure.add_subplot(1, 4, i + 1)
        facts = make(id).metadata
        front = facts["front"]()
        hull = front[supported(front)] if len(front) < 100 else front  # the point robot's is a convex curve
        hull = hull[hull[:, 0].argsort()]
        axes.plot(*hull.T, color=COLOURS[0], linewidth=1, label="all policies")
        if len(front) < 100:
            axes.plot(*front.T, "o", color=COLOURS[1], markersize=4, label="deterministic")
            axes.legend(frameon=False, fontsize=7)
        axes.set_title(id, fontsize=9)
        axes.set_xlabel(facts["objective_names"][0], fontsize=8)
        axes.set_ylabel(facts["objective_names"][1], fontsize=8)
        axes.tick_params(labelsize=7)
    solid(figure.add_subplot(1, 4, 4, projection="3d"))
    return write(figure, path)


def solid(axes) -> None:
    """Resource gathering: three points and the mixtures of their policies."""
    facts = make("resource-gathering").metadata
    front = facts["front"]().numpy()
    ring = np.r_[front, front[:1]]
    axes.plot(ring[:, 1], ring[:, 2], ring[:, 0], color=COLOURS[0], linewidth=1)
    axes.scatter(front[:, 1], front[:, 2], front[:, 0], color=COLOURS[1], depthshade=False)
    axes.set_title("resource-gathering", fontsize=9)
    axes.set_xlabel("gold", fontsize=8)
    axes.set_ylabel("gem", fontsize=8)
    axes.set_zlabel("death", fontsize=8)
    axes.set_zlim(-1, 0.1)
    axes.tick_params(labelsize=6)


if __name__ == "__main__":
    print(draw())
