"""Finite games as batched tensors: matrix games, zero-sum Markov games, preference games.

MatrixGame      payoffs (..., N, A_1, ..., A_N): payoffs[..., i, a_1, ..., a_N] is what player i gets
MarkovGame      P (..., S, A, B, S), r (..., S, A, B): the row player gets r, the column player -r
PreferenceGame  P (..., Y, Y): P[y, z] is the probability that y is preferred to z
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TOLERANCE, TabularMDP, validate_pairs, validate_start


def _tolerance(t: Tensor) -> float:
    return TOLERANCE if t.dtype == torch.float64 else 1e-5


@dataclass(frozen=True, eq=False)
class MatrixGame:
    """A normal-form game of N players; batch dimensions lead."""

    payoffs: Tensor
    num_players: int = 2

    def __post_init__(self) -> None:
        N, shape = self.num_players, self.payoffs.shape
        if N < 1 or len(shape) < N + 1 or shape[-N - 1] != N:
            raise UserError(f"payoffs must be (..., N, A_1, ..., A_N) with N = {N} players, not {tuple(shape)}.")
        if not torch.isfinite(self.payoffs).all():
            raise UserError(f"payoffs are not finite at {torch.nonzero(~torch.isfinite(self.payoffs))[0].tolist()}.")

    @classmethod
    def zero_sum(cls, payoff: Float[Tensor, "*b m n"]) -> MatrixGame:
        """The row player gets `payoff`, the column player loses it."""
        return cls(torch.stack([payoff, -payoff], -3))

    @classmethod
    def bimatrix(cls, row: Float[Tensor, "*b m n"], column: Float[Tensor, "*b m n"]) -> MatrixGame:
        return cls(torch.stack([row, column], -3))

    @property
    def num_actions(self) -> tuple[int, ...]:
        return tuple(self.payoffs.shape[-self.num_players :])

    def value(self, *policies: Float[Tensor, "*b a"]) -> Float[Tensor, "*b N"]:
        """Expected payoffs of all players under independent policies, one per player."""
        answer = self.payoffs
        for policy in reversed(policies):
            shape = policy.shape[:-1] + (1,) * (answer.ndim - policy.ndim) + policy.shape[-1:]
            answer = (answer * policy.view(shape)).sum(-1)
        return answer

    def action_values(self, player: int, *policies: Float[Tensor, "*b a"]) -> Float[Tensor, "*b a"]:
        """(..., A_player): what each own action gives against the others' policies."""
        actions = torch.eye(self.num_actions[player], dtype=self.payoffs.dtype, device=self.payoffs.device)
        columns = []
        for row in actions:
            mixed = [row.expand_as(p) if i == player else p for i, p in enumerate(policies)]
            columns.append(self.value(*mixed)[..., player])
        return torch.stack(columns, -1)

    def nash_gap(self, *policies: Float[Tensor, "*b a"]) -> Float[Tensor, "*b N"]:
        """What each player gains by its best reply; all zero at a Nash equilibrium."""
        best = [self.action_values(i, *policies).amax(-1) for i in range(self.num_players)]
        return torch.stack(best, -1) - self.value(*policies)


@dataclass(frozen=True, eq=False)
class MarkovGame:
    """A zero-sum Markov game. discount: float, or (..., S, A, B) with 0 where the game ends."""

    P: Float[Tensor, "*b S A B S"]
    r: Float[Tensor, "*b S A B"]
    mu0: Float[Tensor, "*b S"]
    discount: Tensor

    def __init__(self, P, r, mu0, discount):
        if not torch.is_tensor(discount) or discount.ndim == 0:
            discount = torch.as_tensor(discount, dtype=P.dtype, device=P.device).expand(P.shape[:-1])
        for name, value in dict(P=P, r=r, mu0=mu0, discount=discount).items():
            object.__setattr__(self, name, value)
        self.validate()

    @property
    def num_states(self) -> int:
        return self.P.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        return self.P.shape[:-4]

    def validate(self) -> None:
        """Raise `UserError` naming the state and the joint action (row * B + column) of the first fault."""
        P, shape = self.P, self.P.shape
        if P.ndim < 4 or shape[-1] != shape[-4]:
            raise UserError(f"P must be (..., S, A, B, S), not {tuple(shape)}.")
        if self.r.shape != shape[:-1] or self.mu0.shape != shape[:-4] + shape[-1:]:
            raise UserError(
                f"r must be (..., S, A, B) and mu0 (..., S) to match P, not {tuple(self.r.shape)} and "
                f"{tuple(self.mu0.shape)}."
            )
        if self.discount.shape != shape[:-1]:
            raise UserError(f"discount must be () or (..., S, A, B), not {tuple(self.discount.shape)}.")
        joint = self.as_mdp()
        validate_pairs(joint.P, joint.r, joint.discount, joint.mask)
        validate_start(self.mu0)

    def as_mdp(self) -> TabularMDP:
        """The MDP of a single player that chooses both actions; joint action a * B + b."""
        return TabularMDP(
            self.P.flatten(-3, -2), self.r.flatten(-2), self.mu0, self.discount.flatten(-2), check=False
        )  # fmt: skip

    @property
    def kernel(self) -> Float[Tensor, "*b S A B S"]:
        """discount * P."""
        return self.discount[..., None] * self.P

    def value(self, row: Float[Tensor, "*b S A"], column: Float[Tensor, "*b S B"]) -> Float[Tensor, "*b S"]:
        """V of a pair of stationary policies, for the row player."""
        P = torch.einsum("...sa,...sb,...sabt->...st", row, column, self.kernel)
        r = torch.einsum("...sa,...sb,...sab->...s", row, column, self.r)
        eye = torch.eye(self.num_states, dtype=P.dtype, device=P.device)
        return torch.linalg.solve(eye - P, r[..., None])[..., 0]


@dataclass(frozen=True, eq=False)
class PreferenceGame:
    """Symmetric: P + P' = 1 and 1/2 on the diagonal; one matrix per prompt along the batch dimensions."""

    P: Float[Tensor, "*b Y Y"]

    def __post_init__(self) -> None:
        P = self.P
        if P.ndim < 2 or P.shape[-1] != P.shape[-2]:
            raise UserError(f"preference must be (..., Y, Y), not {tuple(P.shape)}.")
        bad = ~((P >= 0) & (P <= 1))
        if bad.any():
            *_, i, j = torch.nonzero(bad)[0].tolist()
            raise UserError(f"preference must lie in [0, 1]; it does not at ({i}, {j}).")
        off = (P + P.mT - 1).abs() > _tolerance(P)
        if off.any():
            *_, i, j = torch.nonzero(off)[0].tolist()
            raise UserError(f"preference must satisfy P[i, j] + P[j, i] = 1; it does not at ({i}, {j}).")

    @classmethod
    def bradley_terry(cls, reward: Float[Tensor, "*b Y"]) -> PreferenceGame:
        """P[y, z] = sigmoid(r(y) - r(z))."""
        return cls(torch.sigmoid(reward[..., :, None] - reward[..., None, :]))

    @classmethod
    def from_margins(cls, margins: Float[Tensor, "*b Y Y"]) -> PreferenceGame:
        """P = 1/2 + margins / 2 of a skew-symmetric matrix with entries in [-1, 1]."""
        return cls(0.5 + 0.5 * margins)

    @property
    def num_responses(self) -> int:
        return self.P.shape[-1]

    @property
    def margins(self) -> Float[Tensor, "*b Y Y"]:
        """P - P', skew-symmetric in [-1, 1]: the payoff of the zero-sum game."""
        return self.P - self.P.mT

    def win_rate(self, policy: Float[Tensor, "*b Y"], opponent: Float[Tensor, "*b Y"]) -> Float[Tensor, "*b"]:
        """The probability that a response of `policy` is preferred to one of `opponent`."""
        return torch.einsum("...y,...yz,...z->...", policy, self.P, opponent)

    def exploitability(self, policy: Float[Tensor, "*b Y"]) -> Float[Tensor, "*b"]:
        """By how much the best reply beats 1/2; zero exactly at a von Neumann winner."""
        return torch.einsum("...yz,...z->...y", self.P, policy).amax(-1) - 0.5
