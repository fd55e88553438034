"""The second layer of random problems: hypothesis draws small readable structure; every claim of its layout must hold.

The first layer, `test_claims`, runs each claim on its own seeded batch.
"""

import pytest
import torch
from hypothesis import given, target
from hypothesis import strategies as st

from fenchel.cli.verify import tables
from fenchel.theory.claims.verify import resolve

TABLE = tables()
FINITE_SET = [
    "kl_regularised.variational", "kl_regularised.pythagoras", "kl_regularised.entropy_controlled",
    "kl_regularised.rejection_chain", "regression.optimal_advantage", "regression.value_bias",
    "regression.contrastive", "f_divergence.f_dpg", "f_divergence.generator", "f_divergence.floor",
    "robust_preference.calibrated",
]  # fmt: skip
PAIRS = [
    "preference.dpo", "preference.ipo", "preference.h_dpo", "reference_policy.strength",
    "reference_policy.guide",
]  # fmt: skip


@st.composite
def finite_sets(draw, responses: int | None = None):
    """One problem of `kl_regularised`: few responses, probabilities k / n, integer rewards, beta of a short list."""
    size = responses or draw(st.integers(2, 5))

    def simplex():
        counts = torch.tensor(draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))).double()
        return (counts / counts.sum())[None]

    r = torch.tensor(draw(st.lists(st.integers(-3, 3), min_size=size, max_size=size))).double()[None]
    beta = torch.tensor([draw(st.sampled_from([0.5, 1.0, 2.0]))]).double()
    rivals = torch.stack([simplex()[0] for _ in range(3)])[None]
    return dict(ref=simplex(), r=r, pi=simplex(), mu=simplex(), nu=simplex(), beta=beta, rivals=rivals)


def _holds(name, problem):
    report = resolve(TABLE[name]).check(problem)
    target(float(report.excess.max().clamp(max=1e3)))  # climb towards a violation
    assert report.holds, f"residual {report.worst} beyond {report.worst_tolerance}"


@pytest.mark.parametrize("name", FINITE_SET)
@given(problem=finite_sets())
def test_claims_on_finite_sets(name, problem):
    _holds(name, problem)


@pytest.mark.parametrize("name", PAIRS)
@given(problem=finite_sets(responses=6))
def test_claims_on_pairs(name, problem):
    P = torch.sigmoid(problem["r"][:, :, None] - problem["r"][:, None, :])
    _holds(name, problem | dict(P=P))
