"""The table of data sets: `python -m fenchel.envs.statistics [id ...]` writes docs/datasets.md.

Numbers are measured on the built sets (a set that is not there is built); rows of sets that are not named are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fenchel.envs import DATASETS, make
from fenchel.errors import UserError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "datasets.md"
COLUMNS = (
    "data set",
    "rows",
    "episodes",
    "terminal",
    "return mean",
    "std",
    "min",
    "max",
    "score",
    "random",
    "expert",
    "hash",
)
HEAD = """# Data sets

Built on first use by `fenchel.envs.make(id).dataset()`, offline. Written by `python -m fenchel.envs.statistics`.
The last episode of each copy is cut where collection stops; return statistics are over whole episodes.
"score" is the normalised mean return; "random" and "expert" are the returns that are 0 and 100.
For Hopper, Walker2d and HalfCheetah these are D4RL's reference returns; the data are Fenchel's own, so scores on them
are not comparable cell by cell with scores on D4RL's data. The same configuration gives the same hash on one machine;
between machines MuJoCo and the processor's rounding may differ in the last bit, which changes whole trajectories.

Imitation: `*-imitation` and `stitchmaze-uncovered` have a column `expert`, 1 in the rows of the few demonstrations and
0 in the others; their statistics are over both. `task.expert_episodes` (1) is how many demonstrations there are,
`task.offline` whose the other rows are (random, medium, and medium-replay for robots; none leaves demonstrations alone,
as `algo=bc` wants them), `task.expert_fraction` (0.1) which share of those is the expert's own without being marked.
Data of your own take part through the same column. Imitation learners do not read rewards.

Costs: `point-*-mixed`, `halfcheetah-velocity-mixed`, `hazard-rooms-mixed`, `cmdp-garnet-mixed` and `conveyors-mixed`
have a column `cost` and declare a budget ([constrained](constrained.md)); of the first two kinds "random" and "expert"
are the least and the greatest return of an episode of the data, so that "score" is DSRL's normalised reward in %.

Several objectives: returns of `deep-sea-treasure-mixed`, `deep-sea-treasure-concave-mixed`, `resource-gathering-mixed`
and `fruit-tree-mixed` are vectors ([multi-objective](multi-objective.md)), one number per objective.

"""


def row(id: str) -> list[str]:
    """One line of the table, in the order of COLUMNS."""
    task = make(id)
    assert task.dataset is not None
    data = task.dataset()
    length = data.episode_ends - data.episode_starts
    whole = data.terminal[data.episode_ends - 1] | (length >= data.meta.get("max_steps", task.max_steps))
    returns = data.episode_returns()[whole]
    low, high = task.reference or (float("nan"), float("nan"))
    score = float(task.normalized(returns.mean()))
    per_objective = (returns.mean(0), returns.std(0), returns.amin(0), returns.amax(0))
    numbers = [", ".join(f"{x:.1f}" for x in column.reshape(-1).tolist()) for column in per_objective]
    counts = [len(data), len(length), int(data.terminal.sum())]
    return [id, *(f"{n:,}" for n in counts), *numbers, *(f"{x:.1f}" for x in (score, low, high)), data.hash]


def page(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 2) + "|---|"]
    return HEAD + "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows]) + "\n"


def read(path: Path) -> dict[str, list[str]]:
    """The rows of a page by id."""
    if not path.exists():
        return {}
    table = [line.strip("| ").split(" | ") for line in path.read_text().splitlines() if line.startswith("| ")]
    return {cells[0]: cells for cells in table[1:]}


def write(ids: list[str], path: Path = PAGE) -> None:
    """Measures `ids` and rewrites the page in the order of DATASETS."""
    measured = {id: row(id) for id in ids}  # takes minutes, so the page is read after it
    rows = read(path) | measured
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page([rows[id] for id in DATASETS if id in rows]))


def main() -> None:
    chosen = sys.argv[1:] or list(DATASETS)
    for id in chosen:
        try:
            write([id])
        except UserError as error:
            print(f"{id}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
