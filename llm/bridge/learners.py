"""f-DVL, IQL, IVL and ODICE on token prefixes. Objectives, papers and departures stand with `fenchel.algorithms`.

`update` is the algorithm's own; what `OnPrefixes` changes is how a state is read and where the data come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fenchel.algorithms.offline.f_dvl import FDVL, FDVLConfig
from fenchel.algorithms.offline.iql import IQL, IQLConfig
from fenchel.algorithms.offline.ivl import IVL, IVLConfig
from fenchel.algorithms.offline.odice import ODICE, ODICEConfig
from fenchel.llm.bridge.heads import Body
from fenchel.llm.bridge.on_prefixes import OnPrefixes


@dataclass
class TokenFDVLConfig(Body, FDVLConfig):
    """Options of f-DVL and of the networks."""

    temperature: float | list[float] = field(default=0.1, metadata={"range": (0, None)})
    """T, the weight of the divergence, in units of return; a right answer earns 1"""


@dataclass
class TokenIQLConfig(Body, IQLConfig):
    """Options of IQL and of the networks."""


@dataclass
class TokenIVLConfig(Body, IVLConfig):
    """Options of IVL and of the networks."""


@dataclass
class TokenODICEConfig(Body, ODICEConfig):
    """Options of ODICE and of the networks."""

    temperature: float | list[float] = field(default=0.1, metadata={"range": (0, None)})
    """T, the weight of the divergence, in units of reward: rewards are divided by it; a right answer earns 1"""


class TokenFDVL(OnPrefixes, FDVL):
    Config = TokenFDVLConfig


class TokenIQL(OnPrefixes, IQL):
    Config = TokenIQLConfig


class TokenIVL(OnPrefixes, IVL):
    Config = TokenIVLConfig


class TokenODICE(OnPrefixes, ODICE):
    Config = TokenODICEConfig
