"""Certificates of coverage and Pareto sets."""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers.solution import Solution


def vectors_of(mdp: TabularMDP, policy: Float[Tensor, "N S A"]) -> Float[Tensor, "N K"]:
    """J of each policy from its occupancy (the solver goes through V)."""
    kernel = torch.einsum("nsa,sat->nst", policy, mdp.kernel)
    eye = torch.eye(mdp.num_states, dtype=mdp.dtype, device=mdp.device)
    d = torch.linalg.solve((eye - kernel).mT, mdp.mu0.expand(len(policy), -1)[..., None])
    return torch.einsum("nsa,ksa->nk", policy * d, mdp.r)


def surface_vertices(vectors: Float[Tensor, "N K"]) -> Float[Tensor, "M K"]:
    """Vertices of w -> max_i w . u_i over the simplex, by trying every set of K tight inequalities.

    A vertex solves  w . u_i = v (i in I),  w_k = 0 (k in Z),  sum w = 1  with |I| + |Z| = K and |I| >= 1.
    """
    N, K = vectors.shape
    found = []
    for size in range(1, K + 1):
        for tied in combinations(range(N), size):
            for zero in combinations(range(K), K - size):
                M, right = vectors.new_zeros(K + 1, K + 1), vectors.new_zeros(K + 1)
                for row, i in enumerate(tied):
                    M[row, :K], M[row, K] = vectors[i], -1
                for row, k in enumerate(zero):
                    M[size + row, k] = 1
                M[K, :K], right[K] = 1, 1
                if torch.linalg.det(M).abs() < 1e-12:
                    continue
                w = torch.linalg.solve(M, right)
                on_top = (vectors @ w[:K]).max() <= w[K] + 1e-8 * (1 + vectors.abs().max())
                if (w[:K] >= -1e-10).all() and on_top:
                    found.append(w[:K].clamp(min=0))
    return torch.stack(found)


def check_coverage(mdp: TabularMDP, answer: Solution) -> dict[str, Tensor]:
    """vectors: each is reached by its policy. dual: V proves an upper bound at each corner. gap: the set reaches it.

    corners: every vertex of the set's own surface is among the proven corners (so nothing lies above in between).
    extreme: each vector wins at its weight (the set is minimal).
    """
    u, corners, V = answer.extra["vectors"], answer.extra["corners"], answer.V
    reached = vectors_of(mdp, answer.policy)
    Q = torch.einsum("mk,ksa->msa", corners, mdp.r) + torch.einsum("sat,mt->msa", mdp.kernel, V)
    upper = Q.masked_fill(~mdp.mask, -torch.inf).amax(-1) - V
    distance = torch.cdist(surface_vertices(u), corners, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    others = answer.extra["weights"] @ u.T
    return {
        "vectors": (reached - u).abs().max(),
        "dual": upper.clamp(min=0).max(),
        "gap": (V @ mdp.mu0 - (corners @ u.T).amax(1)).clamp(min=0).max(),
        "corners": distance.max(),
        "extreme": (others.amax(1) - others.diagonal()).max(),
    }


def dominated(u: Float[Tensor, "N K"], by: Float[Tensor, "M K"], slack: float = 0.0) -> Tensor:
    """(N,) bool: some vector of `by` is at least as good everywhere and better by more than slack somewhere."""
    better = (by[None] >= u[:, None]).all(-1) & (by[None] > u[:, None] + slack).any(-1)
    return better.any(1)


def check_pareto(mdp: TabularMDP, answer: Solution, horizon: int | None = None, **_) -> dict[str, Tensor]:
    """internal: no vector of the front dominates another. Stationary sets: each vector is its policy's, and no
    deterministic policy dominates or lies outside the front (all of them, by occupancy). Sets of dynamic programming:
    the front reaches the scalarised optimum at every corner of its surface (its supported points are right).
    """
    u = answer.extra["vectors"]
    residuals = {"internal": dominated(u, u).to(u).max()}
    if answer.policy is not None:
        every = torch.cartesian_prod(*[torch.nonzero(m)[:, 0] for m in mdp.mask]).reshape(-1, mdp.num_states)
        outside = u.new_zeros(())
        for actions in every.split(4096):
            J = vectors_of(mdp, torch.nn.functional.one_hot(actions, mdp.num_actions).to(u))
            # how far a policy's vector is from being covered by the front
            short = (J[:, None] - u[None]).amax(-1).amin(1)
            outside = torch.maximum(outside, short.clamp(min=0).max())
        return residuals | {"vectors": (vectors_of(mdp, answer.policy) - u).abs().max(), "outside": outside}
    return residuals | {"hull": _hull_gap(mdp, u, horizon)}


def _hull_gap(mdp: TabularMDP, u: Tensor, horizon: int | None) -> Tensor:
    w = torch.cat([torch.eye(u.shape[1]).to(u), torch.full((1, u.shape[1]), 1 / u.shape[1]).to(u)])
    if len(u) <= 12:
        w = torch.cat([w, surface_vertices(u)])
    r = torch.einsum("mk,ksa->msa", w, mdp.r).masked_fill(~mdp.mask, -torch.inf)
    V = r.new_zeros(len(w), mdp.num_states)
    for _ in range(horizon if horizon is not None else mdp.num_states):
        V = (r + torch.einsum("sat,mt->msa", mdp.kernel, V)).amax(-1)
    return (V @ mdp.mu0 - (w @ u.T).amax(1)).abs().max()
