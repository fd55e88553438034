"""Learners: one algorithm, one file, one row of ALGORITHMS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fenchel.errors import unknown

if TYPE_CHECKING:
    from fenchel.algorithms.learner import Learner

# key -> "module:Class"
ALGORITHMS: dict[str, str] = {
    "awac": "offline.awac:AWAC",
    "bc": "offline.bc:BC",
    "cql": "offline.cql:CQL",
    "f_dvl": "offline.f_dvl:FDVL",
    "iql": "offline.iql:IQL",
    "odice": "offline.odice:ODICE",
    "ppo": "online.ppo:PPO",
    "rebrac": "offline.rebrac:ReBRAC",
    "sac": "online.sac:SAC",
    "td3_bc": "offline.td3_bc:TD3BC",
}


def get_algorithm(key: str) -> type[Learner]:
    """The learner's class; only its own module is imported. Raises UserError for a key that stands in no row."""
    if key not in ALGORITHMS:
        raise unknown("algo", key, ALGORITHMS)
    module, name = ALGORITHMS[key].split(":")
    return getattr(import_module(f"{__name__}.{module}"), name)
