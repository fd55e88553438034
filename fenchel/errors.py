"""Errors that a user can act on. Imports nothing, so that every layer may use it.

`UserError` is raised for input that we refuse: its text is one sentence that names the key and what is valid.
The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class UserError(ValueError):
    """Refused input. `str(error)` is one sentence for the user."""


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """`" Did you mean 'iql'?"`, or an empty string when nothing is close."""
    close = get_close_matches(word, list(valid), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(key: str, value: str, valid: Iterable[str], synonyms: Mapping[str, str] | None = None) -> UserError:
    """The error for a name that stands in no table: `unknown("algo", "iqll", ALGORITHMS)`.

    synonyms: names of what is a valid one with options, such as {"sac_n": "edac algo.diversity=0"}.
    """
    names, synonyms = sorted(valid), synonyms or {}
    if value in synonyms:
        name, _, options = synonyms[value].partition(" ")
        return UserError(f"{key}={value} is {key}={name} with {options}.")
    hint = did_you_mean(value, [*names, *synonyms])
    return UserError(f"{key}={value} is unknown; valid are {', '.join(names)}.{hint}")
