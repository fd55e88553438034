"""Constrained MDPs: maximise channel 0 subject to budgets on the cost channels 1, ..., K (Altman 1999).

    max_d <r_0, d>   s.t.   <r_k, d> <= budget_k,   d an occupancy         (multipliers lam_k >= 0)
    min_{V, lam >= 0} mu0 . V + lam . budget   s.t.   V >= r_0 - lam . r_c + kernel V

The unit of the budgets, and of the objective, is stated by the caller and never guessed:
    discounted   E sum_t (product of discounts) c_t
    normalised   (1 - discount) times that: the discounted mean cost per step (needs one constant discount)
    episode      E sum_t c_t until termination (needs discounts of 0 or 1, so that nothing is discounted)
    average      long-run cost per step (discounts are ignored)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from fenchel.errors import UserError, unknown
from fenchel.theory.budgets import UNITS
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.solvers import cmdp_checks
from fenchel.theory.solvers.bellman import occupancy, one_hot, policy_iteration
from fenchel.theory.solvers.game_checks import certified
from fenchel.theory.solvers.solution import Solution

METHODS = ("auto", "lp", "lagrangian")
DROPPED = 1e-9  # HiGHS ignores smaller coefficients; dropping them first keeps problem and answer consistent
OPTIONS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


class InfeasibleError(UserError):
    """No policy meets the budgets. `weights` (K,) >= 0 and `V` (S,) are the Farkas proof:

    V <= weights . costs + kernel V, so every policy's weighted cost is at least mu0 . V > weights . budgets.
    """

    def __init__(self, message: str, weights: Tensor, V: Tensor):
        super().__init__(message)
        self.weights, self.V = weights, V


def _validate(mdp: TabularMDP, budgets, unit: str, method: str) -> Float[Tensor, "*b K"]:
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if mdp.num_channels is None or mdp.num_channels < 2:
        raise UserError("a constrained MDP needs r (..., 1 + K, S, A): the objective first, then K >= 1 costs.")
    K = mdp.num_channels - 1
    budgets = torch.as_tensor(budgets, dtype=mdp.dtype, device=mdp.device)
    budgets = budgets[None] if budgets.ndim == 0 else budgets
    if budgets.shape[-1] != K or not torch.isfinite(budgets).all():
        raise UserError(f"budgets must be {K} finite numbers, one per cost channel, not {tuple(budgets.shape)}.")
    gamma, low, high = mdp.discount, float(mdp.discount.min()), float(mdp.discount.max())
    if unit == "normalised" and (low != high or low >= 1):
        raise UserError("unit=normalised needs one constant discount below 1; use unit=discounted.")
    if unit == "episode" and not ((gamma == 0) | (gamma == 1)).all():
        raise UserError("unit=episode needs discounts of 0 (end) or 1; use unit=discounted for a discounted problem.")
    if unit == "average" and method == "lagrangian":
        raise UserError("method=lagrangian is unknown for unit=average; valid is lp.")
    if method == "lagrangian" and K != 1:
        raise UserError(f"method=lagrangian takes one constraint, not {K}; valid is lp.")
    return budgets.expand(*mdp.batch_shape, K)


def solve_cmdp(
    problem: TabularMDP, *, budgets: Sequence[float] | Tensor, unit: str, method: str = "auto", tol: float = 1e-8
) -> Solution:
    """The optimum of a (batch of) constrained MDP(s).

    budgets (..., K) or (K,): upper limits, in `unit`. method: "lp" (HiGHS, any K), "lagrangian" (one constraint,
    batched, not for averages), "auto" (lagrangian for a batch with one constraint).
    Returns occupancy (..., S, A) (discounted sums; for averages the stationary state-action frequencies), `policy`
    (randomised, reaches the occupancy), multipliers (..., K) = d value / d budget, V of the Lagrangian (for averages
    the gain, with extra["bias"]), lower = value reached, upper = dual bound, both in `unit`, extra["costs"] (..., K).
    Raises InfeasibleError (a UserError) with a Farkas proof.
    """
    budgets = _validate(problem, budgets, unit, method)
    scale = 1 - float(problem.discount.max()) if unit == "normalised" else 1.0
    if method == "auto" and problem.batch_shape and budgets.shape[-1] == 1 and unit != "average":
        method = "lagrangian"
    if method == "lagrangian":
        fields = _lagrangian(problem, budgets[..., 0] / scale)
    else:
        fields = _linear_programs(problem, budgets / scale, unit)
    d, V, lam = fields["occupancy"], fields["V"], fields["multipliers"]
    returns = torch.einsum("...ksa,...sa->...k", problem.r, d) * scale
    upper = (problem.mu0 * V).sum(-1) * scale + (lam * budgets).sum(-1)
    extra = {"costs": returns[..., 1:]} | {k: v for k, v in fields.items() if k in ("bias", "transient")}
    answer = Solution(
        V=V, policy=fields["policy"], occupancy=d, multipliers=lam, lower=returns[..., 0], upper=upper,
        iterations=fields["iterations"], extra=extra,
    )  # fmt: skip
    return certified(answer, "cmdp", cmdp_checks.check_cmdp, problem, tol, budgets=budgets, unit=unit)


def _policy_of(d: Float[Tensor, "*b S A"], other: Tensor) -> Tensor:
    """d(a | s), and `other` normalised where d never goes."""
    d, other = d.clamp(min=0), other.clamp(min=0)
    weight = torch.where(d.sum(-1, keepdim=True) > 1e-12, d, other)
    return weight / weight.sum(-1, keepdim=True)


# -- linear programs -------------------------------------------------------------------------------------------------


def _linear_programs(mdp: TabularMDP, budgets: Tensor, unit: str) -> dict:
    one = _average_lp if unit == "average" else _discounted_lp
    if not mdp.batch_shape:
        return one(mdp, budgets)
    flat = mdp.map(lambda t: t.flatten(0, len(mdp.batch_shape) - 1))
    rows = [one(flat[i], b) for i, b in enumerate(budgets.reshape(-1, budgets.shape[-1]))]
    stack = {k: torch.stack([r[k] for r in rows]) for k in rows[0] if k != "iterations"}
    stack = {k: v.reshape(*mdp.batch_shape, *v.shape[1:]) for k, v in stack.items()}
    return stack | {"iterations": sum(r["iterations"] for r in rows)}


def _arrays(mdp: TabularMDP, kernel: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(index of each existing pair, its kernel row, its state's indicator row, its channels (pairs, 1 + K))."""
    pairs = np.flatnonzero(mdp.mask.reshape(-1).cpu().numpy())
    rows = kernel.reshape(-1, mdp.num_states).cpu().numpy().astype(float)[pairs]
    rows[np.abs(rows) < DROPPED] = 0.0
    state = np.eye(mdp.num_states)[pairs // mdp.num_actions]
    channels = mdp.r.flatten(1).T.cpu().numpy().astype(float)[pairs]
    return pairs, rows, state, channels


def _tensors(mdp: TabularMDP, pairs: np.ndarray, values: np.ndarray) -> Tensor:
    full = np.zeros(mdp.num_states * mdp.num_actions)
    full[pairs] = np.clip(values, 0, None)
    return torch.as_tensor(full.reshape(mdp.num_states, mdp.num_actions)).to(mdp.P)


def _highs(c, A, b, bounds):
    return linprog(c, sparse.csr_matrix(A), b, bounds=bounds, method="highs", options=OPTIONS)


def _discounted_lp(mdp: TabularMDP, budgets: Float[Tensor, " K"]) -> dict:
    """The dual-V form: S + K variables; its marginals are the occupancy."""
    pairs, rows, state, channels = _arrays(mdp, mdp.kernel)
    S, K, mu = mdp.num_states, len(budgets), mdp.mu0.cpu().numpy().astype(float)
    b = budgets.cpu().numpy().astype(float)
    bounds = [(None, None)] * S + [(0, None)] * K
    result = _highs(np.r_[mu, b], np.c_[rows - state, -channels[:, 1:]], -channels[:, 0], bounds)
    if result.status != 0:
        _raise_infeasible(mdp, mdp.kernel, budgets, result.message)
    d = _tensors(mdp, pairs, -result.ineqlin.marginals)
    return {
        "V": torch.as_tensor(result.x[:S]).to(mdp.P), "multipliers": torch.as_tensor(result.x[S:]).to(mdp.P),
        "occupancy": d, "policy": _policy_of(d, mdp.mask.to(d)), "iterations": int(result.nit),
    }  # fmt: skip


def _average_lp(mdp: TabularMDP, budgets: Float[Tensor, " K"]) -> dict:
    """min mu0 . g + lam . b  s.t.  g >= P g,  g + h >= r_0 - lam . r_c + P h   (multichain, Kallenberg 1983)."""
    pairs, rows, state, channels = _arrays(mdp, mdp.P)
    S, K, n = mdp.num_states, len(budgets), len(pairs)
    mu, b = mdp.mu0.cpu().numpy().astype(float), budgets.cpu().numpy().astype(float)
    A = np.block(
        [[rows - state, np.zeros((n, S + K))], [-state, rows - state, -channels[:, 1:]]]
    )  # columns: gain, bias, multipliers
    bounds = [(None, None)] * (2 * S) + [(0, None)] * K
    result = _highs(np.r_[mu, np.zeros(S), b], A, np.r_[np.zeros(n), -channels[:, 0]], bounds)
    if result.status != 0:
        _raise_infeasible(mdp, None, budgets, result.message)
    d, transient = (_tensors(mdp, pairs, -m) for m in np.split(result.ineqlin.marginals, [n])[::-1])
    return {
        "V": torch.as_tensor(result.x[:S]).to(mdp.P), "bias": torch.as_tensor(result.x[S : 2 * S]).to(mdp.P),
        "multipliers": torch.as_tensor(result.x[2 * S :]).to(mdp.P), "occupancy": d, "transient": transient,
        "policy": _policy_of(d, transient + 1e-300 * mdp.mask), "iterations": int(result.nit),
    }  # fmt: skip


def _raise_infeasible(mdp: TabularMDP, kernel: Tensor | None, budgets: Tensor, message: str) -> None:
    """max over weights >= 0, sum 1, of [min_policy weights . cost - weights . budgets]: positive iff infeasible."""
    average = kernel is None
    pairs, rows, state, channels = _arrays(mdp, mdp.P if kernel is None else kernel)
    S, K = mdp.num_states, len(budgets)
    mu, b = mdp.mu0.cpu().numpy().astype(float), budgets.cpu().numpy().astype(float)
    A = np.c_[state - rows, -channels[:, 1:]]
    c, simplex, n = np.r_[-mu, b], np.r_[np.zeros(S), np.ones(K)], len(pairs)
    bounds: list = [(None, None)] * S + [(0, None)] * K
    if average:  # variables: gain, bias, weights
        A = np.block([[state - rows, np.zeros((n, S + K))], [state, A]])
        c, simplex, bounds = np.r_[-mu, np.zeros(S), b], np.r_[np.zeros(S), simplex], [(None, None)] * S + bounds
    result = linprog(
        c, sparse.csr_matrix(A), np.zeros(len(A)), simplex[None], [1.0], bounds=bounds, method="highs", options=OPTIONS
    )
    if result.status != 0 or -result.fun <= 0:
        raise UserError(f"the linear program of the constrained MDP ended with: {message}")
    weights, V = torch.as_tensor(result.x[-K:]), torch.as_tensor(result.x[:S])
    raise infeasible(weights.to(mdp.P), V.to(mdp.P), float(-result.fun))


def infeasible(weights: Tensor, V: Tensor, excess: float) -> InfeasibleError:
    """The error that names the constraint(s) with positive weight."""
    names = [str(k + 1) for k in torch.nonzero(weights > 1e-9)[:, 0].tolist()]
    what = f"budget of cost {names[0]}" if len(names) == 1 else f"budgets of costs {', '.join(names)} together"
    return InfeasibleError(
        f"no policy meets the {what}: the least weighted cost exceeds the weighted budget by {excess:.4g}.", weights, V
    )


# -- one constraint, batched -----------------------------------------------------------------------------------------


def _lagrangian(mdp: TabularMDP, budget: Float[Tensor, "*b"], limit: int = 200) -> dict:
    """Secant on lam over policy iteration: each answer is a line reward - lam (cost - budget) under the convex dual.

    The next lam is where the lines of the best over-budget and the best within-budget policy meet; when no policy
    rises above that point, a mixture of the two occupancies that spends the budget exactly is optimal.
    """

    def best(objective: Tensor, start=None):
        V, actions, _ = policy_iteration(replace_reward(mdp, objective), start)
        d = occupancy(mdp, one_hot(actions, mdp.num_actions, mdp.dtype))
        reward, cost = torch.einsum("...ksa,...sa->k...", mdp.r, d)
        return V, actions, d, reward, cost

    r, c = mdp.r[..., 0, :, :], mdp.r[..., 1, :, :]
    V_over, actions, d_over, r_over, c_over = best(r)
    V_least, _, d_within, r_within, c_within = best(-c)
    slack = 1e-9 * (1 + budget.abs())
    if (c_within > budget + slack).any():
        index = tuple(torch.nonzero(c_within > budget + slack)[0].tolist())
        raise infeasible(mdp.P.new_ones(1), -V_least[index], float((c_within - budget)[index]))
    free = c_over <= budget  # the unconstrained optimum is within budget: lam = 0
    lam, V = torch.zeros_like(budget), V_over
    active = ~free & (c_over > c_within)
    for iterations in range(1, limit + 1):  # noqa: B007
        spread = torch.where(active, c_over - c_within, torch.ones_like(lam))
        lam = torch.where(active, (r_over - r_within) / spread, lam).clamp(min=0)
        V, actions, d, reward, cost = best(r - lam[..., None, None] * c, actions)
        top = r_over - lam * c_over
        active = active & (reward - lam * cost > top + 1e-11 * (1 + top.abs()))
        if not active.any():
            break
        over, within = active & (cost > budget), active & (cost <= budget)
        r_over, c_over = torch.where(over, reward, r_over), torch.where(over, cost, c_over)
        r_within, c_within = torch.where(within, reward, r_within), torch.where(within, cost, c_within)
        d_over = torch.where(over[..., None, None], d, d_over)
        d_within = torch.where(within[..., None, None], d, d_within)
    else:
        raise UserError(f"the secant on the multiplier did not settle in {limit} steps; use method=lp.")
    share = ((budget - c_within) / torch.where(c_over > c_within, c_over - c_within, torch.ones_like(lam))).clamp(0, 1)
    share = torch.where(free, torch.ones_like(share), share)[..., None, None]
    d = share * d_over + (1 - share) * d_within
    greedy = one_hot(actions, mdp.num_actions, mdp.dtype)
    return {
        "V": V, "multipliers": lam[..., None], "occupancy": d, "policy": _policy_of(d, greedy), "iterations": iterations
    }  # fmt: skip
