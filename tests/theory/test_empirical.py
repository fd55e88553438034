"""The maximum-likelihood model against counting by hand, and against the model that generated the data."""

from __future__ import annotations

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.empirical import UNVISITED, empirical_mdp
from fenchel.theory.instances import garnet
from fenchel.theory.rng import Rng

DATA = [  # state, action, reward, next state, discount
    (0, 0, 1.0, 1, 0.9),
    (0, 0, 3.0, 2, 0.9),
    (0, 0, 2.0, 1, 0.0),
    (1, 1, 5.0, 2, 0.0),
]


def model(**options):
    s, a, r, t, d = map(torch.tensor, zip(*DATA, strict=True))
    return empirical_mdp(s, a, r, t, d, 3, 2, **options)


def test_counts_by_hand():
    answer = model(start=torch.tensor([0, 1, 1]))
    mdp = answer.mdp
    assert torch.allclose(mdp.P[0, 0], torch.tensor([0.0, 2 / 3, 1 / 3]).double())
    assert float(mdp.r[0, 0]) == 2.0
    assert torch.allclose(mdp.discount[0, 0], torch.tensor([0.0, 0.45, 0.9]).double())
    assert answer.counts.tolist() == [[3, 0], [0, 1], [0, 0]]
    assert answer.behaviour.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]
    assert torch.allclose(mdp.mu0, torch.tensor([1 / 3, 2 / 3, 0.0]).double())
    assert mdp.mask.tolist() == [[True, False], [False, True], [True, True]]


@pytest.mark.parametrize("unvisited", UNVISITED)
def test_unvisited(unvisited):
    mdp = model(unvisited=unvisited).mdp
    mdp.validate()
    gamma, expected = mdp.discount[0, 1], {"mask": 0.0, "stop": 0.0}.get(unvisited, 0.45)
    assert torch.allclose(gamma, torch.full((3,), expected).double())
    assert float(mdp.r[0, 1]) == 0.0
    assert bool(mdp.mask[0, 1]) is (unvisited != "mask")
    assert mdp.P[0, 1].tolist() == ([1 / 3] * 3 if unvisited == "uniform" else [1.0, 0.0, 0.0])


def test_recovers_the_generator_from_expected_counts():
    """Data in exact proportion to P: the model is the MDP."""
    mdp = garnet(Rng(0), 1, 4, 2, gamma=0.8)[0]
    P = (mdp.P * 1000).round() / 1000
    s, a, t = torch.nonzero(P > 0, as_tuple=True)
    copies = (P[s, a, t] * 1000).round().long()
    s, a, t = (x.repeat_interleave(copies) for x in (s, a, t))
    answer = empirical_mdp(s, a, mdp.r[s, a], t, torch.full(s.shape, 0.8), 4, 2)
    assert torch.allclose(answer.mdp.P, P / P.sum(-1, keepdim=True))
    assert torch.allclose(answer.mdp.r, mdp.r)
    assert torch.allclose(answer.mdp.kernel, 0.8 * answer.mdp.P, atol=1e-7)


def test_channels():
    s, a, r, t, d = map(torch.tensor, zip(*DATA, strict=True))
    answer = empirical_mdp(s, a, torch.stack([r, -r], -1), t, d, 3, 2)
    assert answer.mdp.num_channels == 2
    assert answer.mdp.r[:, 0, 0].tolist() == [2.0, -2.0]


def test_refused():
    with pytest.raises(UserError, match="unvisited=foo"):
        model(unvisited="foo")
    s = torch.tensor([0, 1])
    with pytest.raises(UserError, match="next_state must hold"):
        empirical_mdp(s, s, s.double(), s + 1, s.double(), 2, 2)
    with pytest.raises(UserError, match="state must hold"):
        empirical_mdp(s[:0], s[:0], s[:0].double(), s[:0], s[:0].double(), 2, 2)
