"""Matrix games: zero-sum values, Nash and correlated equilibria, logit quantal response equilibria.

zero_sum  A (..., m, n): x picks a row and is paid A, y picks a column and pays it
nash      (2, m, n): payoffs of the row player and of the column player; every extreme equilibrium
correlated, coarse_correlated
              (N, a_1, ..., a_N): payoffs of N players; the (coarse) correlated equilibrium of greatest welfare
qre       (..., 2, m, n) and a temperature: x = softmax(A y / temperature), y = softmax(x B / temperature)
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linprog
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.solvers import game_checks
from fenchel.theory.solvers.solution import Solution

KERNELS_UP_TO = 4  # min(m, n) for which enumerating the Shapley-Snow kernels beats one LP per game


def finite(name: str, payoffs: Tensor) -> None:
    if not torch.isfinite(payoffs).all():
        where = tuple(torch.nonzero(~torch.isfinite(payoffs))[0].tolist())
        raise UserError(f"{name} is not finite at index {where}; valid are finite payoffs.")


def zero_sum_lp(A: Float[Tensor, "m n"]) -> tuple[Tensor, Tensor]:
    """Optimal strategies (x, y) of one game, by HiGHS: max v with x' A >= v, and its dual."""
    a = A.detach().cpu().numpy().astype(float)
    m, n = a.shape
    result = linprog(
        np.r_[np.zeros(m), -1.0], np.c_[-a.T, np.ones(n)], np.zeros(n), np.r_[np.ones(m), 0.0][None], [1.0],
        bounds=[(0, None)] * m + [(None, None)], method="highs",
    )  # fmt: skip
    if result.status != 0:
        raise UserError(f"the linear program of the matrix game ended with: {result.message}")
    as_tensor = lambda v: torch.as_tensor(np.clip(v, 0, None) / np.clip(v, 0, None).sum(), dtype=A.dtype)  # noqa: E731
    return as_tensor(result.x[:m]), as_tensor(-result.ineqlin.marginals)


def zero_sum_kernels(A: Float[Tensor, "*b m n"]) -> tuple[Tensor, Tensor]:
    """Optimal strategies of a batch: the best of all square kernels (Shapley and Snow 1950, Theorem 2).

    Some optimal pair equalises a nonsingular square submatrix M of the game shifted to positive payoffs:
    x ~ 1' M^{-1}, y ~ M^{-1} 1. Every candidate is made a distribution and judged by its exploitability.
    """
    *batch, m, n = A.shape
    low, span = A.amin((-2, -1), keepdim=True), A.amax((-2, -1), keepdim=True) - A.amin((-2, -1), keepdim=True)
    positive = (A - low) / span.clamp(min=torch.finfo(A.dtype).tiny) + 1
    best_x, best_y = A.new_zeros(*batch, m), A.new_zeros(*batch, n)
    best = A.new_full(batch, torch.inf)
    for k in range(1, min(m, n) + 1):
        for rows in combinations(range(m), k):
            for columns in combinations(range(n), k):
                M = positive[..., rows, :][..., columns]
                inverse, _ = torch.linalg.inv_ex(M)
                x, y = A.new_zeros(*batch, m), A.new_zeros(*batch, n)
                x[..., rows] = inverse.sum(-2).clamp(min=0)
                y[..., columns] = inverse.sum(-1).clamp(min=0)
                x, y = (v / v.sum(-1, keepdim=True) for v in (x, y))
                gap = torch.nan_to_num(game_checks.exploitability(A, x, y), nan=torch.inf, posinf=torch.inf)
                better = gap < best
                best = torch.where(better, gap, best)
                best_x = torch.where(better[..., None], x, best_x)
                best_y = torch.where(better[..., None], y, best_y)
    return best_x, best_y


def zero_sum(A: Float[Tensor, "*b m n"], method: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """(value (...,), x (..., m), y (..., n)) of a batch of zero-sum games."""
    if method not in ("auto", "lp", "kernels"):
        raise unknown("method", method, ("auto", "lp", "kernels"))
    if method == "kernels" or (method == "auto" and min(A.shape[-2:]) == 1):
        x, y = zero_sum_kernels(A)
    elif method == "lp" or max(A.shape[-2:]) > KERNELS_UP_TO:
        pairs = [zero_sum_lp(a) for a in A.reshape(-1, *A.shape[-2:])]
        x = torch.stack([p[0] for p in pairs]).reshape(A.shape[:-1]).to(A)
        y = torch.stack([p[1] for p in pairs]).reshape(*A.shape[:-2], A.shape[-1]).to(A)
    else:
        x, y = zero_sum_kernels(A)
    return torch.einsum("...i,...ij,...j->...", x, A, y), x, y


def solve_zero_sum(problem: Float[Tensor, "*b m n"], *, method: str = "auto", tol: float = 1e-8) -> Solution:
    """Value in `V` (...,), strategies in extra["x"] (..., m) and extra["y"] (..., n), bounds in lower and upper.

    method: "kernels" (batched, enumerates square submatrices), "lp" (HiGHS per game), "auto".
    """
    finite("payoffs", problem)
    value, x, y = zero_sum(problem, method)
    answer = Solution(
        V=value, lower=game_checks.guarantee(problem, x), upper=game_checks.concession(problem, y),
        extra={"x": x, "y": y},
    )  # fmt: skip
    return game_checks.certified(answer, "zero_sum", game_checks.check_zero_sum, problem, tol)


def _vertices(a: np.ndarray) -> list[tuple[np.ndarray, frozenset[int]]]:
    """Vertices z != 0 of {z >= 0, a z <= 1} with their tight rows; row i of z >= 0 has label i, row j of a n + j."""
    k, n = a.shape
    rows, bounds = np.vstack([-np.eye(n), a]), np.r_[np.zeros(n), np.ones(k)]
    found: dict[tuple, tuple[np.ndarray, frozenset[int]]] = {}
    for tight in combinations(range(n + k), n):
        M = rows[list(tight)]
        if abs(np.linalg.det(M)) < 1e-12:
            continue
        z = np.linalg.solve(M, bounds[list(tight)])
        slack = bounds - rows @ z
        if slack.min() > -1e-10 and z.max() > 1e-10:
            found[tuple(np.round(z, 9))] = (z, frozenset(np.flatnonzero(slack < 1e-9).tolist()))
    return list(found.values())


def solve_nash(problem: Float[Tensor, "2 m n"], *, method: str = "auto", tol: float = 1e-8) -> Solution:
    """All extreme Nash equilibria of a bimatrix game, by vertex enumeration (Mangasarian 1964); degenerate games too.

    extra["x"] (E, m), extra["y"] (E, n); V (E, 2) the two payoffs.
    """
    if problem.ndim != 3 or problem.shape[0] != 2:
        raise UserError(f"payoffs must be (2, m, n), one matrix per player, not {tuple(problem.shape)}.")
    if method not in ("auto", "vertices"):
        raise unknown("method", method, ("auto", "vertices"))
    finite("payoffs", problem)
    a, b = problem.detach().cpu().numpy().astype(float)
    m, n = a.shape
    scaled = [(p - p.min()) / max(np.ptp(p), 1e-300) + 1 for p in (a, b)]
    rows = _vertices(scaled[1].T)  # x: labels 0..m-1 unplayed rows, m+j best replies j
    columns = _vertices(scaled[0])  # y: labels 0..n-1 unplayed columns, n+i best replies i
    pairs = []
    for x, x_labels in rows:
        for y, y_labels in columns:
            rows_ok = all(i in x_labels or n + i in y_labels for i in range(m))
            if rows_ok and all(j in y_labels or m + j in x_labels for j in range(n)):
                pairs.append((x / x.sum(), y / y.sum()))
    X = torch.as_tensor(np.array([p[0] for p in pairs])).to(problem)
    Y = torch.as_tensor(np.array([p[1] for p in pairs])).to(problem)
    value = torch.einsum("ei,pij,ej->ep", X, problem, Y)
    answer = Solution(V=value, extra={"x": X, "y": Y})
    return game_checks.certified(answer, "nash", game_checks.check_nash, problem, tol)


def solve_correlated(
    problem: Float[Tensor, N *a], *, method: str = "auto", tol: float = 1e-8, weights: Tensor | None = None,
    coarse: bool = False,
) -> Solution:  # fmt: skip
    """The (coarse) correlated equilibrium that maximises sum_i weights_i u_i (default: the sum of payoffs), by LP.

    policy: the joint distribution (a_1, ..., a_N); multipliers >= 0: one per incentive constraint, in the order of
    `game_checks.incentives`; [lower, upper]: welfare of the distribution, and the dual bound of the multipliers.
    """
    if method not in ("auto", "lp"):
        raise unknown("method", method, ("auto", "lp"))
    if problem.ndim != problem.shape[0] + 1:
        raise UserError(f"payoffs must be (N, a_1, ..., a_N) with N players, not {tuple(problem.shape)}.")
    finite("payoffs", problem)
    welfare = game_checks.welfare(problem, weights)
    gains = game_checks.incentives(problem, coarse)
    result = linprog(
        -welfare.reshape(-1).cpu().numpy().astype(float), gains.cpu().numpy().astype(float), np.zeros(len(gains)),
        np.ones((1, welfare.numel())), [1.0], bounds=(0, None), method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    if result.status != 0:
        raise UserError(f"the linear program of the correlated equilibrium ended with: {result.message}")
    joint = torch.as_tensor(np.clip(result.x, 0, None)).to(problem)
    joint = (joint / joint.sum()).reshape(welfare.shape)
    lam = torch.as_tensor(np.clip(-result.ineqlin.marginals, 0, None)).to(problem)
    lower = (joint * welfare).sum()
    answer = Solution(
        V=lower, policy=joint, multipliers=lam, lower=lower, upper=(welfare.reshape(-1) - lam @ gains).max()
    )
    check = game_checks.check_coarse if coarse else game_checks.check_correlated
    return game_checks.certified(
        answer, "coarse_correlated" if coarse else "correlated", check, problem, tol, weights=weights
    )


def solve_coarse_correlated(problem: Tensor, **options) -> Solution:
    """`solve_correlated(..., coarse=True)`."""
    return solve_correlated(problem, coarse=True, **options)


def logit_response(payoffs: Tensor, x: Tensor, y: Tensor, temperature: Tensor | float) -> tuple[Tensor, Tensor]:
    """(softmax(A y / temperature), softmax(x B / temperature)) for payoffs (..., 2, m, n)."""
    row = torch.einsum("...ij,...j->...i", payoffs[..., 0, :, :], y)
    column = torch.einsum("...i,...ij->...j", x, payoffs[..., 1, :, :])
    return torch.softmax(row / temperature, -1), torch.softmax(column / temperature, -1)


def _softmax_jacobian(p: Tensor) -> Tensor:
    return torch.diag_embed(p) - p[..., :, None] * p[..., None, :]


def qre(payoffs: Float[Tensor, "*b 2 m n"], temperature: float, tol: float) -> tuple[Tensor, Tensor, int]:
    """The principal branch of logit equilibria: Newton, continued from the uniform pair at infinite temperature."""
    m, n = payoffs.shape[-2:]
    scale = float((payoffs.amax() - payoffs.amin()).clamp(min=1e-12))
    x = payoffs.new_full((*payoffs.shape[:-3], m), 1 / m)
    y = payoffs.new_full((*payoffs.shape[:-3], n), 1 / n)
    levels = torch.linspace(0, 1, 1 + max(1, int(np.ceil(6 * np.log2(max(2.0, 2 * scale / temperature))))))
    steps, eye = 0, torch.eye(m + n, dtype=payoffs.dtype, device=payoffs.device)
    start = max(2 * scale, temperature)
    for level in levels.tolist():
        tau = start ** (1 - level) * temperature**level
        for _ in range(50):
            bx, by = logit_response(payoffs, x, y, tau)
            residual = torch.cat([bx - x, by - y], -1)
            if float(residual.abs().max()) < (1e-3 * tol if level == 1.0 else 1e-8):
                break
            upper = _softmax_jacobian(bx) @ payoffs[..., 0, :, :] / tau
            lower = _softmax_jacobian(by) @ payoffs[..., 1, :, :].mT / tau
            jacobian = torch.cat(
                [torch.cat([torch.zeros_like(upper @ upper.mT), upper], -1),
                 torch.cat([lower, torch.zeros_like(lower @ lower.mT)], -1)], -2,
            )  # fmt: skip
            step = torch.linalg.solve(eye - jacobian, residual[..., None])[..., 0]
            x, y = ((v + d).clamp(min=1e-300) for v, d in ((x, step[..., :m]), (y, step[..., m:])))
            x, y = x / x.sum(-1, keepdim=True), y / y.sum(-1, keepdim=True)
            steps += 1
    return x, y, steps


def solve_qre(
    problem: Float[Tensor, "*b 2 m n"], *, method: str = "auto", tol: float = 1e-8, temperature: float = 1.0
) -> Solution:
    """Logit quantal response equilibrium (McKelvey and Palfrey 1995); a (..., m, n) zero-sum game is (A, -A) stacked.

    The certificate is the fixed-point residual of the response map in logits, recomputed in log space.
    """
    if method not in ("auto", "newton"):
        raise unknown("method", method, ("auto", "newton"))
    if problem.ndim < 3 or problem.shape[-3] != 2:
        raise UserError(f"payoffs must be (..., 2, m, n), one matrix per player, not {tuple(problem.shape)}.")
    if not temperature > 0:
        raise UserError(f"temperature={temperature} is not valid; it must be positive.")
    finite("payoffs", problem)
    x, y, steps = qre(problem, temperature, tol)
    value = torch.einsum("...i,...pij,...j->...p", x, problem, y)
    answer = Solution(V=value, iterations=steps, extra={"x": x, "y": y})
    return game_checks.certified(answer, "qre", game_checks.check_qre, problem, tol, temperature=temperature)
