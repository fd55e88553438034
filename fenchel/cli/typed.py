"""Plain values -> a dataclass, by its own type hints. The error is one sentence that names the key and what is valid.

Understands bool, int (`1e5` too), float, str, None, Literal, list, tuple and unions of them. A field declared
`float | list[float]` takes a list: one value per replica. `metadata={"range": (low, high)}` bounds numbers.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fenchel.errors import UserError, did_you_mean

T = TypeVar("T")
NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
PLURALS = {bool: "truth values", int: "whole numbers", float: "numbers", str: "names"}


class _Refused(Exception):
    """This hint does not accept that value."""


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """`cls(**values)` with every value checked and converted; `prefix` ("algo.") stands before keys in messages."""
    known = {field.name: field for field in fields(cls) if field.init}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise UserError(f"{prefix}{name} is not an option; valid are {', '.join(sorted(known))}.{hint}")
    missing = [n for n, f in known.items() if n not in values and f.default is f.default_factory is MISSING]
    if missing:
        raise UserError(f"{prefix}{missing[0]} has no default and must be given.")
    hints = get_type_hints(cls)
    return cls(**{name: check(f"{prefix}{name}", value, hints[name], known[name]) for name, value in values.items()})


def check(key: str, value: Any, hint: Any, field: Field | None = None) -> Any:
    """`value` as `hint` wants it, within the field's declared range."""
    try:
        converted = _convert(value, hint)
    except _Refused:
        raise _complaint(key, value, hint) from None
    span = field.metadata.get("range") if field else None
    numbers = converted if isinstance(converted, list | tuple) else [converted]
    for number in numbers if span else ():
        low, high = (-math.inf if span[0] is None else span[0]), (math.inf if span[1] is None else span[1])
        if isinstance(number, int | float) and not low <= number <= high:
            raise UserError(f"{key}={show(value)} is out of range; valid is {_span(low, high)}.")
    return converted


def show(value: Any) -> str:
    """A value as the command line writes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(show(v) for v in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _span(low: float, high: float) -> str:
    if math.isinf(high):
        return f"{low:g} or more"
    return f"{high:g} or less" if math.isinf(low) else f"a number from {low:g} to {high:g}"


def _complaint(key: str, value: Any, hint: Any) -> UserError:
    options = [hint] if get_origin(hint) not in (Union, types.UnionType) else list(get_args(hint))
    choices = [choice for option in options if get_origin(option) is Literal for choice in get_args(option)]
    if choices and isinstance(value, str):
        names = [str(c) for c in choices]
        return UserError(f"{key}={value} is unknown; valid are {', '.join(names)}.{did_you_mean(value, names)}")
    sequence = any(get_origin(option) in (list, tuple) or option in (list, tuple) for option in options)
    if isinstance(value, list) and not sequence:
        return UserError(
            f"{key}={show(value)} is a list, but {key} cannot differ between replicas; valid is {describe(hint)}, "
            "and -m runs one job per value."
        )
    return UserError(f"{key}={show(value)} is not valid; valid is {describe(hint)}.")


def describe(hint: Any) -> str:
    """A hint in words: `float | list[float]` -> "a number or a list of numbers"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(str(arg) for arg in args)}"
    if origin in (list, tuple):
        inner = args[0] if args else Any
        return f"a list of {PLURALS.get(inner, 'values')}"
    return NOUNS.get(hint, getattr(hint, "__name__", str(hint)))


def _convert(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first(value, args)
    if origin is Literal:
        # a bare true or null is no text in YAML, but may be the name of a choice
        for given in (value, show(value)) if value is None or isinstance(value, bool) else (value,):
            if any(given == arg and type(given) is type(arg) for arg in args):
                return given
        raise _Refused
    if origin in (list, tuple) or hint in (list, tuple):
        return _sequence(value, origin or hint, args)
    return _scalar(value, hint)


def _first(value: Any, hints: tuple[Any, ...]) -> Any:
    for hint in hints:
        try:
            return _convert(value, hint)
        except _Refused:
            continue
    raise _Refused


def _sequence(value: Any, kind: type, args: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        raise _Refused
    if kind is list and not value:  # an empty sweep has no replicas
        raise _Refused
    if kind is tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            raise _Refused
        return tuple(_convert(item, arg) for item, arg in zip(value, args, strict=True))
    return kind(_convert(item, args[0] if args else Any) for item in value)


def _scalar(value: Any, hint: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and number and math.isfinite(value) and value == int(value) and abs(value) < 2**63:
        return int(value)
    if hint is float and number and math.isfinite(value):
        return float(value)
    if hint is str and (isinstance(value, str) or number):
        return str(value)
    if hint is type(None) and value is None:
        return None
    raise _Refused
