"""`scripts/report.py`: what runs reached, in tables and learning curves.

  python scripts/report.py runs/                                    markdown on stdout
  python scripts/report.py runs/ --json FILE --csv FILE --figure curves.png
  python scripts/report.py runs/ --page docs/results/offline.md     table, curves and commands as one page
  python scripts/report.py runs/ --fronts fronts.png                metrics of multi-objective runs, and their fronts
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
    parser.add_argument("--fronts", type=Path, metavar="FILE", help="metrics of fronts, and the fronts drawn (png)")
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
    if args.fronts:
        from fenchel.cli import fronts

        runs = fronts.runs_of(folders)
        print("\n".join([fronts.markdown(runs), *remarks, f"plot: {fronts.figure(args.fronts, runs)}"]))
        return 0
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


def between(pair: Sequence[float], digits: int = 1) -> str:
    return f"{number(pair[0], digits)} to {number(pair[1], digits)}" if math.isfinite(pair[0]) else "-"


def markdown(table: list[dict[str, Any]]) -> str:
    """A table that is readable as text, too; token policies, which have other columns, in one of their own."""
    parts = [[row for row in table if (row["metric"] == "pass_at_1") == tokens] for tokens in (False, True)]
    written = [write(part) for write, part in zip((scored, passed), parts, strict=True) if part]
    return "\n\n".join(written or [scored([])])


def scored(table: list[dict[str, Any]]) -> str:
    """Scores or returns, and costs where a task has a budget."""
    costs = any("normalized_cost" in row for row in table)
    head = ["task", "learner", "options", "steps", "seeds", "mean", "95%", "IQM", "95%", "best", "CPU s"]
    lines = [
        [
            *identity(row),
            number(row["mean"]) + ("" if row["metric"] == "normalized_score" else " (return)"),
            between(row["mean_interval"]),
            number(row["iqm"]),
            between(row["iqm_interval"]),
            number(row["best"]),
            f"{row['seconds']:.0f}",
            *(costs_of(row) if costs else []),
        ]
        for row in table
    ]
    return ruled([*head, *(["cost", "cost / limit", "95%"] if costs else [])], lines)


def costs_of(row: dict[str, Any]) -> list[str]:
    """Three cells, empty for a task without a budget; the cost itself has no mean over tasks."""
    if "normalized_cost" not in row:
        return [""] * 3
    cost = number(row["cost"], 2) if "cost" in row else ""
    return [cost, number(row["normalized_cost"], 2), between(row["normalized_cost_interval"], 2)]


def passed(table: list[dict[str, Any]]) -> str:
    """Of token policies, in percent of held-out problems; the best on a task comes first."""
    ks = {row["k"] for row in table}
    last = f"pass@{ks.pop():.0f}" if len(ks) == 1 else "pass@k"
    head = ["task", "recipe", "options", "updates", "seeds", "first", "pass@1", "95%", "gain", "95%", last]
    ordered = sorted(table, key=lambda row: (row["env"], -row["mean"]))
    lines = [
        [
            *identity(row),
            *(number(100 * row[name]) for name in ("first", "mean")),
            between([100 * end for end in row["mean_interval"]]),
            f"{100 * row['gain']:+.1f}" if math.isfinite(row["gain"]) else "-",
            between([100 * end for end in row["gain_interval"]]),
            number(100 * row["pass_at_k"]),
            number(row["entropy"], 2),
            number(row["kl"], 2),
            f"{row['seconds']:.0f}",
        ]
        for row in ordered
    ]
    return ruled([*head, "entropy", "KL", "CPU s"], lines)


def identity(row: dict[str, Any]) -> list[str]:
    return [
        row["env"],
        row["algo"],
        f"`{row['options']}`" if row["options"] else "",
        str(row["steps"]),
        str(row["seeds"]) + (f" ({row['diverged']} diverged)" if row["diverged"] else ""),
    ]


def ruled(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table whose columns are aligned."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    every = [head, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in every)


def write_csv(path: Path, table: list[dict[str, Any]]) -> None:
    rows = []
    for row in table:
        ends = {f"{name}_{end}": row[f"{name}_interval"][i] for name in ("mean", "iqm") for i, end in enumerate(ENDS)}
        rows.append({k: v for k, v in row.items() if not k.endswith("_interval")} | ends)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        if rows:
            writer.writeheader()
        writer.writerows(rows)


ENDS = ("low", "high")
NOTES = "<!-- notes by hand: kept when the page is written again -->"


def notes_of(path: Path) -> str:
    """What was written by hand below the page's mark, and the mark itself."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    return before[before.index(NOTES) :] if NOTES in before else f"{NOTES}\n"


EXPLAINED = {
    False: "`mean` and `IQM` are of the last evaluation, `best` is the mean of each run's best one; intervals are 95% "
    "bootstrap intervals over seeds.",
    True: "pass@1 and pass@k are percentages of held-out problems, `first` is pass@1 before the first update, `gain` "
    "what a replica gained since, on the same problems; entropy and KL to the first policy are of whole answers, in "
    "nats; CPU s are of training and evaluation of all replicas; intervals are 95% bootstrap intervals over seeds.",
}


def of_data(groups: Sequence[Any]) -> str:
    networks = sorted({f"hidden {g.options['hidden']}" for g in groups if "hidden" in g.options})
    batches = sorted({f"batch {g.options['batch_size']}" for g in groups if "batch_size" in g.options})
    return f"Fenchel datasets; {', '.join(networks + batches)};"


def of_tokens(groups: Sequence[Any]) -> str:
    """Transformers, answers per update, and step sizes."""
    options = [g.options for g in groups]
    sizes = sorted({f"width {o['width']}, {o['layers']} layers" for o in options})
    steps = sorted({f"step size {o['lr']:g} ({o['lr_schedule']})" for o in options})
    return f"Transformers of {' or '.join(sizes)}, begun at the task's warm start; {', '.join(steps)};"


def page(path: Path, table: list[dict[str, Any]], groups: Sequence[Any]) -> str:
    """docs/results/<family>.md: the caption states steps, network, seeds and budget."""
    tokens = all(row["metric"] == "pass_at_1" for row in table)
    seconds = sum(g.seconds for g in groups)
    caption = f"{of_tokens(groups) if tokens else of_data(groups)} {seconds / 60:.0f} CPU-minutes. {EXPLAINED[tokens]}"
    lines = sorted({re.sub(r" out=\S+", "", line) for group in groups for line in group.lines})
    commands = "\n".join([*lines, f"python scripts/report.py runs/ --page {path.as_posix()}"])
    title = "Token policies" if tokens else path.stem.replace("_", " ").capitalize()
    return f"""# {title}: results

{caption}

{markdown(table)}

![learning curves]({path.with_suffix(".png").name})

Made by

```
{commands}
```

{notes_of(path)}"""
