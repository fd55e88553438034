"""A recipe's options for the command line: its parts' hyper-parameters, flat, under names unique in the recipe."""

from __future__ import annotations

from copy import copy
from dataclasses import Field, field, fields, make_dataclass, replace
from functools import cache, partial
from typing import Any, TypeVar, get_type_hints

from fenchel.errors import UserError, did_you_mean
from fenchel.llm.parts.part import Part
from fenchel.llm.recipe import Method, flat

R = TypeVar("R", bound=Method)


@cache
def hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def owners(recipe: Method) -> dict[str, tuple[Part, Field]]:
    """option -> (the part that has it, its field). Raises UserError where two parts want one name."""
    found: dict[str, tuple[Part, Field]] = {}
    for part in flat(recipe.parts):
        for f in fields(part):
            if f.name in found:
                raise UserError(
                    f"{f.name} is an option of both {type(found[f.name][0]).__name__} and {type(part).__name__}."
                )
            found[f.name] = part, f
    return found


def options(recipe: Method) -> Any:
    """An instance of a dataclass with one field per option; defaults are the recipe's own values."""
    rows = []
    for name, (part, f) in owners(recipe).items():
        value = getattr(part, name)
        given: Any = field(default_factory=partial(copy, value), metadata=dict(f.metadata))
        rows.append((name, hints(type(part))[name], given))  # type: ignore[arg-type]
    return make_dataclass("Options", rows)()


def with_options(recipe: R, **values: Any) -> R:
    """The recipe with these options changed. Raises UserError for a name that none of its parts has."""
    known = owners(recipe)
    for name in values:
        if name not in known:
            valid = ", ".join(sorted(known)) or "none"
            raise UserError(f"{name} is not an option; valid are {valid}.{did_you_mean(name, known)}")

    def changed(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(changed(p) for p in part)
        return replace(part, **{n: v for n, v in values.items() if n in {f.name for f in fields(part)}})

    return replace(recipe, **{slot: changed(part) for slot, part in recipe.parts.items()})
