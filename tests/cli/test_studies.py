"""`reproduce.py study=...`: rows as they come, the page, and what is refused."""

from __future__ import annotations

import json

import pytest

from fenchel.algorithms import studies as table
from fenchel.algorithms.studies import STUDIES, Study, get_study
from fenchel.cli import reproduce, studies
from fenchel.errors import UserError

ROWS = [
    {"task": "a", "V %": [1.0, 2.0, float("nan")], "gap %": None, "J": 0.123456789, "CPU s": 90.0},
    {"task": "b", "V %": [0.5, 0.5, 0.5], "gap %": [1.0, 1.0, 1.0], "J": 2.0, "CPU s": 90.0},
]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(studies, "get_study", lambda key: Study("A title", "What is compared.", lambda: iter(ROWS)))


def test_a_study_becomes_a_page_and_its_numbers(fake, tmp_path, capsys):
    argv = ["study=exact", "--json", str(tmp_path / "reproduce.json")]
    assert reproduce.main(argv) == 0
    rows = json.loads((tmp_path / "exact.json").read_text())
    assert rows[0] == {"task": "a", "V %": [1.0, 2.0, None], "gap %": None, "J": 0.12346, "CPU s": 90.0}
    assert len(rows) == 2
    page = (tmp_path / "exact.md").read_text()
    assert page.startswith("# A title\n\nWhat is compared.\n\n| task | V %")
    assert "1.50 (1.00 to 2.00, 1 diverged)" in page
    assert "| b    | 0.50 (0.50 to 0.50)             | 1.00 (1.00 to 1.00) | 2     | 90    |" in page
    assert "`python scripts/reproduce.py study=exact`: 3 CPU-minutes" in page
    assert not (tmp_path / "reproduce.json").exists()
    assert f"page: {tmp_path / 'exact.md'}" in capsys.readouterr().out


def test_notes_by_hand_are_kept(fake, tmp_path):
    argv = ["exact", "--json", str(tmp_path / "reproduce.json")]
    assert reproduce.main(argv) == 0
    path = tmp_path / "exact.md"
    path.write_text(path.read_text() + "\nMine.\n")
    assert reproduce.main(argv) == 0
    assert path.read_text().endswith("\nMine.\n")


def test_rows_that_were_done_are_there_when_a_later_one_fails(monkeypatch, tmp_path):
    def rows():
        yield ROWS[1]
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "get_study", lambda key: Study("", "", rows))
    with pytest.raises(KeyboardInterrupt):
        studies.reproduce("exact", tmp_path, studies.Console(quiet=True))
    assert json.loads((tmp_path / "exact.json").read_text())[0]["task"] == "b"


def test_studies_are_listed_and_unknown_ones_refused(capsys):
    assert reproduce.main(["--list"]) == 0
    assert "study=exact" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"study=exakt is unknown.*'exact'"):
        get_study("exakt")
    assert reproduce.main(["exakt"]) == 2
    assert "Did you mean 'exact'" in capsys.readouterr().err


@pytest.mark.parametrize("key", STUDIES)
def test_every_study_says_what_it_compares(key):
    study = table.get_study(key)
    assert study.title
    assert study.intro
