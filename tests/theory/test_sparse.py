"""SparseMDP against its dense form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from scipy.sparse import csr_matrix
from strategies import mdps

from fenchel.errors import UserError
from fenchel.theory.instances import garnet, garnet_sparse, ring_sparse
from fenchel.theory.rng import Rng
from fenchel.theory.solvers.bellman import occupancy
from fenchel.theory.sparse import SparseMDP


def same(a, b) -> bool:
    return torch.allclose(a.P, b.P) and torch.equal(a.r, b.r) and torch.equal(a.discount, b.discount)


@given(mdps(masked=True))
def test_round_trip(mdp):
    sparse = SparseMDP.from_tabular(mdp)
    assert same(sparse.to_tabular(), mdp)
    assert torch.equal(sparse.mask, mdp.mask)
    assert sparse.prob.shape[-1] == int((mdp.P > 0).sum(-1).max())


@pytest.mark.parametrize("make", [garnet_sparse, ring_sparse])
def test_backup_and_flow(make):
    sparse = make(Rng(0), 30, 3)
    mdp, V = sparse.to_tabular(), Rng(1).normal(30)
    mdp.validate()
    assert torch.allclose(sparse.backup(V), mdp.r + mdp.kernel @ V)
    many = Rng(2).normal(4, 30)
    assert torch.allclose(sparse.expected_next(many), torch.einsum("sat,ct->csa", mdp.P, many))
    d = Rng(3).uniform(30, 3)
    assert torch.allclose(sparse.flow(d), torch.einsum("sa,sat->t", d, mdp.kernel))
    assert float((d * sparse.discount * sparse.expected_next(V)).sum()) == pytest.approx(float(sparse.flow(d) @ V))


def test_flow_of_an_occupancy():
    sparse = garnet_sparse(Rng(0), 20, 3)
    policy = torch.full((20, 3), 1 / 3).double()
    d = occupancy(sparse.to_tabular(), policy)
    assert torch.allclose(d.sum(-1), sparse.mu0 + sparse.flow(d))


def test_policy_matrix():
    sparse = garnet_sparse(Rng(0), 20, 3)
    actions = Rng(1).integers(3, 20)
    dense = sparse.to_tabular().kernel[torch.arange(20), actions]
    V = Rng(2).normal(20)
    assert torch.allclose(sparse.policy_matrix(actions) @ V, dense @ V)


def test_csr_view_shares_memory_and_round_trips():
    sparse = garnet_sparse(Rng(0), 20, 3)
    starts, columns, values = sparse.csr
    assert values.data_ptr() == sparse.prob.data_ptr()
    assert columns.data_ptr() == sparse.index.data_ptr()
    matrix = csr_matrix((values.numpy(), columns.numpy(), starts.numpy()), shape=(60, 20), copy=True)
    matrix.sum_duplicates()
    ragged = [torch.as_tensor(x) for x in (matrix.indptr, matrix.indices, matrix.data)]
    again = SparseMDP.from_csr(*ragged, sparse.r, sparse.mu0, sparse.discount)
    assert same(again.to_tabular(), sparse.to_tabular())


def test_channels():
    mdp = garnet(Rng(0), 1, 6, 2, channels=3)[0]
    sparse, V = SparseMDP.from_tabular(mdp), Rng(1).normal(3, 6)
    assert sparse.num_channels == 3
    assert torch.allclose(sparse.backup(V), mdp.r + torch.einsum("sat,kt->ksa", mdp.kernel, V))


def test_float32():
    sparse = garnet_sparse(Rng(0), 30, 3)
    V = Rng(1).normal(30)
    low = sparse.to(dtype=torch.float32).backup(V.float())
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), sparse.backup(V), atol=1e-5)


def parts(**changes):
    sparse = garnet_sparse(Rng(0), 4, 2, 3)
    values = dict(
        index=sparse.index, prob=sparse.prob, r=sparse.r, mu0=sparse.mu0, discount=sparse.discount, action_mask=None
    )
    return {k: v.clone() if torch.is_tensor(v) else v for k, v in (values | changes).items()}


def edited(name, at, value):
    p = parts()
    p[name][at] = value
    return p


FAULTS = [
    (edited("index", (1, 0, 2), 4), "index names a state outside 0 .. 3 at state 1, action 0."),
    (edited("index", (3, 1, 0), -1), "index names a state outside 0 .. 3 at state 3, action 1."),
    (edited("prob", (2, 1), 0.0), "P sums to 0, not 1, at state 2, action 1."),
    (edited("prob", (2, 1, 0), float("nan")), "P is not finite at state 2, action 1."),
    (edited("r", (0, 1), float("inf")), "r is not finite at state 0, action 1."),
    (edited("discount", (0, 1), 2.0), "discount is 2, outside [0, 1], at state 0, action 1."),
    (parts(mu0=torch.ones(4).double()), "mu0 must be finite, non-negative and sum to 1 over the states."),
    (parts(r=torch.ones(4, 3).double()), "r must be (S, A) or (C, S, A) to match prob, not (4, 3)."),
    (parts(action_mask=torch.zeros(4, 2, dtype=torch.bool)), "state 0 has no action."),
]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
def test_refused_in_one_sentence(fault, sentence):
    SparseMDP(**parts())
    with pytest.raises(UserError) as error:
        SparseMDP(**fault)
    assert str(error.value) == sentence


def test_an_index_beyond_int32_is_refused_before_it_wraps():
    p = parts()
    p["index"] = p["index"].long()
    p["index"][0, 0, 0] = 2**32
    with pytest.raises(UserError, match="index names a state outside"):
        SparseMDP(**p)


def test_from_tabular_refuses_a_batch():
    with pytest.raises(UserError, match="one problem"):
        SparseMDP.from_tabular(garnet(Rng(0), 2))
