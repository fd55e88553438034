"""`bench solvers`: exact solvers against QuantEcon, pymdptoolbox and cvxpy; ratio = peer's time / ours.

Ours and the peer's runs alternate on one thread, and the best CPU time of each is kept (wall time says little on a
machine with other users). Ours include the two-sided bounds; the peers return none. Ours read tensors that exist,
peers their own arrays: conversions are outside the clock on both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import torch

from fenchel.theory.instances.generated import dense, garnet, garnet_sparse, ring
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.referees import convex
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve

LOOPED = 1_000  # problems of a batch that a peer solves one by one; its time per problem is what counts


def best(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Best CPU seconds of each, alternating, after one run of each that compiles."""
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for taken, run in zip(times, (ours, peer), strict=True):
            start = time.process_time()
            run()
            if repeat:
                taken.append(time.process_time() - start)
    return min(times[0]), min(times[1])


def row(case: str, peer: str, seconds: tuple[float, float], each: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Milliseconds per problem; `each`: how many problems ours and the peer's run solved."""
    ours, theirs = (1e3 * s / n for s, n in zip(seconds, each, strict=True))
    return dict(case=case, ours=ours, peer=peer, peer_value=theirs, ratio=theirs / ours, unit="ms")


def quantecon(mdp: TabularMDP, method: str) -> Callable[[], Any]:
    from quantecon.markov import DiscreteDP

    problem = DiscreteDP(mdp.r.numpy(), mdp.P.numpy(), float(mdp.discount.flatten()[0]))
    return lambda: problem.solve(method=method, epsilon=1e-8, max_iter=100_000)


def quantecon_sparse(mdp, method: str) -> Callable[[], Any]:
    from quantecon.markov import DiscreteDP
    from scipy.sparse import csr_matrix

    S, A = mdp.num_states, mdp.num_actions
    starts, columns, values = (t.numpy() for t in mdp.csr)
    states, actions = np.divmod(np.arange(S * A), A)
    P = csr_matrix((values, columns, starts), (S * A, S))
    problem = DiscreteDP(mdp.r.reshape(-1).numpy(), P, float(mdp.discount.flatten()[0]), states, actions)
    return lambda: problem.solve(method=method, epsilon=1e-8, max_iter=100_000)


def toolbox(mdp: TabularMDP) -> Callable[[], Any]:
    from mdptoolbox.mdp import PolicyIteration

    P, r = mdp.P.transpose(0, 1).contiguous().numpy(), mdp.r.numpy()
    gamma = float(mdp.discount.flatten()[0])
    return lambda: PolicyIteration(P, r, gamma).run()


def looped(mdp: TabularMDP, make: Callable[[TabularMDP], Callable[[], Any]]) -> Callable[[], Any]:
    runs = [make(mdp[i]) for i in range(LOOPED)]
    return lambda: [run() for run in runs]


def single() -> Iterator[dict[str, Any]]:
    mdp = ring(Rng(0), 1, 500, 10, 10, gamma=0.99)[0]
    for method in ("pi", "mpi"):
        for peer in ("pi", "mpi"):
            theirs = quantecon(mdp, {"pi": "policy_iteration", "mpi": "modified_policy_iteration"}[peer])
            seconds = best(lambda m=method: solve(mdp, "discounted", m, 1e-8, occupancy=False), theirs)
            yield row(f"dense ring S=500 A=10 gamma=.99, {method}", f"QuantEcon {peer}", seconds)
    if find_spec("mdptoolbox"):
        seconds = best(lambda: solve(mdp, "discounted", "pi", 1e-8, occupancy=False), toolbox(mdp))
        yield row("dense ring S=500 A=10 gamma=.99, pi", "pymdptoolbox pi", seconds)


def large(num_states: int = 100_000) -> Iterator[dict[str, Any]]:
    mdp = garnet_sparse(Rng(1), num_states, 8, 5, gamma=0.95)
    theirs = quantecon_sparse(mdp, "modified_policy_iteration")
    for method in ("mpi", "fused"):
        seconds = best(lambda m=method: solve(mdp, "discounted", m, 1e-8), theirs)
        yield row(f"sparse random S={num_states} A=8, 5 successors, {method}", "QuantEcon mpi", seconds)


def batches() -> Iterator[dict[str, Any]]:
    for (B, S, A), kind in product(((10_000, 10, 3), (1_000, 50, 5)), ("dense", "ring")):
        mdp = dense(Rng(2), B, S, A, 0.99) if kind == "dense" else ring(Rng(2), B, S, A, 2, 0.99)
        theirs = looped(mdp, lambda one: quantecon(one, "policy_iteration"))
        for method in ("pi", "fused"):
            seconds = best(lambda m=method, mdp=mdp: solve(mdp, "discounted", m, occupancy=False), theirs)
            yield row(f"batch of {B}, {kind} S={S} A={A}, {method}", "QuantEcon pi, looped", seconds, (B, LOOPED))


def duals() -> Iterator[dict[str, Any]]:
    mdp = garnet(Rng(3), 256, 50, 5, 5, gamma=0.95)
    for divergence in ("kl", "chi2"):
        for alpha in (1.0, 0.1):
            options = dict(divergence=divergence, alpha=alpha)
            reference = solve(mdp, "occupancy_dual", **options).extra["reference"].numpy()

            def theirs(divergence=divergence, alpha=alpha, reference=reference):
                for i in range(4):
                    convex.occupancy_value(mdp[i], divergence, alpha, reference[i])

            seconds = best(lambda o=options: solve(mdp, "occupancy_dual", tol=1e-10, **o), theirs, 2)
            yield row(f"{divergence} occupancy dual, batch of 256, S=50 A=5, alpha={alpha}", "cvxpy", seconds, (256, 4))


def rows() -> Iterator[dict[str, Any]]:
    torch.set_num_threads(1)
    if find_spec("numba"):
        import numba

        numba.set_num_threads(1)
    for group in (single, large, batches, duals):
        yield from group()
