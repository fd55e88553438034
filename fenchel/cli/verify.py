"""`fenchel verify`: check the claims of all layers on random problems and show what fails.

    python scripts/verify.py 'dual_rl.*' --twins          glob patterns; a bare group name means all of it
    python scripts/verify.py --user my_module:MY_CLAIM    a claim of your own (this loads and runs that module)

Exit status: 0 when everything came out as expected, 1 when not, 2 when the command line is refused.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fenchel.errors import UserError
from fenchel.theory.claims.table import inserted
from fenchel.theory.claims.verify import Row, resolve, select, verify

LAYERS = ("theory", "algorithms", "llm")


def tables() -> dict[str, str]:
    """Every layer's CLAIMS table, with module paths made absolute. A layer without claims has no row."""
    joined: dict[str, str] = {}
    for layer in LAYERS:
        package = f"fenchel.{layer}.claims"
        if importlib.util.find_spec(f"fenchel.{layer}") is None or importlib.util.find_spec(package) is None:
            continue
        rows = importlib.import_module(package).CLAIMS
        twice = joined.keys() & rows.keys()
        if twice:
            raise UserError(f"claim={min(twice)} stands in two layers' tables; rename the one in {package}.")
        joined |= {name: f"{package}.{path}" for name, path in rows.items()}
    return joined


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="verify", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("patterns", nargs="*", default=["*"], help="glob patterns of claim names (default: all)")
    p.add_argument("--twins", action="store_true", help="also run the twins: one assumption dropped, must fail")
    p.add_argument("--json", metavar="FILE", type=Path, help="write the rows as JSON")
    p.add_argument("--batch", metavar="N", type=int, help="problems per claim (default: each claim's own number)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    p.add_argument("--list", action="store_true", help="name the claims and what they state; run nothing")
    p.add_argument("--user", metavar="module:ATTR", action="append", help="check your own claim; may be repeated")
    p.add_argument("--write-table", metavar="PAGE", type=Path, help="rewrite the generated table of docs/theory.md")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return _main(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _main(args: argparse.Namespace) -> int:
    table = tables()
    if args.user:
        sys.path.insert(0, os.getcwd())
        table = {path: path for path in args.user}
    if args.write_table:
        args.write_table.write_text(inserted(args.write_table.read_text(), table))
        return 0
    if args.list:
        return _list(table, args.patterns)
    _refuse_bad_values(args)
    rows = _run(args, table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["as_expected"] for row in rows) else 1


def _refuse_bad_values(args: argparse.Namespace) -> None:
    if args.batch is not None and args.batch < 1:
        raise UserError(f"batch={args.batch} is not a number of problems; valid are 1, 2, ...")
    if args.json and not args.json.resolve().parent.is_dir():
        raise UserError(f"json={args.json}: the folder {args.json.parent} does not exist.")
    try:
        torch.empty(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={args.device} cannot be used here; valid are cpu, cuda, cuda:0, ...") from error


def _list(table: dict[str, str], patterns: list[str]) -> int:
    for name in select(patterns, table):
        claim = resolve(table[name])
        print(f"{name}  [{claim.paper}] {claim.kind}\n    {claim.statement}")
    return 0


def _run(args: argparse.Namespace, table: dict[str, str]) -> list[Row]:
    console = Console() if sys.stdout.isatty() else Console(width=140)
    rows = []
    options = dict(batch=args.batch, seed=args.seed, device=args.device, twins=args.twins)
    with console.status("reading the tables") as status:
        for row in verify(table, args.patterns, **options):
            rows.append(row)
            status.update(f"{len(rows)} checked, last {row['claim']}")
    console.print(_rich_table(rows))
    for row in rows:
        if not row["as_expected"]:
            _explain(console, row)
    failed = sum(not row["as_expected"] for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    console.print(f"{len(rows) - failed} of {len(rows)} claims as expected, {seconds:.1f} s")
    return rows


def _rich_table(rows: list[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (
        "claim",
        "paper",
        "kind",
        "holds",
        "as expected",
        "twin fails",
        "problems",
        "residual",
        "tolerance",
        "s",
    ):
        table.add_column(name, justify="left" if name in ("claim", "kind") else "right")
    for row in rows:
        good = row["as_expected"]
        table.add_row(
            escape(row["claim"]), str(row["paper"]), row["kind"], _word(row["holds"]),
            "yes" if good else "[bold red]NO[/]", _word(row["twin_fails"]), str(row["n"]),
            f"{row['residual']:.1e}", f"{row['tolerance']:.1e}", f"{row['seconds']:.2f}",
        )  # fmt: skip
    return table


def _word(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[value]


def _explain(console: Console, row: Row) -> None:
    """Why a row is not as expected: the error, the smallest problem found, or the twin that held."""
    console.print(f"\n[bold red]{escape(row['claim'])}[/] (paper {row['paper']}): {escape(row['statement'])}")
    if row["error"]:
        console.print(escape(row["error"]))
    elif row["twin_fails"] is False and row["holds"] == row["expected"]:
        console.print("the twin holds, although an assumption was dropped: the check cannot see a violation")
    elif row["problem"]:
        console.print(f"{row['violations']} of {row['n']} problems violate it; a small one:")
        console.print(escape(row["problem"]))
    else:
        console.print("it is expected to be false (docs/errata.md), yet it held")
