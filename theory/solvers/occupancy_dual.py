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

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.divergences import Divergence, get_divergence
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman import Backup, chunks, flatten, weight
from fenchel.theory.solvers.discounted import check_policy, howard
from fenchel.theory.solvers.solution import Certificate, Solution

HALVINGS = 60


def solve_occupancy_dual(
    problem: TabularMDP, *, method: str = "auto", tol: float = 1e-10, divergence: str | Divergence = "kl",
    alpha: float = 1.0, reference: Float[Tensor, "*b S A"] | None = None, behaviour: Tensor | None = None,
    limit: int = 200,
) -> Solution:  # fmt: skip
    """A whole batch by (semismooth) Newton; any `Divergence` but "tv", whose f is not strictly convex; alpha > 0.

    reference: any measure (..., S, A) >= 0; default: the occupancy of `behaviour`, default uniform over the actions.
    Returns V (dual), occupancy (flow-feasible), policy, lower = primal value of the occupancy, upper = dual value,
    extra["w"] = occupancy / reference (0 off its support), extra["reference"]; the gap is relative to max(1, |value|).
    Raises UserError where the support of the reference leaves a state that it reaches without an action.
    """
    if method not in ("auto", "newton"):
        raise unknown("method", method, ("auto", "newton"))
    div = get_divergence(divergence)
    if not bool(div.f_second(torch.ones(1)) > 0):
        raise UserError(f"divergence={div} is not valid here; the dual needs a strictly convex f, as kl or chi2 have.")
    if not alpha > 0:
        raise UserError(f"alpha={alpha} is not valid; it must be positive.")
    with torch.no_grad():
        flat = flatten(problem)
        ref = _reference(problem, flat, reference, behaviour)
        parts = [_newton(flat[c], ref[c], div, alpha, tol, limit) for c in chunks(flat)]
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


def _newton(
    problem: Backup, ref: Tensor, div: Divergence, alpha: float, tol: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """(V, occupancy, primal value, dual value, iterations) of one chunk."""
    B, S, A = ref.shape
    used = ref > 0
    problem = replace(problem, P=problem.P.masked_fill(~used[..., None], 0), r=problem.r.masked_fill(~used, 0))
    empty = ~used.any(-1)  # states that nothing reaches: V is free there, and stays
    V = _start(problem, used, empty)
    # rows of E - M: what V pays at each pair
    pay = torch.eye(S, dtype=V.dtype, device=V.device).repeat_interleave(A, 0) - (
        problem.P * problem.discount[..., None]
    ).reshape(B, S * A, S)
    weights, r = ref.reshape(B, -1), problem.r.reshape(B, -1)

    def dual(V: Tensor) -> tuple[Tensor, Tensor]:
        y = (r - torch.bmm(pay, V[..., None])[..., 0]) / alpha
        conjugate = torch.where(weights > 0, div.conjugate_nonneg(torch.where(weights > 0, y, 0)), 0)
        return (problem.mu0 * V).sum(-1) + alpha * (weights * conjugate).sum(-1), y

    value, y = dual(V)
    for iteration in range(1, limit + 1):
        w = torch.where(weights > 0, div.ratio(torch.where(weights > 0, y, 0)), 0)
        gradient = problem.mu0 - torch.bmm(pay.mT, (weights * w)[..., None])[..., 0]
        d, lower = _feasible(problem, (weights * w).reshape(ref.shape), ref, div, alpha)
        gap = (value - lower) / value.abs().clamp(min=1)
        if bool((gap <= 0.1 * tol).all()):
            return V, d, lower, value, iteration
        step = _direction(pay, weights, w, gradient, div, alpha)
        V_next, value_next, y_next = _search(dual, V, value, step, gradient)
        if bool((gap <= tol).all()) and not bool((value_next < value).any()):
            return V, d, lower, value, iteration
        V, value, y = V_next, value_next, y_next
    worst = float(gap.nan_to_num(torch.inf).max())
    raise UserError(
        f"the duality gap is {worst:.2g} after {limit} Newton steps; valid are a larger alpha, tol or limit."
    )


def _start(problem: Backup, used: Tensor, empty: Tensor) -> Tensor:
    """V* on the support; an empty state ends with value 0."""
    missing = ~used & ~empty[..., None]
    hard = replace(problem, missing=missing)
    weight(hard)  # refuses discounts of 1 that never end
    return howard(hard)[0]


def _direction(
    pay: Tensor, weights: Tensor, w: Tensor, gradient: Tensor, div: Divergence, alpha: float
) -> Float[Tensor, "B S"]:
    """Newton's direction; states without an active pair (chi2 clipped at 0) get a small multiple of the identity."""
    curvature = torch.where(w > 0, weights / div.f_second(torch.where(w > 0, w, 1.0)).clamp(min=1e-300) / alpha, 0)
    hessian = torch.bmm(pay.mT, curvature[..., None] * pay)
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    top = diagonal.amax(-1, keepdim=True)
    diagonal += torch.where(diagonal > 1e-12 * top, 1e-14 * diagonal, top)
    factor, info = torch.linalg.cholesky_ex(hessian)
    if bool((info > 0).any()):
        diagonal += 1e-9 * top * (info > 0)[:, None]
        factor = torch.linalg.cholesky(hessian)
    return -torch.cholesky_solve(gradient[..., None], factor)[..., 0]


def _search(dual, V: Tensor, value: Tensor, step: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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


def _feasible(
    problem: Backup, d: Tensor, ref: Tensor, div: Divergence, alpha: float
) -> tuple[Float[Tensor, "B S A"], Float[Tensor, " B"]]:
    """The occupancy of the policy that d defines, which balances exactly, and its primal value."""
    mass = d.sum(-1, keepdim=True)
    pi = torch.where(mass > 0, d, ref)
    pi = pi / pi.sum(-1, keepdim=True).clamp(min=1e-300)
    exact = _follow(problem, pi)
    w = torch.where(ref > 0, exact / torch.where(ref > 0, ref, 1), 0)
    cost = torch.where(ref > 0, ref * div.f(w), 0).sum((-2, -1))
    return exact, (exact * problem.r).sum((-2, -1)) - alpha * cost
