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
    "bestdice": "ope.bestdice:BestDICE",
    "cql": "offline.cql:CQL",
    "demodice": "imitation.demodice:DemoDICE",
    "dualdice": "ope.dualdice:DualDICE",
    "edac": "offline.edac:EDAC",
    "f_dvl": "offline.f_dvl:FDVL",
    "fqe": "ope.fqe:FQE",
    "iq_learn": "imitation.iq_learn:IQLearn",
    "iql": "offline.iql:IQL",
    "ivl": "offline.ivl:IVL",
    "lobsdice": "imitation.lobsdice:LobsDICE",
    "odice": "offline.odice:ODICE",
    "optidice": "offline.optidice:OptiDICE",
    "ppo": "online.ppo:PPO",
    "rebrac": "offline.rebrac:ReBRAC",
    "recoil": "imitation.recoil:ReCOIL",
    "sac": "online.sac:SAC",
    "smodice": "imitation.smodice:SMODICE",
    "td3_bc": "offline.td3_bc:TD3BC",
}

# the name of a method that is a learner with options -> that learner and those options
SYNONYMS: dict[str, str] = {
    "dice_semi_grad": "odice algo.gradient=semi",
    "dice_true_grad": "odice algo.gradient=true",
    "eql": "f_dvl algo.divergence=kl algo.extraction=w",
    "sac_n": "edac algo.diversity=0",
    "sql": "f_dvl algo.divergence=chi2 algo.extraction=w",
    "xql": "f_dvl algo.divergence=kl algo.extraction=awr",
}


def get_algorithm(key: str) -> type[Learner]:
    """The learner's class; only its own module is imported. Raises UserError for a key that stands in no row."""
    if key not in ALGORITHMS:
        raise unknown("algo", key, ALGORITHMS, SYNONYMS)
    module, name = ALGORITHMS[key].split(":")
    return getattr(import_module(f"{__name__}.{module}"), name)
