"""The number that a written solution ends with, exactly, from text of which only a bounded part is read."""

from __future__ import annotations

import re
from fractions import Fraction

MARK = "####"  # GSM8K's: the answer stands behind it
MAX_TEXT, MAX_DIGITS = 4096, 32
# 72, -3, 1,234, 0.25, .5, 3/4; a minus behind a digit or a bracket is an operator; separators of thousands stand where
# they should; every repetition is bounded, so that matching takes linear time
WHOLE = rf"[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,10}}|[0-9]{{1,{MAX_DIGITS}}}"
PART = rf"[0-9]{{1,{MAX_DIGITS}}}"
NUMBER = re.compile(rf"(?:(?<![0-9)])-)?(?<![0-9.])(?:(?:{WHOLE})(?:\.{PART}|/{PART})?|\.{PART})(?![0-9])")


def final_number(text: str) -> Fraction | None:
    """The number behind the last `####` if there is one, else the last number of the text; None when there is none.

    Only the last MAX_TEXT characters are read, and a number of more than MAX_DIGITS digits is none.
    """
    text = text[-MAX_TEXT:]
    _, mark, behind = text.rpartition(MARK)
    found = NUMBER.findall(behind if mark else text)
    if not found:
        return None
    return exact(found[0] if mark else found[-1])


def exact(number: str) -> Fraction | None:
    """`1,234.5` -> 2469/2; None for what is no number or has more than MAX_DIGITS digits."""
    plain = number.strip().replace("$", "").replace(",", "")
    if sum(symbol.isdigit() for symbol in plain) > MAX_DIGITS or not NUMBER.fullmatch(plain):
        return None
    top, _, bottom = plain.partition("/")
    if bottom:
        return Fraction(top) / int(bottom) if int(bottom) else None
    return Fraction(plain)
