"""Certificates of games: best responses and incentive constraints, recomputed from the payoffs alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.solvers.solution import Certificate, Solution

Check = Callable[..., dict[str, Tensor]]


def certified(answer: Solution, kind: str, check: Check, problem: Any, tol: float, **options) -> Solution:
    """`answer` with the residuals that `check(problem, answer)` finds."""
    return replace(answer, certificate=Certificate(kind, check(problem, answer, **options), tol))


def off_simplex(p: Float[Tensor, "*b n"]) -> Tensor:
    """How far p is from a distribution over its last axis."""
    return torch.maximum((-p).amax(-1).clamp(min=0), (p.sum(-1) - 1).abs())


def guarantee(A: Tensor, x: Tensor) -> Tensor:
    """What x earns at least: min_j (x' A)_j."""
    return torch.einsum("...i,...ij->...j", x, A).amin(-1)


def concession(A: Tensor, y: Tensor) -> Tensor:
    """What y pays at most: max_i (A y)_i."""
    return torch.einsum("...ij,...j->...i", A, y).amax(-1)


def exploitability(A: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return concession(A, y) - guarantee(A, x)


def check_zero_sum(A: Tensor, answer: Solution) -> dict[str, Tensor]:
    x, y = answer.extra["x"], answer.extra["y"]
    low, high = guarantee(A, x), concession(A, y)
    value = (answer.V - low.clamp(max=high)).clamp(max=0).abs() + (answer.V - high).clamp(min=0)
    return {"gap": (high - low).clamp(min=0), "value": value, "simplex": torch.maximum(off_simplex(x), off_simplex(y))}


def check_nash(payoffs: Float[Tensor, "2 m n"], answer: Solution) -> dict[str, Tensor]:
    x, y = answer.extra["x"], answer.extra["y"]
    replies = torch.stack([(y @ payoffs[0].T).amax(-1), (x @ payoffs[1]).amax(-1)], -1)
    paid = torch.stack([((x @ payoffs[p]) * y).sum(-1) for p in (0, 1)], -1)
    return {
        "regret": (replies - paid).amax(-1).clamp(min=0), "value": (answer.V - paid).abs().amax(-1),
        "simplex": torch.maximum(off_simplex(x), off_simplex(y)),
    }  # fmt: skip


def welfare(payoffs: Float[Tensor, N * a], weights: Tensor | None) -> Float[Tensor, "*a"]:
    return payoffs.sum(0) if weights is None else torch.tensordot(weights.to(payoffs), payoffs, 1)


def incentives(payoffs: Float[Tensor, N * a], coarse: bool) -> Float[Tensor, "c joint"]:
    """One row per constraint: what a deviation would gain at each joint action; an equilibrium averages each to <= 0.

    CE: player i, told a_i, plays b instead. CCE: player i plays b whatever the advice.
    """
    rows = []
    for i, u in enumerate(payoffs):
        for b in range(u.shape[i]):
            gain = u.select(i, b).unsqueeze(i) - u
            if coarse:
                rows.append(gain.reshape(-1))
                continue
            for a in range(u.shape[i]):
                if a != b:
                    told = torch.zeros_like(u)
                    told.select(i, a).fill_(1)
                    rows.append((gain * told).reshape(-1))
    return torch.stack(rows) if rows else payoffs.new_zeros(0, payoffs[0].numel())


def _check_joint(payoffs: Tensor, answer: Solution, weights: Tensor | None, coarse: bool) -> dict[str, Tensor]:
    joint, lam, score = answer.policy, answer.multipliers, welfare(payoffs, weights)
    total = (joint * score).sum()
    residuals = {"regret": _regrets(payoffs, joint, coarse), "simplex": off_simplex(joint.reshape(-1))}
    # weak duality: welfare of any equilibrium <= max_a [welfare(a) - lam . gains(a)] for lam >= 0
    bound = (score.reshape(-1) - lam @ incentives(payoffs, coarse)).max()
    return residuals | {"gap": (bound - total).clamp(min=0), "dual_sign": (-lam).clamp(min=0).sum()}


def _regrets(payoffs: Tensor, joint: Tensor, coarse: bool) -> Tensor:
    """The greatest gain of a deviation, from each player's conditional expectations (not from `incentives`)."""
    worst = payoffs.new_zeros(())
    for i, u in enumerate(payoffs):
        weight, pay = joint.movedim(i, 0).flatten(1), u.movedim(i, 0).flatten(1)
        gain = weight @ pay.T - (weight * pay).sum(1, keepdim=True)  # (told, deviation)
        gain = gain.sum(0) if coarse else gain
        worst = torch.maximum(worst, gain.max())
    return worst


def check_correlated(payoffs: Tensor, answer: Solution, weights: Tensor | None = None) -> dict[str, Tensor]:
    return _check_joint(payoffs, answer, weights, coarse=False)


def check_coarse(payoffs: Tensor, answer: Solution, weights: Tensor | None = None) -> dict[str, Tensor]:
    return _check_joint(payoffs, answer, weights, coarse=True)


def check_qre(payoffs: Tensor, answer: Solution, temperature: float = 1.0) -> dict[str, Tensor]:
    """A logit response has log x_i - (A y)_i / temperature equal for all i: its spread is the residual."""
    x, y = answer.extra["x"], answer.extra["y"]
    row = (payoffs[..., 0, :, :] @ y[..., None])[..., 0] / temperature
    column = (x[..., None, :] @ payoffs[..., 1, :, :])[..., 0, :] / temperature
    residual = torch.zeros_like(row[..., 0])
    for p, logits in ((x, row), (y, column)):
        residual = torch.maximum(residual, (p - (logits - logits.logsumexp(-1, keepdim=True)).exp()).abs().amax(-1))
    return {"fixed_point": residual, "simplex": torch.maximum(off_simplex(x), off_simplex(y))}


def _matrix(problem: Any) -> Tensor:
    return problem if torch.is_tensor(problem) else problem.P


def check_von_neumann(problem: Any, answer: Solution) -> dict[str, Tensor]:
    worst = (answer.policy[..., None, :] @ _matrix(problem))[..., 0, :].amin(-1)
    return {
        "gap": (0.5 - worst).clamp(min=0), "value": (answer.V - worst).abs(), "simplex": off_simplex(answer.policy)
    }  # fmt: skip


def check_kl_nash(
    problem: Any, answer: Solution, alpha: float = 1.0, reference: Tensor | None = None, **_
) -> dict[str, Tensor]:
    """Gain of the best reply in closed form: alpha log E_reference exp(P x / alpha) + alpha KL(x, ref) - x' P x."""
    P, x = _matrix(problem), answer.policy
    reference = torch.full_like(x, 1 / x.shape[-1]) if reference is None else reference.to(x).expand_as(x)
    win = (P @ x[..., None])[..., 0]
    best = alpha * torch.logsumexp(reference.log() + win / alpha, -1)
    kl = torch.special.xlogy(x, x / reference).sum(-1)
    return {"gap": (best + alpha * kl - (x * win).sum(-1)).clamp(min=0), "simplex": off_simplex(x)}


def _game_kernel(game: Any) -> Tensor:
    """discount * P, with the discount broadcast from the left, (..., S, A, B, S)."""
    gamma = torch.as_tensor(game.discount, dtype=game.P.dtype)
    while 0 < gamma.ndim < game.P.ndim:
        gamma = gamma[..., None]
    return gamma * game.P


def check_markov_game(game: Any, answer: Solution, temperature: float = 0.0) -> dict[str, Tensor]:
    """Guarantees by the one-step test, without solving anything: with the given bounds L and U,

    L(s) <= min_b x . (r + kernel L) proves that x earns at least L, and U(s) >= max_a y . (r + kernel U) likewise
    (monotone contractions). The residuals are those violations and the gap U - L.
    """
    if temperature:
        return check_regularised_markov_game(game, answer, temperature)
    P, x, y = _game_kernel(game), answer.policy, answer.extra["column"]
    earn = torch.einsum("...sab,...sa->...sb", game.r + (P @ answer.lower[..., None, None, :, None])[..., 0], x)
    pay = torch.einsum("...sab,...sb->...sa", game.r + (P @ answer.upper[..., None, None, :, None])[..., 0], y)
    return {
        "lower": (answer.lower - earn.amin(-1)).clamp(min=0).amax(-1),
        "upper": (pay.amax(-1) - answer.upper).clamp(min=0).amax(-1),
        "gap": (answer.upper - answer.lower).clamp(min=0).amax(-1),
        "value": torch.maximum(answer.lower - answer.V, answer.V - answer.upper).clamp(min=0).amax(-1),
        "simplex": torch.maximum(off_simplex(x), off_simplex(y)).amax(-1),
    }


def check_regularised_markov_game(game: Any, answer: Solution, temperature: float) -> dict[str, Tensor]:
    """Gap of each entropy-regularised stage game, from both players' soft best replies."""
    Q = game.r + (_game_kernel(game) @ answer.V[..., None, None, :, None])[..., 0]
    x, y = answer.policy, answer.extra["column"]
    high = temperature * torch.logsumexp((Q @ y[..., None])[..., 0] / temperature, -1)
    high = high - temperature * torch.special.entr(y).sum(-1)
    low = -temperature * torch.logsumexp(-(x[..., None, :] @ Q)[..., 0, :] / temperature, -1)
    low = low + temperature * torch.special.entr(x).sum(-1)
    off = torch.maximum(low - answer.V, answer.V - high).clamp(min=0)
    return {"gap": (high - low).clamp(min=0).amax(-1), "bellman": off.amax(-1)}
