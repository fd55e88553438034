"""Entropy- and KL-regularised MDPs in log-sum-exp form.

    V(s) = alpha log sum_a ref(a | s) exp(Q(s, a) / alpha),     pi(a | s) = ref(a | s) exp((Q(s, a) - V(s)) / alpha)

Without a reference, ref = 1 on every action that exists: the entropy bonus of soft actor-critic. With one, the cost is
alpha KL(pi, ref), as in DPO, XQL and RLHF. alpha -> 0 is the unregularised optimum (on the reference's support).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman import EPS, Backup, Bounds, chunks, flatten
from fenchel.theory.solvers.discounted import check_policy
from fenchel.theory.solvers.solution import Certificate, Solution

METHODS = ("auto", "vi", "pi")


def solve_soft(
    problem: TabularMDP, *, method: str = "auto", tol: float = 1e-8, alpha: float = 1.0,
    reference: Float[Tensor, "*b S A"] | None = None, limit: int = 100_000,
) -> Solution:  # fmt: skip
    """V, Q, the softmax policy, its unnormalised occupancy, lower <= regularised value of the policy <= V* <= upper.

    method: "pi" (soft policy iteration, which is Newton's method: quadratic) or "vi"; both stop on two-sided bounds,
    relative to max(1, |V|). Raises UserError for alpha <= 0, and unless every discount is below 1.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not alpha > 0:
        raise UserError(f"alpha={alpha} is not valid; it must be positive.")
    if reference is not None:
        check_policy(problem, reference, "reference")
    with torch.no_grad():
        flat = flatten(problem)
        log_ref = torch.zeros_like(flat.r) if reference is None else reference.reshape(flat.r.shape).double().log()
        if flat.missing is not None:
            log_ref = log_ref.masked_fill(flat.missing, -torch.inf)
            flat = replace(
                flat, r=flat.r.masked_fill(flat.missing, 0), P=flat.P.masked_fill(flat.missing[..., None], 0)
            )
        flat = replace(flat, missing=None)
        newton = method == "pi" or (method == "auto" and problem.num_states <= 500)
        parts = [_iterate(flat[c], log_ref[c], alpha, newton, tol, limit) for c in chunks(flat)]
        lower, upper, log_pi, d = (torch.cat([p[i] for p in parts]) for i in range(4))  # type: ignore[misc]
        return _solution(problem, flat, Bounds(lower, upper, log_pi), d, max(p[4] for p in parts), tol)


def _solution(problem: TabularMDP, flat: Backup, found: Bounds, d: Tensor, iterations: int, tol: float) -> Solution:
    batch, pi = problem.batch_shape, found.actions.exp()

    def shaped(t: Tensor) -> Tensor:
        return t.reshape(*batch, *t.shape[1:]).to(problem.dtype)

    Q = shaped(flat.q(found.middle)).masked_fill(~problem.mask, -torch.inf)
    return Solution(
        V=shaped(found.middle), Q=Q, policy=shaped(pi), occupancy=shaped(d[..., None] * pi), iterations=iterations,
        lower=shaped(found.lower), upper=shaped(found.upper),
        certificate=Certificate("soft", {"gap": found.gap.reshape(batch)}, tol),
    )  # fmt: skip


def _iterate(
    problem: Backup, log_ref: Tensor, alpha: float, newton: bool, tol: float, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """(lower, upper, log policy, state occupancy, iterations) of one chunk."""
    ones = torch.ones_like(problem.mu0)
    eye = torch.eye(ones.shape[-1], dtype=ones.dtype, device=ones.device)
    mass = problem.expect(ones).masked_fill(log_ref == -torch.inf, 0)
    most, least = mass.amax(-1), torch.where(log_ref == -torch.inf, torch.inf, mass).amin(-1)
    if not bool((most < 1 - 1e-9).all()):
        raise UserError("discount must be below 1 everywhere in a regularised MDP; termination is a discount of 0.")
    V, previous = torch.zeros_like(ones), torch.inf
    for iteration in range(1, limit + 1):
        Q = problem.q(V)
        logits = Q / alpha + log_ref
        backup, log_pi = alpha * logits.logsumexp(-1), logits.log_softmax(-1)
        lower, upper = _bounds(V, backup, most, least, (log_pi.exp() * mass).sum(-1))
        gap = Bounds(lower, upper, log_pi).gap
        kernel = torch.einsum("bsa,bsa,bsat->bst", log_pi.exp(), problem.discount, problem.P) if newton else None
        # Newton ends at rounding, one step after the gap is small enough
        if bool((gap <= tol).all()) and (not newton or float(gap.max()) >= 0.25 * previous):
            kernel = torch.einsum("bsa,bsa,bsat->bst", log_pi.exp(), problem.discount, problem.P)
            return lower, upper, log_pi, torch.linalg.solve(eye - kernel.mT, problem.mu0), iteration
        previous = float(gap.max())
        V = backup if kernel is None else V + torch.linalg.solve(eye - kernel, backup - V)
    raise UserError(f"the bounds did not reach tol={tol:g} in {limit} iterations; valid are a larger tol or limit.")


def _bounds(V: Tensor, backup: Tensor, most: Tensor, least: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Shift V by constants c until it is super- (sub-)harmonic: backup(V + c) - backup(V) lies between c * the least

    and the greatest discounted mass of the state's actions; for the policy it is c times its own mass.
    """
    step = backup - V
    rounding = 4 * EPS * torch.maximum(V.abs(), backup.abs()).amax(-1, keepdim=True) / (1 - most).amin(-1, keepdim=True)
    high = (step / (1 - most)).amax(-1, keepdim=True)
    high = torch.where(high >= 0, high, (step / (1 - least)).amax(-1, keepdim=True)) + rounding
    low = (step / (1 - own)).amin(-1, keepdim=True) - rounding
    return backup + low * own, backup + high * torch.where(high >= 0, most, least)
