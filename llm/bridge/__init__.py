"""Offline learners on token prefixes: the learners of `fenchel.algorithms` with the networks of `fenchel.llm`.

Their `update` is inherited, so that it is the same function, and so are the objectives that it calls; what is theirs is
how a state is read. A state is a prefix, an action its next token, and the data are scored sequences.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fenchel.errors import unknown

if TYPE_CHECKING:
    from fenchel.algorithms.learner import Learner

# key -> "module:Class"; a key that is also one of ALGORITHMS is the same objective
BRIDGE = {
    "f_dvl": "learners:TokenFDVL",
    "f_dvl_lag": "lagrangian:TokenFDVLLag",
    "iql": "learners:TokenIQL",
    "ivl": "learners:TokenIVL",
    "odice": "learners:TokenODICE",
}


def get_bridge(key: str) -> type[Learner]:
    """Raises UserError for a key that stands in no row."""
    if key not in BRIDGE:
        raise unknown("algo", key, BRIDGE)
    module, name = BRIDGE[key].split(":")
    return getattr(import_module(f"{__name__}.{module}"), name)
