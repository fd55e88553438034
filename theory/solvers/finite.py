"""Finite horizon by backward induction; problem data may change from step to step."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.bellman import one_hot
from fenchel.theory.solvers.bellman_checks import check_finite, flow
from fenchel.theory.solvers.solution import Certificate, Solution


def solve_finite(
    problem: TabularMDP, *, method: str = "auto", tol: float = 1e-8, horizon: int | None = None,
    terminal: Float[Tensor, "*b S"] | None = None,
) -> Solution:  # fmt: skip
    """Maximise E [sum_{t < H} (product of discounts) r_t + terminal(s_H)].

    horizon: H steps of the same MDP; None: the last batch axis of `problem` is time, mu0 that of step 0.
    Returns V (..., H + 1, S), Q, policy (one-hot) and occupancy (..., H, S, A), where d_t is the discounted
    distribution at step t. method: "auto" or "backward".
    """
    if method not in ("auto", "backward"):
        raise unknown("method", method, ("auto", "backward"))
    if problem.num_channels:
        raise UserError("r has channels; valid is one reward, as by mdp.channel(k) or mdp.scalarize(weights).")
    with torch.no_grad():
        steps = stages(problem.to(dtype=torch.float64), horizon)
        V = torch.zeros_like(steps[0].mu0) if terminal is None else terminal.double().expand_as(steps[0].mu0)
        values, qs, policies, occupancies = [V], [], [], []
        for step in reversed(steps):
            Q = step.r + torch.einsum("...sat,...t->...sa", step.kernel, V)
            Q = Q.masked_fill(~step.mask, -torch.inf)
            V, actions = Q.max(-1)
            values.append(V)
            qs.append(Q)
            policies.append(one_hot(actions, problem.num_actions, V.dtype))
        mass = steps[0].mu0
        for step, policy in zip(steps, reversed(policies), strict=True):
            occupancies.append(mass[..., None] * policy)
            mass = flow(step, occupancies[-1])

        def stacked(parts: list[Tensor], axis: int) -> Tensor:
            return torch.stack(parts, axis).to(problem.dtype)

        V = stacked(values[::-1], -2)
        answer = Solution(
            V=V, Q=stacked(qs[::-1], -3), policy=stacked(policies[::-1], -3), occupancy=stacked(occupancies, -3),
            lower=V, upper=V, iterations=len(steps),
        )  # fmt: skip
        residuals = check_finite(problem, answer, horizon=horizon, terminal=terminal)
        return Solution(**vars(answer) | {"certificate": Certificate("finite", residuals, tol)})


def stages(mdp: TabularMDP, horizon: int | None) -> list[TabularMDP]:
    """The MDP of each step."""
    if horizon is not None:
        if horizon < 1:
            raise UserError(f"horizon={horizon} is not valid; it must be at least 1.")
        return [mdp] * horizon
    if not mdp.batch_shape:
        raise UserError("horizon is needed, or an MDP whose last batch axis is time.")
    axis = len(mdp.batch_shape) - 1
    return [mdp.map(partial(torch.select, dim=axis, index=h)) for h in range(mdp.batch_shape[-1])]
