"""Exact arithmetic on text that a model wrote: parsed into Python's syntax tree and walked, never executed.

Allowed are whole numbers, the binary + - * / and brackets; anything else, above all `**`, gives None. The text, the
number of nodes and the size of every intermediate value are bounded, the first two before anything is computed.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_TEXT, MAX_NODES, MAX_BITS = 256, 128, 128

OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
# `01` and `1_000` are written differently from what they mean, and `**` and `//` are other operators
PLAIN = re.compile(r"[0-9+\-*/() ]+")
REFUSED = re.compile(r"\*\s*\*|/\s*/|\b0[0-9]|[0-9] +[0-9]")


class Value(NamedTuple):
    value: Fraction
    numbers: tuple[int, ...]  # the literals, from left to right


class _Refused(Exception):
    """Not an expression of ours, or too large a one."""


@lru_cache(maxsize=1 << 14)
def evaluate(text: str) -> Value | None:
    """The value of an expression and the numbers that it uses; None for whatever is not one."""
    if len(text) > MAX_TEXT or not PLAIN.fullmatch(text) or REFUSED.search(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            return None
        numbers: list[int] = []
        return Value(_value(tree.body, numbers), tuple(numbers))
    except (_Refused, SyntaxError, ValueError, RecursionError, MemoryError, ZeroDivisionError):
        return None


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return _bounded(Fraction(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        return _bounded(OPERATORS[type(node.op)](left, right))
    raise _Refused


def _bounded(value: Fraction) -> Fraction:
    """Two operands of at most MAX_BITS each give a result of at most 2 MAX_BITS + 1, which is small enough to test."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _Refused
    return value
