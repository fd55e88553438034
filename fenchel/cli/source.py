"""What the tree says about itself, read from the source by `ast`: tables, options, documentation.

Nothing is imported, so `--list` and `--explain` answer without torch.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fenchel.errors import UserError, unknown

ROOT = Path(__file__).resolve().parents[1]  # fenchel/


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _dict(module: str, name: str) -> ast.Dict | None:
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in parse(path).body if path.exists() else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return value
    return None


def table(module: str, name: str) -> dict[str, str]:
    """The literal dict `name` of `fenchel.<module>`; empty when the module has none."""
    found = _dict(module, name)
    return ast.literal_eval(found) if found else {}


def keys(module: str, name: str) -> list[str]:
    """The keys of the dict `name`, whose values need not be literals."""
    found = _dict(module, name)
    return [key.value for key in found.keys if isinstance(key, ast.Constant)] if found else []


def algorithms() -> dict[str, str]:
    return table("algorithms", "ALGORITHMS")


def recipes() -> dict[str, str]:
    """What a token task can be trained by: rows of RECIPES, and learners of ALGORITHMS on token prefixes."""
    return table("llm", "RECIPES") | bridge()


def bridge() -> dict[str, str]:
    return {key: f"bridge.{row}" for key, row in table("llm.bridge", "BRIDGE").items()}


def tokens(env: str) -> bool:
    """Whether a task is one of token policies, whose methods are recipes."""
    return env.startswith("llm/")


def methods(env: str) -> dict[str, str]:
    """The table in which `algo=` is looked up."""
    return recipes() if tokens(env) else algorithms()


def check_method(key: str, envs: Iterable[str]) -> None:
    """Raises UserError for a key that is no method of any of these tasks."""
    envs = list(envs)
    if any(key in methods(env) for env in envs):
        return
    if key in algorithms() and all(map(tokens, envs)):
        raise UserError(f"algo={key} is no recipe, which env={envs[0]} takes; see --list recipes.")
    if key in recipes() and not any(map(tokens, envs)):
        raise UserError(f"algo={key} is a recipe for token policies, which takes env=llm/<task>; see --list envs.")
    known = {name: row for env in envs for name, row in methods(env).items()}
    raise unknown("algo", key, known, {} if all(map(tokens, envs)) else synonyms())


def studies() -> dict[str, str]:
    """Every study and the layer whose `studies` has it."""
    return {key: layer for layer in ("algorithms", "llm") for key in table(f"{layer}.studies", "STUDIES")}


def synonyms() -> dict[str, str]:
    """Names of methods that are a learner with options, such as {"sac_n": "edac algo.diversity=0"}."""
    return table("algorithms", "SYNONYMS")


@dataclass(frozen=True)
class Option:
    """One field of a config dataclass, as written: `default` and `type` are source text."""

    name: str
    type: str
    default: str
    doc: str
    range: str = ""


@dataclass(frozen=True)
class Described:
    """A learner as its file tells it: class attributes (literals), options, the file's own docstring."""

    key: str
    path: Path
    doc: str
    attributes: dict[str, object]
    options: list[Option]


def describe(key: str, env: str = "") -> Described:
    """A row of ALGORITHMS; of BRIDGE, where env is one of tokens. Raises UserError when `key` stands in none."""
    layer, rows = ("llm", bridge()) if tokens(env) else ("algorithms", algorithms())
    if key not in rows:
        raise unknown("algo", key, rows, synonyms())
    module, name = rows[key].split(":")
    path = ROOT / layer / Path(*module.split(".")).with_suffix(".py")
    tree = parse(path)
    learner = _class(tree, name)
    attributes: dict[str, object] = {}
    for cls in reversed(_ancestry(path, learner)):
        attributes |= _literals(cls)
    config = next((ast.unparse(n.value) for n in learner.body if _assigns(n, "Config")), "Config")
    found = _find(path, config)
    return Described(key, path, ast.get_docstring(tree) or "", attributes, fields(*found) if found else [])


def fields(path: Path, cls: ast.ClassDef) -> list[Option]:
    """Options of a dataclass, those of its base classes first, the first base over the next; a later declaration
    replaces an earlier one."""
    options: dict[str, Option] = {}
    for base in reversed(cls.bases):
        found = _find(path, ast.unparse(base))
        if found:
            options |= {option.name: option for option in fields(*found)}
    body = cls.body
    for i, node in enumerate(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            follows = body[i + 1] if i + 1 < len(body) else None
            options[node.target.id] = _option(node, follows)
    return list(options.values())


def config_fields(module: str, name: str) -> list[Option]:
    """The options of dataclass `name` in `fenchel.<module>`."""
    path = (ROOT / Path(*module.split("."))).with_suffix(".py")
    return fields(path, _class(parse(path), name))


def _option(node: ast.AnnAssign, follows: ast.stmt | None) -> Option:
    assert isinstance(node.target, ast.Name)
    default, span = ast.unparse(node.value) if node.value else "required", ""
    if isinstance(node.value, ast.Call) and ast.unparse(node.value.func).endswith("field"):
        words = {word.arg: word.value for word in node.value.keywords}
        default = ast.unparse(words.get("default") or words.get("default_factory") or ast.Constant("required"))
        metadata = words.get("metadata")
        if isinstance(metadata, ast.Dict):
            pairs = {ast.unparse(k).strip("'"): v for k, v in zip(metadata.keys, metadata.values, strict=True) if k}
            span = ast.unparse(pairs["range"]) if "range" in pairs else ""
    doc = ""
    if isinstance(follows, ast.Expr) and isinstance(follows.value, ast.Constant):
        doc = " ".join(str(follows.value.value).split())
    return Option(node.target.id, ast.unparse(node.annotation), default, doc, span)


def find_class(path: Path, name: str) -> ast.ClassDef:
    return _class(parse(path), name)


def _class(tree: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _find(path: Path, name: str) -> tuple[Path, ast.ClassDef] | None:
    """The class `name` as seen from the file at `path`: its own, or imported from a module of Fenchel."""
    tree = parse(path)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fenchel."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    target = ROOT / Path(*str(node.module).split(".")[1:])
                    target = target / "__init__.py" if target.is_dir() else target.with_suffix(".py")
                    return _find(target, alias.name)
    return None


def _ancestry(path: Path, cls: ast.ClassDef) -> list[ast.ClassDef]:
    found = [f for base in cls.bases if (f := _find(path, ast.unparse(base)))]
    return [cls, *(ancestor for f in found for ancestor in _ancestry(*f))]


def _assigns(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)


def _literals(cls: ast.ClassDef) -> dict[str, object]:
    values: dict[str, object] = {}
    for node in cls.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                try:
                    values[target.id] = ast.literal_eval(node.value)
                except ValueError:  # not a literal: says nothing that could be shown without importing it
                    continue
    return values
