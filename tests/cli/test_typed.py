"""Values from a line -> a typed dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fenchel.cli import typed
from fenchel.errors import UserError


@dataclass
class Options:
    steps: int = 10
    rate: float | list[float] = field(default=0.5, metadata={"range": (0, 1)})
    flag: bool = False
    name: str | None = None
    kind: Literal["a", "b", "true"] = "a"
    hidden: tuple[int, ...] = (1,)
    pair: tuple[int, float] = (1, 2.0)
    many: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("steps", 1e5, 100_000),
        ("steps", 7, 7),
        ("rate", 1, 1.0),
        ("rate", [0, 0.5], [0.0, 0.5]),
        ("flag", True, True),
        ("name", None, None),
        ("name", 3, "3"),
        ("kind", "b", "b"),
        ("kind", True, "true"),
        ("hidden", [64, 64.0], (64, 64)),
        ("hidden", [], ()),
        ("pair", [1, 2], (1, 2.0)),
        ("many", [1, 2], [1, 2]),
    ],
)
def test_converted(key, value, expected):
    found = getattr(typed.build(Options, {key: value}), key)
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(expected, list | tuple):
        assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 1.5), ("steps", True), ("steps", "1"), ("steps", None), ("steps", [1]), ("steps", float("inf")),
        ("steps", 2.0**63), ("rate", True), ("rate", "x"), ("rate", 1.01), ("rate", -0.01), ("rate", [0.5, 2]),
        ("rate", []), ("rate", [[0.5]]), ("rate", float("nan")), ("rate", {}), ("flag", 1), ("flag", "true"),
        ("name", [1]), ("name", True), ("kind", "c"), ("kind", 1), ("kind", False), ("hidden", 64), ("hidden", [1.5]),
        ("pair", [1]), ("pair", [1, 2, 3]), ("many", []), ("nope", 1),
    ],
)  # fmt: skip
def test_refused_by_key(key, value):
    with pytest.raises(UserError, match=rf"^algo\.{key}.*\.( Did you mean .*)?$"):
        typed.build(Options, {key: value}, "algo.")


@given(st.floats() | st.integers() | st.text() | st.none() | st.booleans() | st.lists(st.floats()))
def test_a_range_is_never_left(value):
    try:
        found = typed.build(Options, {"rate": value}).rate
    except UserError:
        return
    assert all(0 <= number <= 1 for number in (found if isinstance(found, list) else [found]))
