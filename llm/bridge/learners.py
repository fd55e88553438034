"""f-DVL, IQL, IVL and ODICE on token prefixes. Objectives, papers and departures stand with `fenchel.algorithms`.

`setup` is the algorithm's own, which checks its options, and then gives it networks of prefixes for those of vectors;
`update` is inherited. Where two members are two networks there, here they are two heads on one body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fenchel.algorithms.networks import Adam
from fenchel.algorithms.offline.f_dvl import FDVL, FDVLConfig
from fenchel.algorithms.offline.iql import IQL, IQLConfig
from fenchel.algorithms.offline.ivl import IVL, IVLConfig
from fenchel.algorithms.offline.odice import ODICE, ODICEConfig
from fenchel.llm.bridge.heads import Body, PrefixCritics, PrefixPolicy, PrefixValues, body


@dataclass
class TokenFDVLConfig(Body, FDVLConfig):
    """Options of f-DVL and of the networks."""


@dataclass
class TokenIQLConfig(Body, IQLConfig):
    """Options of IQL and of the networks."""


@dataclass
class TokenIVLConfig(Body, IVLConfig):
    """Options of IVL and of the networks."""


@dataclass
class TokenODICEConfig(Body, ODICEConfig):
    """Options of ODICE and of the networks."""


class TokenFDVL(FDVL):
    Config = TokenFDVLConfig

    def setup(self) -> None:
        super().setup()
        read_prefixes(self)


class TokenIQL(IQL):
    Config = TokenIQLConfig

    def setup(self) -> None:
        super().setup()
        read_prefixes(self)


class TokenIVL(IVL):
    Config = TokenIVLConfig

    def setup(self) -> None:
        super().setup()
        read_prefixes(self)


class TokenODICE(ODICE):
    Config = TokenODICEConfig

    def setup(self) -> None:
        super().setup()
        read_prefixes(self)


def read_prefixes(learner: Any) -> None:
    """Give a learner networks of prefixes in the place of the networks of vectors that its `setup` has made."""
    config = learner.config
    learner.policy = PrefixPolicy(body(learner, "policy"))
    learner.value = PrefixValues(learner, members=2 if learner.value.ensemble else None)
    networks = [learner.policy, learner.value]
    if hasattr(learner, "critic"):
        learner.critic = PrefixCritics(learner, bins=learner.critic.bins)
        networks.append(learner.critic)
    learner.target = networks[-1].target()
    if hasattr(learner, "optimiser"):
        learner.optimiser = Adam(*networks, lr=config.lr, clip=config.clip_grad)
    else:
        learner.policy_optimiser = Adam(learner.policy, lr=config.lr, clip=config.clip_grad)
        learner.value_optimiser = Adam(learner.value, lr=config.lr, clip=config.clip_grad)
