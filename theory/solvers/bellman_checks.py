"""Certificates of Bellman equations, recomputed from the problem's tensors without the solvers' operators or bounds.

The test of a claimed bound is one backup: U >= max_a (r + M U) everywhere proves V* <= U, and L <= r_pi + M_pi L
proves V^pi >= L, whatever produced them. Residuals are relative to max(1, max |V|).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.solution import Solution


def expected(mdp: Any, V: Float[Tensor, "*b S"]) -> Float[Tensor, "*b S A"]:
    """discount * P V, zero where the action does not exist; for dense and sparse MDPs."""
    if not isinstance(mdp, TabularMDP):
        return (mdp.discount * (mdp.prob * V[mdp.index.long()]).sum(-1)).masked_fill(~mdp.mask, 0)
    gamma = mdp.discount if mdp.discount.ndim == mdp.P.ndim else mdp.discount[..., None]
    return (gamma * mdp.P * V[..., None, None, :]).sum(-1).masked_fill(~mdp.mask, 0)


def flow(mdp: Any, d: Float[Tensor, "*b S A"]) -> Float[Tensor, "*b S"]:
    """Discounted mass that an occupancy sends to each state."""
    if not isinstance(mdp, TabularMDP):
        return mdp.flow(d)
    gamma = mdp.discount if mdp.discount.ndim == mdp.P.ndim else mdp.discount[..., None]
    return (d[..., None] * (gamma * mdp.P).masked_fill(~mdp.mask[..., None], 0)).sum((-3, -2))


def scale(V: Tensor) -> Tensor:
    return V.abs().amax(-1).clamp(min=1)


def positive(x: Tensor) -> Tensor:
    """The worst violation over states; one that is not a number is kept as such."""
    return x.clamp(min=0).amax(-1)


def on_policy(policy: Tensor, Q: Tensor) -> Float[Tensor, "*b S"]:
    return (policy * Q.masked_fill(policy == 0, 0)).sum(-1)


def off_policy_simplex(mdp: Any, policy: Tensor) -> Tensor:
    """How far a policy is from distributions over the existing actions."""
    off = (policy.sum(-1) - 1).abs() + (-policy).clamp(min=0).amax(-1) + (policy * ~mdp.mask).abs().amax(-1)
    return off.amax(-1)


def occupancy_residuals(mdp: Any, d: Tensor, policy: Tensor) -> dict[str, Tensor]:
    """Flow balance, sign, and that the occupancy is the policy's own."""
    total = d.sum(-1)
    size = total.sum(-1).clamp(min=1)
    return {
        "flow": (total - flow(mdp, d) - mdp.mu0).abs().amax(-1) / size,
        "nonnegative": (-d).clamp(min=0).amax((-2, -1)) / size,
        "occupancy": (d - total[..., None] * policy).abs().amax((-2, -1)) / size,
    }


def check_discounted(mdp: Any, answer: Solution) -> dict[str, Tensor]:
    """Both bounds by one backup each, their gap, V between them, Q, the policy, the occupancy and its duality gap."""
    r = mdp.r.masked_fill(~mdp.mask, -torch.inf)
    residuals = _two_sided(mdp, answer, (r + expected(mdp, answer.upper)).amax(-1))
    residuals["Q"] = _q_residual(mdp, r, answer)
    if answer.occupancy is not None:
        residuals |= occupancy_residuals(mdp, answer.occupancy, answer.policy) | _duality(mdp, answer)
    return residuals


def check_evaluation(mdp: TabularMDP, answer: Solution, policy: Tensor) -> dict[str, Tensor]:
    """As for "discounted", with the backup of `policy` in place of the maximum."""
    r = mdp.r.masked_fill(~mdp.mask, 0)
    residuals = _two_sided(mdp, answer, on_policy(policy, r + expected(mdp, answer.upper)))
    residuals |= occupancy_residuals(mdp, answer.occupancy, policy) | _duality(mdp, answer)
    return residuals | {"Q": _q_residual(mdp, mdp.r.masked_fill(~mdp.mask, -torch.inf), answer)}


def _two_sided(mdp: Any, answer: Solution, backed_up: Tensor) -> dict[str, Tensor]:
    size, V = scale(answer.V) / longest(mdp), answer.V  # a violation counts as the gap that it leaves open
    own = on_policy(answer.policy, mdp.r + expected(mdp, answer.lower))
    return {
        "upper": positive(backed_up - answer.upper) / size,
        "lower": positive(answer.lower - own) / size,
        "gap": (answer.upper - answer.lower).abs().amax(-1) / scale(V),
        "value": positive(torch.maximum(answer.lower - V, V - answer.upper)) / scale(V),
        "policy": off_policy_simplex(mdp, answer.policy),
    }


def longest(mdp: Any, limit: int = 100_000) -> Tensor:
    """The longest discounted time of any policy: what one step's violation may amount to; nan where it is infinite."""
    ones = torch.ones_like(mdp.mu0)
    mass = expected(mdp, ones).amax((-2, -1))
    if bool((mass < 1 - 1e-9).all()):
        return 1 / (1 - mass)
    h = ones
    for _ in range(limit):
        h, last = 1 + expected(mdp, h).amax(-1), h
        if bool((h - last <= 1e-9 * h).all()):
            return h.amax(-1)
    return torch.full_like(mass, torch.nan)


def _q_residual(mdp: Any, r: Tensor, answer: Solution) -> Tensor:
    off = (answer.Q - r - expected(mdp, answer.V)).masked_fill(~mdp.mask, 0)
    return off.abs().amax((-2, -1)) / scale(answer.V)


def _duality(mdp: Any, answer: Solution) -> dict[str, Tensor]:
    """<d, r> = mu0 . V: the value and the occupancy certify one another."""
    primal = (answer.occupancy * mdp.r.masked_fill(~mdp.mask, 0)).sum((-2, -1))
    return {"duality": (primal - (mdp.mu0 * answer.V).sum(-1)).abs() / scale(answer.V)}


def check_finite(
    mdp: TabularMDP, answer: Solution, horizon: int | None = None, terminal: Tensor | None = None
) -> dict[str, Tensor]:
    """Bellman's equation of every step, the flow of every step, and the duality gap of the whole."""
    V, d = answer.V, answer.occupancy
    step = mdp if horizon is None else mdp.map(lambda t: t.unsqueeze(len(mdp.batch_shape)))
    Q = (step.r + expected(step, V[..., 1:, :])).masked_fill(~step.mask, -torch.inf)
    size = V.abs().amax((-2, -1)).clamp(min=1)
    end = torch.zeros_like(V[..., -1, :]) if terminal is None else terminal.to(V).expand_as(V[..., -1, :])
    mu0 = mdp.mu0 if horizon is not None else mdp.mu0[..., 0, :]
    start = torch.cat([mu0[..., None, :], flow(step, d)[..., :-1, :]], -2)
    left = flow(step, d)[..., -1, :]
    primal = (d * step.r.masked_fill(~step.mask, 0)).sum((-3, -2, -1)) + (left * end).sum(-1)
    return {
        "bellman": (V[..., :-1, :] - Q.amax(-1)).abs().amax((-2, -1)) / size,
        "terminal": (V[..., -1, :] - end).abs().amax(-1) / size,
        "greedy": (V[..., :-1, :] - on_policy(answer.policy, Q)).abs().amax((-2, -1)) / size,
        "flow": (d.sum(-1) - start).abs().amax((-2, -1)),
        "nonnegative": (-d).clamp(min=0).amax((-3, -2, -1)),
        "duality": (primal - (mu0 * V[..., 0, :]).sum(-1)).abs() / size,
    }


def check_average(mdp: TabularMDP, answer: Solution) -> dict[str, Tensor]:
    """min_s (r_pi + P_pi h - h) <= gain of pi <= optimal gain <= max_s (max_a r + P h - h), for the given bias h."""
    h = answer.extra["bias"]
    Q = mdp.r.masked_fill(~mdp.mask, -torch.inf) + (mdp.P * h[..., None, None, :]).sum(-1).masked_fill(~mdp.mask, 0)
    high = (Q.amax(-1) - h).amax(-1)
    low = (on_policy(answer.policy, Q) - h).amin(-1)
    size = answer.V.abs().amax(-1).clamp(min=1)
    return {
        "upper": (high - answer.upper.amax(-1)).clamp(min=0) / size,
        "lower": (answer.lower.amax(-1) - low).clamp(min=0) / size,
        "gap": (answer.upper - answer.lower).abs().amax(-1) / size,
        "value": positive(torch.maximum(answer.lower - answer.V, answer.V - answer.upper)) / size,
        "policy": off_policy_simplex(mdp, answer.policy),
    }


def check_soft(
    mdp: TabularMDP, answer: Solution, alpha: float = 1.0, reference: Tensor | None = None
) -> dict[str, Tensor]:
    """Two one-step tests of the regularised operator, and the flow of the occupancy.

    The upper one uses  max_pi <pi, Q> - alpha KL(pi, ref) = alpha log sum ref exp(Q / alpha),  the lower one the
    policy's own regularised backup, from its entropies.
    """
    weight = mdp.mask.to(answer.V) if reference is None else reference.to(answer.V)
    r = mdp.r.masked_fill(~mdp.mask, 0)
    above = torch.where(weight > 0, (r + expected(mdp, answer.upper)) / alpha + weight.log(), -torch.inf)
    pi, size, steps = answer.policy, scale(answer.V), longest(mdp)
    cost = alpha * (torch.special.xlogy(pi, pi) - torch.special.xlogy(pi, weight)).sum(-1)
    own = (pi * (r + expected(mdp, answer.lower))).sum(-1) - cost
    primal = (answer.occupancy * r).sum((-2, -1)) - (answer.occupancy.sum(-1) * cost).sum(-1)
    return {
        "upper": positive(alpha * above.logsumexp(-1) - answer.upper) / size * steps,
        "lower": positive(answer.lower - own) / size * steps,
        "gap": (answer.upper - answer.lower).abs().amax(-1) / size,
        "value": positive(torch.maximum(answer.lower - answer.V, answer.V - answer.upper)) / size,
        "policy": off_policy_simplex(mdp, pi),
        "duality": (primal - (mdp.mu0 * answer.V).sum(-1)).abs() / size,
    } | occupancy_residuals(mdp, answer.occupancy, pi)
