"""Every claim of every layer: it resolves, comes out as expected, and its twin fails."""

from pathlib import Path

import pytest

from fenchel.cli.verify import tables
from fenchel.theory.claims.table import inserted
from fenchel.theory.claims.verify import resolve, run

ROOT = Path(__file__).resolve().parents[3]
TABLE = tables()
THEORY = [name for name, path in TABLE.items() if path.startswith("fenchel.theory.")]


@pytest.mark.parametrize("name", THEORY)
@pytest.mark.parametrize("seed", [0, 1])
def test_as_expected(name, seed):
    row = run(name, resolve(TABLE[name]), seed=seed, twins=seed == 0, batch=16 if seed else None)
    assert row["as_expected"], row["error"] or row["problem"] or row


def test_a_theorem_has_a_twin_and_an_expected_failure_its_errata_row():
    page = ROOT / "docs" / "errata.md"
    errata = page.read_text() if page.exists() else ""
    for name in TABLE:
        claim = resolve(TABLE[name])
        assert claim.twin is not None or claim.kind != "theorem" or not claim.expected, name
        assert claim.expected or f"`{name}`" in errata, f"{name} is false as printed but has no row in docs/errata.md"


def test_statements_are_distinct():
    claims = [resolve(path) for path in TABLE.values()]
    assert len({c.statement for c in claims}) == len({path for path in TABLE.values()}) == len(claims)


def test_the_table_in_docs_is_current():
    page = ROOT / "docs" / "theory.md"
    assert page.read_text() == inserted(page.read_text(), TABLE), "run: fenchel verify --write-table docs/theory.md"
