"""docs/papers.toml says nothing that the tables and the records do not."""

from __future__ import annotations

import json

import pytest

from fenchel.cli import catalogue

ROWS = catalogue.load()
REFRESH = "run `python scripts/report.py --catalogue`"
SUFFIXED = ("drpo", "s_grpo", "srpo", "cdpo")  # proposed by more than one paper


def test_the_papers_are_all_there_once():
    assert [row["id"] for row in ROWS] == list(range(1, 339))
    assert len({row["title"] for row in ROWS}) == 338
    assert all(row["status"] in ("works", "partial", "planned") and row["proposed"] for row in ROWS)
    assert all(row["missing"] for row in ROWS if row["status"] == "partial")


def test_keys_of_different_methods_differ():
    for name in SUFFIXED:
        owners = [row["id"] for row in ROWS for key in row["proposed"] if key in (f"algo={name}", f"recipe={name}")]
        assert len(owners) <= 1, (name, owners)


def test_every_key_exists_and_no_status_is_better_than_the_tree():
    fresh = {row["id"]: row for row in catalogue.refreshed(ROWS)}
    known = {**catalogue.methods(), **catalogue.claims()}
    rank = ["planned", "partial", "works"]
    for row in ROWS:
        assert set(row["keys"]) <= set(known), (row["id"], REFRESH)
        assert rank.index(row["status"]) <= rank.index(fresh[row["id"]]["status"]), (row["id"], REFRESH)


def test_every_row_with_a_paper_has_its_paper():
    ids = {row["id"] for row in ROWS}
    for key, paper in {**catalogue.methods(), **catalogue.claims()}.items():
        assert paper is None or paper in ids, key


def test_the_file_is_what_the_writer_writes():
    assert catalogue.dump(ROWS) == catalogue.PAPERS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("known", "claims", "shown", "status", "missing"),
    [
        ({}, {}, set(), "planned", None),
        ({}, {"claim=c": 1}, set(), "partial", ["algo=x"]),
        ({"algo=x": None}, {}, set(), "partial", ["a current record of its demonstration"]),
        ({"algo=x": None}, {}, {"algo=x"}, "works", None),
        ({"algo=y": 1}, {}, {"algo=y"}, "partial", ["algo=x"]),
    ],
)
def test_what_a_method_paper_needs_to_work(known, claims, shown, status, missing):
    row = {"id": 1, "title": "t", "proposed": ["algo=x", "claim=z"]}
    fresh = catalogue._refresh(row, known, claims, shown)
    assert (fresh["status"], fresh.get("missing")) == (status, missing)


def test_a_proposed_synonym_is_the_learner_that_it_stands_for():
    row = {"id": 1, "title": "t", "proposed": ["algo=xql", "recipe=xql"]}
    fresh = catalogue._refresh(row, {"algo=f_dvl": 2}, {}, {"algo=f_dvl"})
    assert (fresh["keys"], fresh["missing"]) == (["algo=f_dvl"], ["recipe=xql"])


def test_a_paper_of_theory_works_by_its_claim():
    row = {"id": 1, "title": "t", "proposed": ["claim=z"]}
    assert catalogue._refresh(row, {}, {"claim=group.z": 1}, set())["status"] == "works"
    assert catalogue._refresh(row, {}, {"claim=group.z": 2}, set())["status"] == "planned"


def test_a_record_is_current_while_its_source_is_unchanged(tmp_path):
    key = f"algo={next(iter(catalogue.source.algorithms()))}"
    file = tmp_path / "reproduce.json"
    file.write_text(json.dumps([{"key": key, "source_hash": catalogue.source_hash(key)}]))
    assert catalogue.demonstrated(file) == {key}
    file.write_text(json.dumps([{"key": key, "source_hash": "0"}, {"key": "algo=gone", "source_hash": None}]))
    assert catalogue.demonstrated(file) == set()
