"""`--list recipes` and `--explain algo=RECIPE env=llm/TASK`: recipes as their files tell them, and their options."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from fenchel.cli import source, typed
from fenchel.cli.listing import columns, option_row

RECIPE_CLASSES = {"Recipe": "policy-gradient", "PreferenceRecipe": "preference"}


def listed() -> str:
    """Key, family and title of every recipe, without importing one."""
    rows = [(key, told(key)) for key in source.recipes()]
    return columns([(key, str(about.get("family", "")), str(about.get("title", ""))) for key, about in rows])


def told(key: str) -> dict[str, Any]:
    """What the literal `NAME = Recipe(title=..., ...)` of this key says; of `replace(OTHER, ...)`, over the other's. Of
    a learner on token prefixes, its class attributes."""
    if key in source.bridge():
        about = source.describe(key, "llm/").attributes
        return {"title": about["TITLE"], "family": about["FAMILY"], "paper": about["PAPER"]}
    module, name = source.recipes()[key].split(":")
    return _told(source.ROOT / "llm" / Path(*module.split(".")).with_suffix(".py"), name)


def _told(path: Path, name: str) -> dict[str, Any]:
    values = (node for node in source.parse(path).body if isinstance(node, ast.Assign))
    call = next(n.value for n in values if any(isinstance(t, ast.Name) and t.id == name for t in n.targets))
    assert isinstance(call, ast.Call)
    function = ast.unparse(call.func)
    first = _told(path, ast.unparse(call.args[0])) if function == "replace" else {"family": RECIPE_CLASSES[function]}
    for word in call.keywords:
        if word.arg and isinstance(word.value, ast.Constant):
            first[word.arg] = word.value.value
    return first


def explained(key: str, env: str) -> str:
    """What a recipe is made of, and every option of it, of its training and of the task."""
    text = _bridge(key) if key in source.bridge() else _recipe(key)
    return "\n".join([text, *_task(env)]) if source.tokens(env) else text


def _bridge(key: str) -> str:
    about = source.describe(key, "llm/")
    lines = [f"algo={key}, on token prefixes: {about.attributes['TITLE']}", "", about.doc, ""]
    if key in source.algorithms():
        lines += [source.describe(key).doc, ""]
    lines += [f"paper: {about.attributes['PAPER']} in docs/papers.toml"] if about.attributes["PAPER"] else []
    lines.append("learns from: answers of the warm start")
    return "\n".join([*lines, "", "options:", columns([option_row("algo.", option) for option in about.options])])


def _recipe(key: str) -> str:
    from fenchel.llm import get_recipe
    from fenchel.llm.options import hints, owners

    recipe = get_recipe(key)
    lines = [f"algo={key}: {recipe.title}", "", recipe.formula, ""]
    if recipe.paper:
        lines.append(f"paper: {recipe.paper} in docs/papers.toml")
    if recipe.departures:
        lines.append(f"departures: {recipe.departures}")
    parts = [
        (slot, p) for slot, value in recipe.parts.items() for p in (value if isinstance(value, tuple) else (value,))
    ]
    about = [(f"  {slot}", type(part).__name__, (type(part).__doc__ or "").split("\n")[0]) for slot, part in parts]
    lines += ["", "parts:", columns(about)]
    own = [_option(name, part, hints(type(part))[name]) for name, (part, _) in owners(recipe).items()]
    lines += ["", "options:", columns([option_row("algo.", option) for option in own])] if own else []
    shared = source.config_fields("llm.config", "TokenConfig")
    lines += ["", "options of every recipe:", columns([option_row("algo.", option) for option in shared])]
    return "\n".join(lines)


def _task(env: str) -> list[str]:
    from fenchel.llm import tasks

    cls = tasks.get_task(env)
    low, default, high = cls.LEVELS
    lines = ["", f"env={env}: {cls.TITLE}, difficulty {low} to {high}, by default {default}", ""]
    lines += [" ".join((cls.__doc__ or "").split()), ""]
    return lines + [f"  task.{name}={typed.show(value)}" for name, value in tasks.options(env).items()]


def _option(name: str, part: Any, hint: Any) -> source.Option:
    """A part's field as its file documents it, with the recipe's own default."""
    path = source.ROOT / Path(*type(part).__module__.split(".")[1:]).with_suffix(".py")
    fields = source.fields(path, source.find_class(path, type(part).__name__))
    told = next(option for option in fields if option.name == name)
    value = getattr(part, name)
    default = repr(list(value) if isinstance(value, tuple) else value)
    kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return source.Option(name, kind, default, told.doc, told.range)
