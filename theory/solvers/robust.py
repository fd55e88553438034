"""Robust MDPs: the best policy against the worst transition rows of a set around the nominal ones.

    sa   V(s) = max_a min_{p in U(s, a)} r(s, a) + p . (discount V)              (Iyengar 2005; Nilim, El Ghaoui 2005)
    s    V(s) = max_pi min_{sum_a distance(p_a, P(s, a)) <= radius(s)} sum_a pi_a [r(s, a) + p_a . (discount V)]
                                                                                 (Wiesemann, Kuhn, Rustem 2013)

Under s-rectangularity the optimal policy is randomised. By the minimax theorem its value is the least u for which
every action can be pushed to at most u within the joint radius: bisection on u (Ho, Petrik, Wiesemann 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import robust_checks
from fenchel.theory.solvers.ambiguity import SETS, distance, support_range, tilt, worst_row
from fenchel.theory.solvers.bellman import evaluate, one_hot
from fenchel.theory.solvers.game_checks import certified
from fenchel.theory.solvers.solution import Solution

HALVINGS = 55
SECTIONS, ROUNDS = 32, 11  # 32^11 = 2^55


def _pushed_l1(p0: Tensor, z: Tensor, mean: Tensor) -> Tensor:
    """Mass goes from the largest z to the smallest, each unit lowering the mean by their difference."""
    order = z.argsort(-1, descending=True)
    mass, gain = p0.gather(-1, order), z.gather(-1, order) - z.amin(-1, keepdim=True)
    need = ((p0 * z).sum(-1) - mean)[..., None] - ((mass * gain).cumsum(-1) - mass * gain)
    taken = torch.minimum(mass, (need / gain.clamp(min=1e-300)).clamp(min=0))
    taken[..., -1] = -taken[..., :-1].sum(-1)
    return torch.zeros_like(mass).scatter(-1, order, mass - taken)


def _pushed(name: str, p0: Tensor, z: Tensor, mean: Tensor) -> Tensor:
    """Bisection along the optimal path: growing radius for linf, growing tilt for kl and chi2."""
    low, high = (
        torch.full_like(mean, 0.0 if name == "linf" else -60.0),
        torch.full_like(mean, 1.0 if name == "linf" else 60.0),
    )
    path = (lambda t: worst_row(name, p0, z, t)) if name == "linf" else (lambda t: tilt(name, p0, z, t))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = (path(middle) * z).sum(-1) > mean
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return path(high)


def least_mean(name: str, p0: Tensor, z: Tensor) -> Tensor:
    """The smallest p . z over the whole domain of the distance, whatever the radius."""
    return z.amin(-1) if name in ("l1", "linf") else support_range(p0, z)[0]


def pushed_rows(name: str, p0: Tensor, z: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, distances): the nearest p with p . z <= mean; distance inf when no row of the set's domain gets there."""
    nothing = (p0 * z).sum(-1) <= mean
    rows = _pushed_l1(p0, z, mean) if name == "l1" else _pushed(name, p0, z, mean)
    rows = torch.where(nothing[..., None], p0, rows)
    cost = torch.where(nothing, torch.zeros_like(mean), distance(name, rows, p0))
    least = least_mean(name, p0, z)
    return rows, torch.where(mean < least - 1e-13 * (1 + least.abs()), torch.full_like(cost, torch.inf), cost)


def _backup_s(mdp: TabularMDP, name: str, radius: Any, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(V, policy, rows) of one s-rectangular stage."""
    missing = ~mdp.mask
    least = least_mean(name, mdp.P, z)
    floor = (mdp.r + least).masked_fill(missing, -torch.inf).amax(-1)
    nominal = (mdp.r + (mdp.P * z).sum(-1)).masked_fill(missing, -torch.inf).amax(-1)

    def spent(u: Tensor) -> tuple[Tensor, Tensor]:
        shape = u.shape[: u.ndim - radius.ndim] + z.shape
        rows, cost = pushed_rows(name, mdp.P.expand(shape), z.expand(shape), u[..., None] - mdp.r)
        return rows, cost.masked_fill(missing, 0.0)

    low, high = floor, nominal
    grid = torch.linspace(0, 1, SECTIONS + 1, dtype=z.dtype, device=z.device)[1:-1]
    for _ in range(ROUNDS):  # all interior points of a grid at once; the cost falls as u rises
        points = low + grid.reshape(-1, *[1] * low.ndim) * (high - low)
        over = spent(points)[1].sum(-1) > radius
        low = torch.where(over, points, low).amax(0)
        high = torch.where(over, high, points).amin(0)
    free = spent(floor)[1].sum(-1) <= radius
    u = torch.where(free, floor, high)
    rows, _ = spent(u)
    # pi_a is proportional to the marginal distance -d cost_a / d u (stationarity of the joint budget)
    h = 1e-5 * (nominal - floor)
    marginal = (spent(u - h)[1] - spent((u + h).clamp(max=nominal))[1]).clamp(min=0)
    pure = mdp.r + torch.where(free[..., None], least, (rows * z).sum(-1))
    greedy = one_hot(pure.masked_fill(missing, -torch.inf).argmax(-1), mdp.num_actions, mdp.dtype)
    total = marginal.sum(-1, keepdim=True)
    mixed = torch.isfinite(total) & (total > 0) & ~free[..., None] & (radius > 0)[..., None]
    policy = torch.where(mixed, marginal / torch.where(mixed, total, torch.ones_like(total)), greedy)
    return u, policy, rows


def _backup_sa(mdp: TabularMDP, name: str, radius, low, high, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = worst_row(name, mdp.P, z, radius, low, high)
    V, actions = (mdp.r + (rows * z).sum(-1)).masked_fill(~mdp.mask, -torch.inf).max(-1)
    return V, one_hot(actions, mdp.num_actions, mdp.dtype), rows


def _validate(mdp: TabularMDP, name: str, rectangular: str, radius, bounds) -> Tensor | None:
    if name not in SETS:
        raise unknown("ambiguity", name, SETS)
    if rectangular not in ("sa", "s"):
        raise unknown("rectangular", rectangular, ("sa", "s"))
    if mdp.num_channels is not None:
        raise UserError("a robust MDP needs one reward (..., S, A); scalarize the channels first.")
    if float((mdp.kernel.sum(-1) * mdp.mask).max()) >= 1:
        raise UserError("discount must be below 1 everywhere in a robust MDP.")
    if name == "interval":
        if rectangular == "s" or bounds is None:
            raise UserError("ambiguity=interval needs bounds=(lower, upper), each (..., S, A, S), and rectangular=sa.")
        low, high = bounds
        if not ((low >= 0) & (low <= high)).all() or (low.sum(-1) > 1).any() or (high.sum(-1) < 1).any():
            raise UserError("bounds must satisfy 0 <= lower <= upper, and sum(lower) <= 1 <= sum(upper) in every row.")
        return None
    radius = torch.as_tensor(radius if radius is not None else -1.0, dtype=mdp.dtype, device=mdp.device)
    if not (radius >= 0).all():
        raise UserError("radius must be at least 0, a number or a tensor (..., S, A) for sa, (..., S) for s.")
    return radius.expand(mdp.P.shape[:-1] if rectangular == "sa" else mdp.P.shape[:-2])


def solve_robust(
    problem: TabularMDP, *, ambiguity: str, radius: float | Tensor | None = None, rectangular: str = "sa",
    bounds: tuple[Tensor, Tensor] | None = None, method: str = "auto", tol: float = 1e-8, limit: int = 10_000,
) -> Solution:  # fmt: skip
    """V (..., S): the greatest robust value; policy (..., S, A); extra["kernel"] (..., S, A, S): nature's worst rows.

    ambiguity: l1, linf, kl, chi2 with `radius`, or interval with `bounds` (see `ambiguity.py`). method: "auto" takes
    Newton steps (evaluate policy and rows exactly) safeguarded by value iteration, "value_iteration" only the latter.
    lower and upper (..., S) bound the robust value and follow from the certificate's one-step tests.
    """
    if method not in ("auto", "value_iteration"):
        raise unknown("method", method, ("auto", "value_iteration"))
    radius = _validate(problem, ambiguity, rectangular, radius, bounds)
    low, high = bounds if bounds is not None else (None, None)
    gamma = problem.discount if problem.discount.ndim == problem.P.ndim else problem.discount[..., None]
    contraction = float((problem.discount * (problem.mask if gamma is not problem.discount else 1)).max())
    V, best, fallback = problem.P.new_zeros(problem.P.shape[:-2]), float("inf"), None
    for steps in range(1, limit + 1):  # noqa: B007
        z = gamma * V[..., None, None, :]
        z = z.expand(problem.P.shape)
        if rectangular == "s":
            TV, policy, rows = _backup_s(problem, ambiguity, radius, z)
        else:
            TV, policy, rows = _backup_sa(problem, ambiguity, radius, low, high, z)
        residual = float((TV - V).abs().max())
        if residual <= max(0.1 * tol * (1 - contraction), 1e-14 * float(TV.abs().max())):
            break
        if fallback is not None and residual > contraction * best:
            V, fallback = fallback, None  # the Newton step overshot: a value step from the best point contracts
            continue
        best, fallback = min(best, residual), TV
        kernel = torch.einsum("...sa,...sat->...st", policy, gamma * rows)
        V = TV if method == "value_iteration" else evaluate(kernel, (policy * problem.r).sum(-1))
    else:
        raise UserError(
            f"the robust value did not settle in {limit} steps; valid are smaller discounts or a larger tol."
        )
    answer = Solution(V=TV, policy=policy, iterations=steps, extra={"kernel": rows})
    options = {"ambiguity": ambiguity, "radius": radius, "rectangular": rectangular, "bounds": bounds}
    answer = certified(answer, "robust", robust_checks.check_robust, problem, tol, **options)
    assert answer.certificate is not None
    found = answer.certificate.residuals
    slack = (1 - contraction) ** -1
    bound = lambda name: (found[name] * slack)[..., None]  # noqa: E731
    return Solution(
        V=TV, policy=policy, lower=TV - bound("lower"), upper=TV + bound("upper"), iterations=steps,
        certificate=answer.certificate, extra={"kernel": rows},
    )  # fmt: skip
