"""Values of prefixes: tokens (R, B, L) -> (R, B, L), at each place the value of what stands before it.

So v[t] is a baseline for token t. With one PAD more than the sequence has, the column after its end holds the value of
the whole of it. Both kinds are networks to an optimiser, a target and a checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Self

from jaxtyping import Float
from torch import Tensor

from fenchel.algorithms.networks import MLP
from fenchel.llm.policies.policy import Hyper, Policy, Tokens
from fenchel.theory.rng import Streams


class Bodied:
    """A policy's network used for something else, with the face of a network."""

    def __init__(self, body: Policy):
        self.body, self.replicas = body, body.R
        self.flat, self.grad = body.flat, body.grad

    @cached_property
    def frozen(self) -> Self:
        return self._on(self.body.frozen)

    def target(self) -> Self:
        return self._on(self.body.target())

    def track(self, source: Self, tau: Hyper) -> None:
        self.body.track(source.body, tau)

    def state(self) -> dict[str, Tensor]:
        return self.body.state()

    def _on(self, body: Policy) -> Self:
        other = copy.copy(self)
        other.__dict__.pop("frozen", None)
        other.body, other.flat, other.grad = body, body.flat, body.grad
        return other


class PrefixValue(Bodied):
    """Values with a body of their own: a policy's network whose head has `outputs=1` number per place."""

    def __call__(self, tokens: Tokens) -> Float[Tensor, "R B L"]:
        return self.body.logits(tokens)[..., 0]


class ValueHead(MLP):
    """A small network on the features of a policy that others train; none of its gradient goes there."""

    def __init__(self, rng: Streams, trunk: Policy, *, name: str = "value", hidden: Sequence[int] = ()):
        self.trunk = trunk.frozen
        super().__init__(rng, name, trunk.width, 1, hidden, dtype=trunk.flat.dtype)

    def __call__(self, tokens: Tokens) -> Float[Tensor, "R B L"]:
        return self.trunk.read(tokens, self._values)

    def _values(self, code: Tensor) -> Tensor:
        rows = self.trunk.hidden_of(code).flatten(1, 2)
        return super().__call__(rows).squeeze(-1).unflatten(1, code.shape[1:3])
