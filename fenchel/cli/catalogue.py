"""The catalogue of papers: docs/papers.toml. Ids, titles and proposed keys stand by hand, the rest is generated.

A key is `kind=name`. `keys` are those that exist: rows of ALGORITHMS and RECIPES whose name was proposed or whose
PAPER is this one, and CLAIMS whose `paper` is this one.

A proposed learner that is another one with options (SYNONYMS) counts as that one.

works    a paper with a method: every proposed method exists and one has a current record in reproduce.json;
         a paper of theory: it has a claim, which the tests check
partial  some of that; `missing` says what is not there
planned  nothing yet

A record is current while `source_hash` (the learner's file and the theory that it imports) is unchanged.
"""

from __future__ import annotations

import ast
import hashlib
import json
import tomllib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from fenchel.cli import source

DOCS = source.ROOT.parent / "docs"
PAPERS, RECORDS = DOCS / "papers.toml", DOCS / "results" / "reproduce.json"
METHODS = ("algo", "recipe")
HEADER = """\
# The papers that Fenchel covers or plans. `id`, `title` and `proposed` are written by hand; `keys`, `status` and
# `missing` by `python scripts/report.py --catalogue`, whose module says what each status means.
"""


def load(path: Path = PAPERS) -> list[dict[str, Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))["paper"]


def dump(rows: Iterable[dict[str, Any]]) -> str:
    """TOML; a JSON string or a list of them is also a TOML one."""
    blocks = []
    for row in rows:
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in row.items()]
        blocks.append("\n".join(["[[paper]]", *lines]))
    return HEADER + "\n" + "\n\n".join(blocks) + "\n"


def methods() -> dict[str, int | None]:
    """Every learner and recipe -> the id of its paper, None where it has none."""
    found: dict[str, int | None] = {}
    for key in source.algorithms():
        paper = source.describe(key).attributes.get("PAPER")
        found[f"algo={key}"] = paper if isinstance(paper, int) else None
    recipes = source.table("llm", "RECIPES")
    if recipes:
        table = import_module("fenchel.llm")
        for key in recipes:
            found[f"recipe={key}"] = getattr(table.get_recipe(key), "paper", None)
    return found


def claims() -> dict[str, int]:
    """Every claim of every layer -> the id of its paper."""
    from fenchel.cli.verify import tables
    from fenchel.theory.claims.verify import resolve

    return {f"claim={name}": resolve(path).paper for name, path in tables().items()}


def real(key: str) -> str:
    """`algo=xql` -> `algo=f_dvl`: the learner that a synonym stands for; any other key as it is."""
    kind, _, name = key.partition("=")
    line = source.synonyms().get(name) if kind == "algo" else None
    return f"algo={line.split()[0]}" if line else key


def source_hash(key: str) -> str | None:
    """Of the file of `algo=key` and the modules of fenchel.theory that it imports; None when there is no such row."""
    kind, _, name = key.partition("=")
    row = {"algo": source.algorithms(), "recipe": source.table("llm", "RECIPES")}.get(kind, {}).get(name)
    if row is None:
        return None
    layer = {"algo": "algorithms", "recipe": "llm"}[kind]
    files = {source.ROOT / layer / Path(*row.split(":")[0].split(".")).with_suffix(".py")}
    for node in ast.walk(source.parse(next(iter(files)))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fenchel.theory"):
            base = source.ROOT / Path(*str(node.module).split(".")[1:])
            candidates = [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
            files |= {file for file in candidates if file.is_file()}
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def demonstrated(path: Path = RECORDS) -> set[str]:
    """Keys with a current record."""
    records = json.loads(path.read_text()) if path.exists() else []
    return {record["key"] for record in records if record["source_hash"] == source_hash(record["key"]) is not None}


def refreshed(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `keys`, `status` and `missing` as the tables and records of this tree have them."""
    known, stated, shown = methods(), claims(), demonstrated()
    return [_refresh(row, known, stated, shown) for row in rows]


def _refresh(row: dict[str, Any], known: dict[str, int | None], stated: dict[str, int], shown: set[str]) -> dict:
    number, proposed = row["id"], row.get("proposed", [])
    found = [k for k, paper in known.items() if paper == number or k in map(real, proposed)]
    mine = [k for k, paper in stated.items() if paper == number]
    wanted = [k for k in proposed if k.split("=")[0] in METHODS]
    missing = [k for k in wanted if real(k) not in known]
    if found and not shown & set(found):
        missing.append("a current record of its demonstration")
    if not mine and not wanted:
        missing.append("a claim")
    keys = found + mine
    status = "planned" if not keys else ("partial" if missing else "works")
    fresh = {"id": number, "title": row["title"], "proposed": proposed, "keys": keys, "status": status}
    return fresh | ({"missing": missing} if status == "partial" else {})
