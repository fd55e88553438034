"""Preference games: P[i, j] = probability that i is preferred to j, P + P' = 1; a policy earns its win rate.

    von_neumann  the maximal lottery: a policy that wins at least half the time against everyone
    kl_nash      the Nash equilibrium of  x' P y - alpha KL(x, reference) + alpha KL(y, reference)   (Munos et al. 2023)

Both are symmetric. The second is the unique fixed point of the tilt  x_i ~ reference_i exp((P x)_i / alpha).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.solvers import game_checks
from fenchel.theory.solvers.matrix_games import finite, zero_sum
from fenchel.theory.solvers.solution import Solution


def preference(problem) -> Float[Tensor, "*b n n"]:
    """The matrix of a `PreferenceGame` or a bare tensor, refused unless it is complementary."""
    P = problem if torch.is_tensor(problem) else problem.P
    finite("preference", P)
    if P.ndim < 2 or P.shape[-1] != P.shape[-2]:
        raise UserError(f"preference must be (..., n, n), not {tuple(P.shape)}.")
    off = (P + P.mT - 1).abs() > (1e-9 if P.dtype == torch.float64 else 1e-5)
    if off.any():
        *_, i, j = torch.nonzero(off)[0].tolist()
        raise UserError(f"preference must satisfy P[i, j] + P[j, i] = 1; it does not at ({i}, {j}).")
    return P


def solve_von_neumann(problem, *, method: str = "auto", tol: float = 1e-8) -> Solution:
    """policy (..., n): the maximal lottery; V: its worst win rate (1/2 up to the certificate's gap).

    method: as for "zero_sum".
    """
    P = preference(problem)
    _, x, _ = zero_sum(P, method)
    worst = game_checks.guarantee(P, x)
    answer = Solution(V=worst, policy=x, lower=worst, upper=torch.full_like(worst, 0.5))
    return game_checks.certified(answer, "von_neumann", game_checks.check_von_neumann, P, tol)


def tilt(P: Tensor, x: Tensor, log_reference: Tensor, alpha: float) -> Tensor:
    """log of the best reply to x: log softmax(log reference + P x / alpha)."""
    return torch.log_softmax(log_reference + torch.einsum("...ij,...j->...i", P, x) / alpha, -1)


def _newton(P: Tensor, log_reference: Tensor, alpha: float, tol: float) -> tuple[Tensor, int]:
    """Newton on x - softmax(log reference + P x / a), with a continued from 1 down to alpha."""
    log_x, eye = log_reference, torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    steps, level = 0, max(1.0, alpha)
    while True:
        for _ in range(50):
            x = log_x.exp()
            reply = tilt(P, x, log_reference, level).exp()
            if float((reply - x).abs().max()) < (1e-3 * tol if level == alpha else 1e-6):
                break
            jacobian = (torch.diag_embed(reply) - reply[..., :, None] * reply[..., None, :]) @ P / level
            x = (x + torch.linalg.solve(eye - jacobian, (reply - x)[..., None])[..., 0]).clamp(min=1e-300)
            log_x, steps = torch.log(x / x.sum(-1, keepdim=True)), steps + 1
        if level == alpha:
            return log_x.exp(), steps
        level = max(alpha, level * 0.8)


def _mirror(P: Tensor, log_reference: Tensor, alpha: float, tol: float, limit: int) -> tuple[Tensor, int]:
    """Magnetic mirror descent (Sokota et al. 2023, equation 4): the mirror step whose magnet is the reference.

    log x <- (log x + eta P x + eta alpha log reference) / (1 + eta alpha) + constant; linear for eta <= alpha / L^2,
    where L <= 1 bounds P. (Nash-MD itself plays against a mixture, so its fixed point is off by O(eta / alpha).)
    """
    log_x, eta = log_reference, alpha
    for step in range(limit):
        push = log_x + eta * torch.einsum("...ij,...j->...i", P, log_x.exp()) + eta * alpha * log_reference
        log_next = torch.log_softmax(push / (1 + eta * alpha), -1)
        if float((log_next.exp() - log_x.exp()).abs().max()) < 1e-3 * eta * alpha * tol:
            return log_next.exp(), step + 1
        log_x = log_next
    raise UserError(f"method=mirror did not settle in {limit} steps; valid are a larger alpha or method=newton.")


def solve_kl_nash(
    problem, *, method: str = "auto", tol: float = 1e-8, alpha: float = 1.0, reference: Tensor | None = None,
    limit: int = 100_000,
) -> Solution:  # fmt: skip
    """policy (..., n); the certificate's gap is what the best KL-regularised reply to it gains.

    method: "newton" ("auto") or "mirror". reference (..., n), default uniform, must be positive.
    """
    P = preference(problem)
    if not alpha > 0:
        raise UserError(f"alpha={alpha} is not valid; it must be positive.")
    if method not in ("auto", "newton", "mirror"):
        raise unknown("method", method, ("auto", "newton", "mirror"))
    n = P.shape[-1]
    reference = P.new_full(P.shape[:-1], 1 / n) if reference is None else reference.to(P).expand(P.shape[:-1])
    if not (reference > 0).all():
        raise UserError("reference must be positive everywhere.")
    log_reference = reference.log()
    if method == "mirror":
        x, steps = _mirror(P, log_reference, alpha, tol, limit)
    else:
        x, steps = _newton(P, log_reference, alpha, tol)
    V = torch.einsum("...i,...ij,...j->...", x, P, x)
    answer = Solution(V=V, policy=x, iterations=steps)
    return game_checks.certified(answer, "kl_nash", game_checks.check_kl_nash, P, tol, alpha=alpha, reference=reference)
