"""`scripts/make_dataset.py`: build a data set, look at it, write it as Minari.

  python scripts/make_dataset.py hopper-medium                        build it (or find it built) and describe it
  python scripts/make_dataset.py pointmaze-umaze task.transitions=1e6
  python scripts/make_dataset.py d4rl:/data/hopper.hdf5 --minari fenchel/hopper-v0
  python scripts/make_dataset.py --all                                every native set

Native sets lie in $FENCHEL_DATA (default ~/.cache/fenchel) and are built offline.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rich.console import Console

from fenchel.cli.arguments import Parser, run
from fenchel.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="make_dataset", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="ID [task.OPTION=VALUE ...]")
    parser.add_argument("--all", action="store_true", help="every native data set")
    parser.add_argument("--minari", metavar="NAME", help="also write it as this Minari data set")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> int:
    from fenchel.cli import compose
    from fenchel.envs import DATASETS

    ids = [word for word in args.words if not word.startswith("task.")]
    if not (ids or args.all) or (args.minari and (args.all or len(ids) != 1)):
        raise UserError("make_dataset: name one data set (see scripts/run.py --list envs), or give --all.")
    options = [word for word in args.words if word.startswith("task.")]
    task = compose.compose(compose.read(options, ()))["task"]
    for name in list(DATASETS) if args.all else ids:
        _build(name, task, args.minari)
    return 0


def _build(name: str, options: dict, minari: str | None) -> None:
    from fenchel.cli.execute import make_task

    started = time.time()
    task = make_task(name, options)
    if task.dataset is None:
        raise UserError(f"env={name} has no data set; see scripts/run.py --list envs.")
    data = task.dataset()
    console = Console(highlight=False)
    returns = data.episode_returns().double()
    mean = ", ".join(f"{value:.1f}" for value in returns.mean(0).reshape(-1).tolist())
    console.print(
        f"{name}: {len(data)} transitions, {len(data.episode_ends)} episodes, mean return {mean}", markup=False
    )
    if task.reference is not None:
        score = task.normalized(returns)
        console.print(f"  normalised score of the data: mean {score.mean():.1f}, best {score.max():.1f}")
    for finding in data.findings:
        console.print(f"  audit: {finding}", markup=False)
    console.print(f"  hash {data.hash}, {time.time() - started:.1f} s")
    if minari:
        data.to_minari(minari)
        console.print(f"  written as Minari data set {minari}")
