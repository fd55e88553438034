"""Regularised MDPs as convex programs over occupancies, by cvxpy: the primal, never our dual."""

from __future__ import annotations

import warnings

import cvxpy as cp
import numpy as np

from fenchel.theory.referees.linear_program import pairs

SOLVERS = ("CLARABEL", "SCS")


def _solve(objective, constraints) -> float:
    """The optimum; a solver that fails is named in a warning before the next one tries."""
    program = cp.Problem(cp.Maximize(objective), constraints)
    for name in SOLVERS:
        options = {"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iters": 200_000} if name == "SCS" else {}
        try:
            program.solve(solver=name, **options)
        except cp.error.SolverError as error:
            warnings.warn(f"{name} failed on this convex program: {error}", RuntimeWarning, stacklevel=3)
            continue
        if program.status == cp.OPTIMAL:
            return float(program.value)
        warnings.warn(f"{name} ended with status {program.status}", RuntimeWarning, stacklevel=3)
    raise RuntimeError(f"none of {', '.join(SOLVERS)} solved the convex program")


def occupancy_value(mdp, divergence: str, alpha: float, reference: np.ndarray) -> tuple[float, np.ndarray]:
    """(optimum, occupancy (S, A)) of max <d, r> - alpha D(d || reference) for one problem; "kl", "chi2", "alpha:3"."""
    state, action, _, rows, reward = pairs(mdp)
    used = reference[state, action] > 0
    state, action, rows, reward = state[used], action[used], rows[used], reward[used]
    ref = reference[state, action]
    d = cp.Variable(len(state), nonneg=True)
    if divergence == "kl":
        cost = cp.sum(cp.kl_div(d, ref))  # d log(d / ref) - d + ref
    elif divergence == "chi2":
        cost = cp.sum(cp.multiply(1 / ref, cp.square(d - ref)))
    elif divergence == "alpha:3":  # (w^3 - 3 w + 2) / 6
        cost = (cp.sum(cp.multiply(ref, cp.power(cp.multiply(1 / ref, d), 3))) - 3 * cp.sum(d) + 2 * ref.sum()) / 6
    else:
        raise ValueError(f"divergence={divergence} is unknown here; valid are kl, chi2, alpha:3")
    balance = (np.eye(mdp.num_states)[state] - rows).T @ d == mdp.mu0.numpy()
    value = _solve(reward @ d - alpha * cost, [balance])
    full = np.zeros(mdp.P.shape[:2])
    full[state, action] = d.value
    return value, full


def soft_value(mdp, alpha: float, reference: np.ndarray) -> float:
    """mu0 . V of max E sum r - alpha sum_s d(s) KL(pi(. | s), reference(. | s)); reference = 1 gives the entropy."""
    state, action, _, rows, reward = pairs(mdp)
    used = reference[state, action] > 0
    state, action, rows, reward = state[used], action[used], rows[used], reward[used]
    d = cp.Variable(len(state), nonneg=True)
    same = (state[:, None] == state[None]).astype(float)
    cost = cp.sum(cp.rel_entr(d, cp.multiply(reference[state, action], same @ d)))
    balance = (np.eye(mdp.num_states)[state] - rows).T @ d == mdp.mu0.numpy()
    return _solve(reward @ d - alpha * cost, [balance])
