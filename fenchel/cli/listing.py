"""`--list`, `--explain` and the keys of `--help`: read from the source, so that they answer at once."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from fenchel.cli import source, typed
from fenchel.errors import UserError, unknown

LISTS = ("envs", "algos", "recipes", "papers")


def listed(name: str) -> str:
    """The text of `--list NAME`."""
    if name not in LISTS:
        raise unknown("--list", name, LISTS)
    from fenchel.cli import recipes

    return {"envs": envs, "algos": algos, "recipes": recipes.listed, "papers": papers}[name]()


def columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(len(rows[0]))] if rows else []
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def envs() -> str:
    data = set(source.keys("envs", "DATASETS"))
    names = list(dict.fromkeys([*source.keys("envs", "ENVS"), *source.keys("envs", "DATASETS")]))
    rows = [(name, "data" if name in data else "") for name in names]
    rows += [(f"llm/{name}", "tokens") for name in source.keys("llm.tasks", "TASKS")]
    foreign = "also gym:ID, minari:ID, d4rl:FILE, mo:ID, ogbench:ID and my_pkg.my_env:make"
    return f"{columns(rows)}\n{foreign}".strip()


def algos() -> str:
    rows = []
    for key in source.algorithms():
        about = source.describe(key).attributes
        rows.append((key, str(about.get("FAMILY") or ""), str(about.get("TITLE") or "")))
    rows += [(name, "synonym", f"algo={line}") for name, line in source.synonyms().items()]
    return columns(rows)


def catalogue() -> Path:
    return source.ROOT.parent / "docs" / "papers.toml"


def papers() -> str:
    if not catalogue().exists():
        raise UserError("--list papers reads docs/papers.toml, which an installed wheel does not have; use a clone.")
    rows = tomllib.loads(catalogue().read_text(encoding="utf-8"))["paper"]
    return columns([(str(row["id"]), row["status"], " ".join(row.get("keys", [])), row["title"]) for row in rows])


def explained(key: str, env: str = "") -> str:
    """The text of `--explain algo=KEY`: what it is, which spaces it takes, every option.

    env: as on the line, if at all. A name that learners and recipes share is a recipe's where env is one of tokens.
    """
    key = key.removeprefix("algo=")
    if key in source.recipes() and (source.tokens(env) or key not in source.algorithms()):
        from fenchel.cli import recipes

        return recipes.explained(key, env)
    source.check_method(key, [env])
    about = source.describe(key)
    attributes = about.attributes
    lines = [f"algo={about.key}: {attributes.get('TITLE') or ''}".rstrip(": "), "", about.doc, ""]
    if attributes.get("PAPER"):
        lines.append(f"paper: {attributes['PAPER']} in docs/papers.toml")
    spaces = {"box": "Box", "discrete": "Discrete"}
    actions = [spaces.get(str(a), str(a)) for a in attributes.get("ACTIONS", ())]  # type: ignore[attr-defined]
    lines.append(f"actions: {' and '.join(actions)}; observations: vectors")
    lines.append(f"learns from: {'acting' if attributes.get('ONLINE') else 'a data set'}")
    if attributes.get("NEEDS"):
        lines.append(f"needs the columns: {', '.join(attributes['NEEDS'])}")  # type: ignore[arg-type]
    presets: dict[str, dict] = attributes.get("PRESETS", {})  # type: ignore[assignment]
    lines += ["", "presets, by name or where env matches:"] if presets else []
    lines += [f"  {name}: {', '.join(f'{k}={typed.show(v)}' for k, v in row.items())}" for name, row in presets.items()]
    lines += ["", "options:", columns([option_row("algo.", option) for option in about.options])]
    return "\n".join(lines)


def option_row(prefix: str, option: source.Option) -> tuple[str, str, str]:
    """`algo.lr=0.0003`, its type and its meaning with the declared range in words."""
    try:
        default = typed.show(ast.literal_eval(option.default))
        low, high = ast.literal_eval(option.range or "(None, None)")
    except ValueError:  # written as an expression: shown as it is written
        default, low, high = option.default, None, None
    span = {(False, False): f"{low} to {high}", (False, True): f"{low} or more", (True, False): f"{high} or less"}
    meaning = "; ".join(part for part in (option.doc, span.get((low is None, high is None), "")) if part)
    return f"  {prefix}{option.name}={default}", option.type, meaning


def keys_help() -> str:
    """Every key of a line beside algo.* and task.*."""
    own = source.config_fields("cli.plan", "Job") + source.config_fields("algorithms.training", "TrainConfig")
    rows = [option_row("", option) for option in own]
    return f"\nkeys (and algo=KEY, algo.<option>, task.<option>):\n{columns(rows)}"
