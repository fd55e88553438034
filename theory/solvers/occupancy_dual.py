"""Occupancies regularised by an f-divergence, through their convex dual (DICE, dual-V, f-DVL).

    primal   max_{d >= 0}  <d, r> - alpha D_f(d || ref)   s.t.   sum_a d(s, a) - (M' d)(s) = mu0(s)
    dual     min_V  mu0 . V + alpha sum ref f*((r + M V - V) / alpha),        f* conjugate over w >= 0
    and      d = ref w,  w = max(0, (f')^{-1})((r + M V - V) / alpha)

Occupancies are discounted sums: with one discount they sum to 1 / (1 - gamma). If d and ref are both multiplied by
(1 - gamma), as in the papers, V and w stay and both values are multiplied by it.

The start is V* of the unregularised problem on the support of ref: there r + M V - V <= 0, so exp cannot overflow and
every conjugate is finite, and each state has an action with w = 1, so the Hessian is positive definite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.divergences import Divergence, get_divergence
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman import Backup, chunks, flatten, howard, weight
from fenchel.theory.solvers.discounted import check_policy
from fenchel.theory.solvers.solution import Certificate, Solution

METHODS = ("auto", "newton", "interior")
HALVINGS = 60
Found = tuple[Tensor, Tensor, Tensor, Tensor, int]  # V, occupancy, primal value, dual value, iterations


def solve_occupancy_dual(
    problem: TabularMDP, *, method: str = "auto", tol: float = 1e-10, divergence: str | Divergence = "kl",
    alpha: float = 1.0, reference: Float[Tensor, "*b S A"] | None = None, behaviour: Tensor | None = None,
    limit: int = 200,
) -> Solution:  # fmt: skip
    """A whole batch; any `Divergence` but "tv", whose f is not strictly convex; alpha > 0.

    method: "newton" (semismooth, Armijo), "interior" (point; where f'(0) is finite), "auto": Newton, unless
    f''(0) = 0 (alpha:a with a > 2): there the curvature of f* has no bound beside its kink, and Newton stalls.
    reference: any measure (..., S, A) >= 0; default: the occupancy of `behaviour`, default uniform over the actions.
    Returns V (dual), occupancy (flow-feasible), policy, lower = primal value of the occupancy, upper = dual value,
    extra["w"] = occupancy / reference (0 off its support), extra["reference"]; the gap is relative to max(1, |value|).
    Raises UserError for "tv", an unknown divergence or method, alpha <= 0, reward channels, a reference that is
    negative, not finite or off the mask, or whose support leaves a state that it reaches without an action, a discount
    of 1 that never ends, and a gap still above `tol` after `limit` steps.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    div = get_divergence(divergence)
    if not bool(div.f_second(torch.ones(1)) > 0):
        raise UserError(f"divergence={div} is not valid here; the dual needs a strictly convex f, as kl or chi2 have.")
    if not alpha > 0:
        raise UserError(f"alpha={alpha} is not valid; it must be positive.")
    flat_at_zero = not bool(div.f_second(torch.zeros(1)) > 0)
    interior = method == "interior" or (method == "auto" and flat_at_zero)
    if interior and not math.isfinite(div.lowest):
        raise UserError(f"method=interior needs a finite f'(0); valid for divergence={div} is method=newton.")
    with torch.no_grad():
        flat = flatten(problem)
        ref = _reference(problem, flat, reference, behaviour)
        search = _interior if interior else _newton
        parts = [search(*_prepare(flat[c], ref[c], div, alpha), tol, limit) for c in chunks(flat)]
        V, d, lower, upper = (torch.cat([p[i] for p in parts]) for i in range(4))  # type: ignore[misc]
    batch = problem.batch_shape

    def shaped(t: Tensor) -> Tensor:
        return t.reshape(batch + t.shape[1:]).to(problem.dtype)

    policy = torch.where(d.sum(-1, keepdim=True) > 0, d, (ref > 0) | (~(ref > 0).any(-1, keepdim=True) & _exists(flat)))
    gap = (upper - lower) / upper.abs().clamp(min=1)
    return Solution(
        V=shaped(V), occupancy=shaped(d), policy=shaped(policy / policy.sum(-1, keepdim=True)), lower=shaped(lower),
        upper=shaped(upper), iterations=max(p[4] for p in parts),
        extra={"w": shaped(torch.where(ref > 0, d / ref, 0.0)), "reference": shaped(ref)},
        certificate=Certificate("occupancy_dual", {"gap": gap.clamp(min=0).reshape(batch)}, tol),
    )  # fmt: skip


def _exists(flat: Backup) -> Tensor:
    return torch.ones_like(flat.r, dtype=torch.bool) if flat.missing is None else ~flat.missing


def _reference(mdp: TabularMDP, flat: Backup, reference: Tensor | None, behaviour: Tensor | None) -> Tensor:
    """The reference measure (B, S, A) and its faults."""
    exists = _exists(flat)
    if reference is None:
        pi = exists / exists.sum(-1, keepdim=True).double()
        if behaviour is not None:
            check_policy(mdp, behaviour, "behaviour")
            pi = behaviour.reshape(flat.r.shape).double()
        return _follow(flat, pi)
    if reference.shape != mdp.P.shape[:-1]:
        raise UserError(f"reference must be {tuple(mdp.P.shape[:-1])} to match P, not {tuple(reference.shape)}.")
    ref = reference.reshape(flat.r.shape).double()
    bad = ~(ref >= 0) | ~ref.isfinite() | ((ref > 0) & ~exists)
    if bad.any():
        _, state, action = torch.nonzero(bad)[0].tolist()
        raise UserError(f"reference must be finite, >= 0, and 0 off the mask; not at state {state}, action {action}.")
    reached = flat.mu0 + (flat.P * ((ref > 0) * flat.discount)[..., None]).nan_to_num(0).sum((1, 2))
    stuck = (reached > 0) & ~(ref > 0).any(-1)
    if stuck.any():
        state = torch.nonzero(stuck)[0].tolist()[-1]
        raise UserError(f"reference has no action at state {state}, which its support reaches: no occupancy fits it.")
    return ref


def _follow(flat: Backup, pi: Tensor) -> Float[Tensor, "B S A"]:
    """The occupancy of a policy, zero where it never goes (not rounding: that would be support)."""
    kernel = torch.einsum("bsa,bsa,bsat->bst", pi, flat.discount, flat.P.nan_to_num(0))
    eye = torch.eye(pi.shape[1], dtype=pi.dtype, device=pi.device)
    mass = torch.linalg.solve(eye - kernel.mT, flat.mu0)
    seen = flat.mu0 > 0
    for _ in range(pi.shape[1]):
        more = seen | (((kernel > 0) & seen[..., None]).any(-2))
        if bool((more == seen).all()):
            break
        seen = more
    return (mass.clamp(min=0) * seen)[..., None] * pi


@dataclass(frozen=True)
class _Dual:
    """The dual of one chunk; a pair (s, a) is one row."""

    problem: Backup  # P and r are 0 off the support
    ref: Float[Tensor, "B S A"]
    div: Divergence
    alpha: float
    weights: Float[Tensor, "B SA"]  # ref
    pay: Float[Tensor, "B SA S"]  # rows of E - M: what V pays at each pair

    def slope(self, V: Float[Tensor, "B S"]) -> Float[Tensor, "B SA"]:
        """(r + M V - V) / alpha on the support, 0 off it."""
        y = (self.problem.r.flatten(1) - torch.bmm(self.pay, V[..., None])[..., 0]) / self.alpha
        return torch.where(self.weights > 0, y, 0)

    def value(self, V: Float[Tensor, "B S"]) -> tuple[Float[Tensor, " B"], Float[Tensor, "B SA"]]:
        y = self.slope(V)
        conjugate = torch.where(self.weights > 0, self.div.conjugate_nonneg(y), 0)
        return (self.problem.mu0 * V).sum(-1) + self.alpha * (self.weights * conjugate).sum(-1), y

    def gradient(self, w: Float[Tensor, "B SA"]) -> Float[Tensor, "B S"]:
        """mu0 - (E - M)' (ref w): 0 iff ref w is an occupancy."""
        return self.problem.mu0 - torch.bmm(self.pay.mT, (self.weights * w)[..., None])[..., 0]

    def precondition(self, curvature: Float[Tensor, "B SA"], right: Float[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """H^{-1} right, H = (E - M)' curvature (E - M); states without curvature (chi2 clipped at 0) get a diagonal."""
        hessian = torch.bmm(self.pay.mT, curvature[..., None] * self.pay)
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        top = diagonal.amax(-1, keepdim=True)
        diagonal += torch.where(diagonal > 1e-12 * top, 1e-14 * diagonal, top)
        factor, info = torch.linalg.cholesky_ex(hessian)
        if bool((info > 0).any()):
            diagonal += 1e-9 * top * (info > 0)[:, None]
            factor = torch.linalg.cholesky(hessian)
        return torch.cholesky_solve(right[..., None], factor)[..., 0]


def _prepare(problem: Backup, ref: Tensor, div: Divergence, alpha: float) -> tuple[_Dual, Float[Tensor, "B S"]]:
    """The dual and its start: V* on the support, and 0 in a state that nothing reaches (V is free there, and stays)."""
    B, S, A = ref.shape
    used = ref > 0
    problem = replace(problem, P=problem.P.masked_fill(~used[..., None], 0), r=problem.r.masked_fill(~used, 0))
    hard = replace(problem, missing=~used & used.any(-1, keepdim=True))
    weight(hard)  # refuses discounts of 1 that never end
    moves = (problem.P * problem.discount[..., None]).reshape(B, S * A, S)
    pay = torch.eye(S, dtype=moves.dtype, device=moves.device).repeat_interleave(A, 0) - moves
    return _Dual(problem, ref, div, alpha, ref.flatten(1), pay), howard(hard)[0]


def _newton(dual: _Dual, V: Tensor, tol: float, limit: int) -> Found:
    value, y = dual.value(V)
    for iteration in range(1, limit + 1):
        w = torch.where(dual.weights > 0, dual.div.ratio(y), 0)
        d, lower = _feasible(dual, w)
        gap = (value - lower) / value.abs().clamp(min=1)
        if bool((gap <= 0.1 * tol).all()):
            return V, d, lower, value, iteration
        second = dual.div.f_second(torch.where(w > 0, w, 1.0)).clamp(min=1e-300)
        gradient = dual.gradient(w)
        step = -dual.precondition(torch.where(w > 0, dual.weights / second / dual.alpha, 0), gradient)
        V_next, value_next, y_next = _search(dual.value, V, value, step, gradient)
        if bool((gap <= tol).all()) and not bool((value_next < value).any()):
            return V, d, lower, value, iteration
        V, value, y = V_next, value_next, y_next
    raise _unfinished(gap, limit)


def _unfinished(gap: Tensor, limit: int) -> UserError:
    worst = float(gap.nan_to_num(torch.inf).max())
    return UserError(f"the duality gap is {worst:.2g} after {limit} steps; valid are a larger alpha, tol or limit.")


def _search(
    dual: Callable[[Tensor], tuple[Tensor, Tensor]], V: Tensor, value: Tensor, step: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Armijo backtracking per problem: each keeps its first acceptable length, or stays where it is."""
    slope = (step * gradient).sum(-1)
    length = torch.ones_like(value)
    for _ in range(HALVINGS):
        trial = V + length[:, None] * step
        found, y = dual(trial)
        good = found <= value + 1e-4 * length * slope
        if bool(good.all()):
            return trial, found, y
        length = torch.where(good, length, length / 2)
    length = torch.where(good, length, 0)
    trial = V + length[:, None] * step
    found, y = dual(trial)
    return trial, found, y


def _interior(dual: _Dual, V: Tensor, tol: float, limit: int) -> Found:
    """Primal-dual interior point (Boyd and Vandenberghe 2004, algorithm 11.2), for w > 0 with slack z > 0:

    f'(w) - y(V) - z = 0,   w z = mu,   (E - M)' (ref w) = mu0,   mu -> 0.   A problem that is done stands still.
    """
    used, div = dual.weights > 0, dual.div

    def residual(V: Tensor, w: Tensor, z: Tensor, mu: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        still = torch.where(used, div.f_prime(w) - dual.slope(V) - z, 0)
        centre, balance = torch.where(used, w * z - mu, 0), dual.gradient(w)
        return still, centre, balance, torch.cat([still, centre, balance], -1).norm(dim=-1)

    w = torch.ones_like(dual.weights)
    z = (-dual.slope(V)).clamp(min=1)
    last = torch.full_like(V[:, 0], torch.inf)
    for iteration in range(1, limit + 1):
        d, lower = _feasible(dual, torch.where(used, w, 0))
        value = dual.value(V)[0]
        gap = (value - lower) / value.abs().clamp(min=1)
        if bool((gap <= tol).all()) and not bool(((gap > 0.1 * tol) & (gap < last)).any()):
            return V, d, lower, value, iteration
        last = gap
        mu = 0.1 * (w * z * used).sum(-1, keepdim=True) / used.sum(-1, keepdim=True)
        still, centre, balance, size = residual(V, w, z, mu)
        inverse = 1 / (div.f_second(w) + z / w)
        target = still + centre / w
        right = -balance - torch.bmm(dual.pay.mT, (dual.weights * inverse * target)[..., None])[..., 0]
        dV = dual.precondition(dual.weights * inverse / dual.alpha, right)
        dw = torch.where(used, -inverse * (target + torch.bmm(dual.pay, dV[..., None])[..., 0] / dual.alpha), 0)
        dz = torch.where(used, -(centre + z * dw) / w, 0)
        length = 0.99 / torch.maximum(-dw / w, -dz / z).amax(-1, keepdim=True).clamp(min=0.99)
        length = torch.where(gap[:, None] <= 0.1 * tol, 0, length)
        for _ in range(HALVINGS):
            trial = V + length * dV, w + length * dw, z + length * dz
            good = residual(*trial, mu)[3] <= (1 - 0.01 * length[:, 0]) * size
            if bool(good.all()):
                break
            length = torch.where(good[:, None], length, length / 2)
        V, w, z = trial
    raise _unfinished(gap, limit)


def _feasible(dual: _Dual, w: Tensor) -> tuple[Float[Tensor, "B S A"], Float[Tensor, " B"]]:
    """The occupancy of the policy that ref w defines, which balances exactly, and its primal value."""
    ref = dual.ref
    d = (dual.weights * w).reshape(ref.shape)
    pi = torch.where(d.sum(-1, keepdim=True) > 0, d, ref)
    pi = pi / pi.sum(-1, keepdim=True).clamp(min=1e-300)
    exact = _follow(dual.problem, pi)
    ratio = torch.where(ref > 0, exact / torch.where(ref > 0, ref, 1), 0)
    cost = torch.where(ref > 0, ref * dual.div.f(ratio), 0).sum((-2, -1))
    return exact, (exact * dual.problem.r).sum((-2, -1)) - dual.alpha * cost
