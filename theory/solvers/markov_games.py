"""Zero-sum Markov games: Shapley's value, with a gap from both players' exact best responses.

    V(s) = val_{x, y} [ r(s, a, b) + discount P(s, a, b) V ]        (Shapley 1953)

The row player a maximises. With a temperature, `val` is replaced by the value of the entropy-regularised game.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import game_checks
from fenchel.theory.solvers.bellman import evaluate, policy_iteration
from fenchel.theory.solvers.matrix_games import qre, zero_sum
from fenchel.theory.solvers.solution import Solution


def kernel(game) -> Float[Tensor, "*b S A B T"]:
    """discount * P of a MarkovGame; the discount may depend on (s, a, b)."""
    gamma = game.discount
    if not torch.is_tensor(gamma):
        return gamma * game.P
    return gamma[(...,) + (None,) * (game.P.ndim - gamma.ndim)] * game.P if gamma.ndim < game.P.ndim else gamma * game.P


def stage(game, V: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S A B"]:
    return game.r + torch.einsum("...sabt,...t->...sab", kernel(game), V)


def response_mdp(game, policy: Tensor, player: int) -> TabularMDP:
    """The MDP that the other player faces when `player` (0: rows, 1: columns) keeps `policy` (..., S, A or B).

    The column player's reward is negated, so that both maximise.
    """
    own, sign = ("a", -1.0) if player == 0 else ("b", 1.0)
    free = "b" if own == "a" else "a"
    P = torch.einsum(f"...s{own},...sabt->...s{free}t", policy, kernel(game))
    r = sign * torch.einsum(f"...s{own},...sab->...s{free}", policy, game.r)
    return TabularMDP(P, r, game.mu0, torch.ones_like(r), check=False)  # P already carries the discount


def _hoffman_karp(game, method: str, tol: float, limit: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Strategy iteration (Hoffman and Karp 1966): x from the stage games, then the column player's exact reply."""
    V = game.P.new_zeros(game.P.shape[:-3])
    for step in range(1, limit + 1):
        value, x, y = zero_sum(stage(game, V), method)
        if float((value - V).abs().max()) <= 1e-2 * tol:
            return V, x, y, step
        reply, _, _ = policy_iteration(response_mdp(game, x, player=0))
        # from the first exact reply on V rises towards the value; a step that would lower it is rounding
        V = -reply if step == 1 else torch.maximum(V, -reply)
    raise UserError(f"strategy iteration did not settle in {limit} steps; valid are discounts below 1.")


def _regularised(game, temperature: float, tol: float, limit: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Newton on the regularised Bellman equation (evaluate both stage policies exactly), safeguarded by value steps."""
    V, best, fallback = game.P.new_zeros(game.P.shape[:-3]), float("inf"), None
    contraction = float(kernel(game).sum(-1).max())
    for step in range(1, limit + 1):
        Q = stage(game, V)
        x, y, _ = qre(torch.stack([Q, -Q], -3), temperature, tol)
        bonus = temperature * (torch.special.entr(x).sum(-1) - torch.special.entr(y).sum(-1))
        value = torch.einsum("...a,...ab,...b->...", x, Q, y) + bonus
        residual = float((value - V).abs().max())
        if residual <= 1e-2 * tol:
            return value, x, y, step
        if residual > contraction * best and fallback is not None:
            V, fallback = fallback, None  # Newton overshot: one value step from the best point is a contraction
            continue
        best, fallback = residual, value
        both = torch.einsum("...sa,...sb,...sabt->...st", x, y, kernel(game))
        V = evaluate(both, torch.einsum("...sa,...sb,...sab->...s", x, y, game.r) + bonus)
    raise UserError(f"the regularised game did not settle in {limit} steps; valid are discounts below 1.")


def solve_markov_game(
    problem, *, method: str = "auto", tol: float = 1e-8, temperature: float = 0.0, limit: int = 10_000
) -> Solution:
    """Shapley value V (..., S), row policy (..., S, A) in `policy`, column policy (..., S, B) in extra["column"].

    problem: a MarkovGame with P (..., S, A, B, S), r (..., S, A, B), mu0, discount < 1. lower and upper (..., S): what
    each policy guarantees against an exact best response. method: of the stage games, as for "zero_sum".
    temperature > 0: both players pay for lost entropy; then the certificate is the regularised Bellman residual.
    """
    if method not in ("auto", "kernels", "lp"):
        raise unknown("method", method, ("auto", "kernels", "lp"))
    if float(kernel(problem).sum(-1).max()) >= 1:
        raise UserError("discount must be below 1 everywhere in a Markov game.")
    if temperature < 0:
        raise UserError(f"temperature={temperature} is not valid; it must be zero or positive.")
    if temperature:
        V, x, y, steps = _regularised(problem, temperature, tol, limit)
        answer = Solution(V=V, Q=stage(problem, V), policy=x, iterations=steps, extra={"column": y})
        check = game_checks.check_regularised_markov_game
        return game_checks.certified(answer, "markov_game", check, problem, tol, temperature=temperature)
    V, x, y, steps = _hoffman_karp(problem, method, tol, limit)
    lower = -policy_iteration(response_mdp(problem, x, player=0))[0]
    upper = policy_iteration(response_mdp(problem, y, player=1))[0]
    answer = Solution(
        V=V, Q=stage(problem, V), policy=x, lower=lower, upper=upper, iterations=steps, extra={"column": y}
    )  # fmt: skip
    return game_checks.certified(answer, "markov_game", game_checks.check_markov_game, problem, tol)
