"""`scripts/report.py`: what runs reached, in tables and learning curves.

  python scripts/report.py runs/                                    markdown on stdout
  python scripts/report.py runs/ --json FILE --csv FILE --figure curves.png
  python scripts/report.py runs/ --page docs/results/offline.md     table, curves and commands as one page
  python scripts/report.py --catalogue                              refresh docs/papers.toml
  python scripts/report.py --readme                                 refresh the table of what works in README.md

Scores are those of the last evaluation and, separately, the best of the run (which looks at the test score to choose,
so compare it with care). Intervals: 95%, bootstrap over seeds, stratified by task.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fenchel.cli.arguments import Parser, run
from fenchel.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="report", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="run folders, or folders that hold them")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="learning curves, one panel per task (png)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a page for docs/results, its figure beside it")
    parser.add_argument("--catalogue", action="store_true", help="refresh docs/papers.toml")
    parser.add_argument("--readme", action="store_true", help="refresh the table in README.md")
    return run(_main, parser, argv)


def _main(args: argparse.Namespace) -> int:
    if args.catalogue or args.readme:
        return _generate(args)
    if not args.paths:
        raise UserError("report: name a folder that holds runs, such as runs/.")
    for path in args.paths:
        if not path.is_dir():
            raise UserError(f"report: {path} is not a folder; name a folder that holds runs, such as runs/.")

    from fenchel.algorithms.training import finite
    from fenchel.cli.results import collect, find, rows

    folders, remarks = find(args.paths)
    groups = collect(folders)
    table = rows(groups)
    print("\n".join([markdown(table), *remarks]))
    if args.json:
        args.json.write_text(json.dumps(finite(table), indent=1) + "\n")
    if args.csv:
        write_csv(args.csv, table)
    figure = args.figure or (args.page and args.page.with_suffix(".png"))
    if figure and groups:
        from fenchel.cli.plot import panels

        print(f"plot: {panels(figure, groups)}")
    if args.page:
        args.page.write_text(page(args.page, table, groups))
        print(f"page: {args.page}")
    return 0


def _generate(args: argparse.Namespace) -> int:
    from fenchel.cli import catalogue, readme

    if not catalogue.PAPERS.exists():
        raise UserError("report: docs/papers.toml is not here; run it in a clone.")
    if args.catalogue:
        catalogue.PAPERS.write_text(catalogue.dump(catalogue.refreshed(catalogue.load())), encoding="utf-8")
    if args.readme:
        readme.README.write_text(readme.refreshed(readme.README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def between(pair: Sequence[float]) -> str:
    return f"{number(pair[0])} to {number(pair[1])}" if math.isfinite(pair[0]) else "-"


def markdown(table: list[dict[str, Any]]) -> str:
    """A table that is readable as text, too."""
    head = ["task", "learner", "options", "steps", "seeds", "mean", "95%", "IQM", "95%", "best", "CPU s"]
    lines = [
        [
            row["env"],
            row["algo"],
            f"`{row['options']}`" if row["options"] else "",
            str(row["steps"]),
            str(row["seeds"]) + (f" ({row['diverged']} diverged)" if row["diverged"] else ""),
            number(row["mean"]) + ("" if row["metric"] == "normalized_score" else " (return)"),
            between(row["mean_interval"]),
            number(row["iqm"]),
            between(row["iqm_interval"]),
            number(row["best"]),
            f"{row['seconds']:.0f}",
        ]
        for row in table
    ]
    return ruled(head, lines)


def ruled(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table whose columns are aligned."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    every = [head, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in every)


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = None
        for row in table:
            flat = {k: v for k, v in row.items() if not k.endswith("_interval")}
            for name in ("mean", "iqm"):
                flat[f"{name}_low"], flat[f"{name}_high"] = row[f"{name}_interval"]
            writer = writer or csv.DictWriter(file, list(flat))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(flat)


NOTES = "<!-- notes by hand: kept when the page is written again -->"


def notes_of(path: Path) -> str:
    """What was written by hand below the page's mark, and the mark itself."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    return before[before.index(NOTES) :] if NOTES in before else f"{NOTES}\n"


def page(path: Path, table: list[dict[str, Any]], groups: Sequence[Any]) -> str:
    """docs/results/<family>.md: the caption states steps, network, seeds and budget."""
    networks = sorted({f"hidden {g.options['hidden']}" for g in groups if "hidden" in g.options})
    batches = sorted({f"batch {g.options['batch_size']}" for g in groups if "batch_size" in g.options})
    seconds = sum(g.seconds for g in groups)
    caption = (
        f"Fenchel datasets; {', '.join(networks + batches)}; {seconds / 60:.0f} CPU-minutes. `mean` and "
        "`IQM` are of the last evaluation, `best` is the mean of each run's best one; intervals are 95% bootstrap "
        "intervals over seeds."
    )
    lines = sorted({re.sub(r" out=\S+", "", line) for group in groups for line in group.lines})
    commands = "\n".join([*lines, f"python scripts/report.py runs/ --page {path.as_posix()}"])
    title = path.stem.replace("_", " ").capitalize()
    return f"""# {title}: results

{caption}

{markdown(table)}

![learning curves]({path.with_suffix(".png").name})

Made by

```
{commands}
```

{notes_of(path)}"""
