"""Every claim about recipes comes out as expected, and its twin fails."""

from __future__ import annotations

import pytest

from fenchel.llm.claims import CLAIMS
from fenchel.theory.claims.verify import resolve, run


@pytest.mark.parametrize("name", CLAIMS)
def test_as_expected(name):
    row = run(name, resolve(f"fenchel.llm.claims.{CLAIMS[name]}"), seed=0, twins=True)
    assert row["as_expected"], row["error"] or row["problem"] or row


@pytest.mark.parametrize("name", CLAIMS)
def test_on_other_problems(name):
    row = run(name, resolve(f"fenchel.llm.claims.{CLAIMS[name]}"), seed=1, batch=2)
    assert row["as_expected"], row["error"] or row["problem"] or row
