"""Sparse solvers against the dense ones."""

from __future__ import annotations

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.instances.generated import garnet_sparse, ring_sparse
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.certificates import check
from fenchel.theory.sparse import SparseMDP

METHODS = ["vi", "mpi", "pi", "fused"]


def irregular() -> SparseMDP:
    """Discounts per pair (some end the episode), missing actions with nonsense, repeated successors."""
    base = garnet_sparse(Rng(0), 60, 4, 5)
    discount = 0.97 * Rng(1).uniform(60, 4) * (Rng(2).uniform(60, 4) > 0.1)
    mask = (Rng(3).uniform(60, 4) > 0.3) | (torch.arange(4) == 1)
    return SparseMDP(base.index, base.prob, base.r.masked_fill(~mask, 1e3), base.mu0, discount, mask)


PROBLEMS = {"random": garnet_sparse(Rng(4), 80), "ring": ring_sparse(Rng(5), 80), "irregular": irregular()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_sparse_equals_dense_and_both_certificates_hold(method, name):
    mdp = PROBLEMS[name]
    exact = solve(mdp.to_tabular(), "discounted", "pi").V
    answer = solve(mdp, "discounted", method)
    assert ((answer.lower <= exact + 1e-11) & (exact <= answer.upper + 1e-11)).all()
    assert float((answer.V - exact).abs().max()) < 1e-8 * max(1.0, float(exact.abs().max()))
    assert check(mdp, "discounted", answer).holds


def test_the_fused_sweeps_equal_torch():
    mdp = PROBLEMS["ring"]
    ours, fused = solve(mdp, "discounted", "mpi"), solve(mdp, "discounted", "fused")
    assert ours.iterations == fused.iterations
    torch.testing.assert_close(fused.V, ours.V, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_occupancy_is_the_dense_one(name):
    mdp = PROBLEMS[name]
    assert solve(mdp, "discounted", "mpi").occupancy is None
    answer, dense = solve(mdp, "discounted", "mpi", occupancy=True), solve(mdp.to_tabular(), "discounted", "pi")
    torch.testing.assert_close(answer.occupancy, dense.occupancy, atol=1e-8, rtol=0)
    assert check(mdp, "discounted", answer).holds


def test_float32_input_is_solved_in_float64():
    answer = solve(PROBLEMS["random"].to(dtype=torch.float32), "discounted", "mpi")
    exact = solve(PROBLEMS["random"], "discounted", "mpi")
    assert answer.V.dtype == torch.float32
    assert answer.certificate.holds
    assert float((answer.V - exact.V).abs().max()) < 2**-24 * 100 * (1 + float(exact.V.abs().max()))


def test_ten_thousand_states_end_quickly():
    """A peer makes an (S, S) dense array per action while it checks its input, and does not end at this size."""
    answer = solve(garnet_sparse(Rng(6), 10_000, 4, 5, gamma=0.99), "discounted")
    assert answer.certificate.holds


def test_what_is_refused():
    mdp = PROBLEMS["random"]
    endless = SparseMDP(mdp.index, mdp.prob, mdp.r, mdp.mu0, 1.0)
    for problem, method, words in [
        (endless, "mpi", "below 1"), (mdp, "lp", "method=lp is unknown"), (torch.ones(2), "vi", "not Tensor"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words):
            solve(problem, "discounted", method)
