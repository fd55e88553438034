"""What the networks of a learner stand for, of prefixes: a policy, implicit values, critics. One body each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from fenchel.algorithms.networks import Critic
from fenchel.llm.bridge.prefixes import Prefix
from fenchel.llm.config import Shared
from fenchel.llm.policies import make_policy
from fenchel.llm.policies.policy import Policy
from fenchel.llm.policies.value import Bodied

if TYPE_CHECKING:
    from fenchel.algorithms.learner import Learner
    from fenchel.algorithms.networks.bins import Bins

Values = Float[Tensor, "R *E M"]


@dataclass
class Body(Shared):
    """Options of a learner on prefixes, beside those of its algorithm."""

    batch_size: int = field(default=256, metadata={"range": (1, None)})
    """transitions per update and replica"""
    gamma: float | list[float] = field(default=1.0, metadata={"range": (0, 1)})
    """discount factor, per token"""
    hidden: tuple[int, ...] = ()
    """of networks of vectors, which are not used"""
    layer_norm: bool = False
    """of networks of vectors, which are not used"""
    policy: Literal["transformer", "tabular"] = "transformer"
    """what reads prefixes: a transformer per network, or a table of all of them"""
    places: int = field(default=4, metadata={"range": (1, None)})
    """transitions drawn from each sequence of a batch"""
    data_prompts: int = field(default=1024, metadata={"range": (1, None)})
    """training prompts that the data have answers to"""
    data_answers: int = field(default=8, metadata={"range": (1, None)})
    """the warm start's answers to each of them"""


def body(learner: Learner, name: str, outputs: int | None = None) -> Policy:
    """A network of prefixes by the learner's options; `outputs` numbers per place, or logits."""
    config, spec = learner.config, learner.spec
    sizes = {} if config.policy == "tabular" else {k: getattr(config, k) for k in ("width", "layers", "heads")}
    return make_policy(
        config.policy,
        learner.rng,
        vocabulary=spec.action.n,
        context=spec.obs_dim,
        eos=getattr(spec, "eos", None),
        tree=getattr(spec, "tree", None),
        prompts=getattr(spec, "prompts", ((),)),
        name=name,
        outputs=outputs,
        dtype=learner.dtype,
        **sizes,
    )


def rows(body: Policy, obs: Prefix) -> Float[Tensor, "R M outputs"]:
    return body.head(body.at(*obs))


class PrefixPolicy(Bodied):
    """`body` is the policy itself, to sample from."""

    NOISE = "uniform"

    def log_prob(self, obs: Prefix, action: Int[Tensor, "R M"]) -> Float[Tensor, "R M"]:
        return rows(self.body, obs).log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)


class PrefixValues(Bodied):
    """V(s): (R, M), or (R, E, M) of `members`, heads on one body."""

    def __init__(self, learner: Learner, name: str = "value", members: int | None = None):
        super().__init__(body(learner, name, members or 1))
        self.members = members

    def __call__(self, obs: Prefix) -> Values:
        values = rows(self.body, obs)
        return values.transpose(1, 2) if self.members else values.squeeze(-1)


class PrefixCritics(Bodied):
    """Q(s, a) of E heads on one body, each with a number (or a law over `bins`) for every token."""

    decode, error, pick = Critic.decode, Critic.error, staticmethod(Critic.pick)

    def __init__(self, learner: Learner, name: str = "critic", members: int = 2, bins: Bins | None = None):
        self.shape, self.bins = (members, learner.spec.action.n, *([bins.count] if bins else [])), bins
        super().__init__(body(learner, name, math.prod(self.shape)))

    def __call__(self, batch: dict[str, Any]) -> Float[Tensor, "R E M"]:
        """Of the batch's own tokens."""
        return self.decode(self.raw(batch))

    def raw(self, batch: dict[str, Any]) -> Float[Tensor, "R E M ..."]:
        table = rows(self.body, batch["obs"]).unflatten(-1, self.shape).transpose(1, 2)
        return self.pick(table, batch["action"])
