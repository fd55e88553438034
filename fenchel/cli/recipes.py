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
    """What the literal `NAME = Recipe(title=..., ...)` of this key says; of `replace(OTHER, ...)`, over the other's."""
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
    if source.tokens(env):
        from fenchel.llm import tasks

        cls = tasks.get_task(env)
        low, default, high = cls.LEVELS
        lines += ["", f"env={env}: {cls.TITLE}, difficulty {low} to {high}, by default {default}", ""]
        lines += [" ".join((cls.__doc__ or "").split()), ""]
        lines += [f"  task.{name}={typed.show(value)}" for name, value in tasks.options(env).items()]
    return "\n".join(lines)


def _option(name: str, part: Any, hint: Any) -> source.Option:
    """A part's field as its file documents it, with the recipe's own default."""
    path = source.ROOT / Path(*type(part).__module__.split(".")[1:]).with_suffix(".py")
    fields = source.fields(path, source.find_class(path, type(part).__name__))
    told = next(option for option in fields if option.name == name)
    value = getattr(part, name)
    default = repr(list(value) if isinstance(value, tuple) else value)
    kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return source.Option(name, kind, default, told.doc, told.range)
