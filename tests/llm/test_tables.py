"""The page of recipes is current, the tables of parts complete, the notes on released code true."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from fenchel.errors import UserError
from fenchel.llm import PARTS, RECIPES, get_recipe, tables
from fenchel.llm.kl_table import errors
from fenchel.llm.parts.part import Part
from fenchel.llm.recipe import PreferenceRecipe, Recipe, flat

ROOT = Path(__file__).resolve().parents[2]


def test_the_generated_tables_are_current():
    page = (ROOT / "docs" / "llm.md").read_text(encoding="utf-8")
    assert tables.inserted(page) == page, "run python -m fenchel.llm.tables docs/llm.md"
    with pytest.raises(UserError, match="has no lines"):
        tables.inserted("no marks")


def test_every_part_and_every_recipe_has_a_row():
    listed = {path.split(":")[1] for path in PARTS.values()}
    found = set()
    for path in (ROOT / "llm" / "parts").glob("*.py"):
        module = importlib.import_module(f"fenchel.llm.parts.{path.stem}")
        own = inspect.getmembers(module, inspect.isclass)
        found |= {
            name for name, cls in own if issubclass(cls, Part) and cls is not Part and cls.__module__ == module.__name__
        }
    assert found == listed
    rows = {id(get_recipe(key)) for key in RECIPES}
    for path in (ROOT / "llm" / "recipes").glob("*.py"):
        module = importlib.import_module(f"fenchel.llm.recipes.{path.stem}")
        assert all(id(x) in rows for x in vars(module).values() if isinstance(x, Recipe | PreferenceRecipe))
    assert list(RECIPES) == sorted(RECIPES)


def test_every_claim_has_a_row_and_every_recipe_a_claim():
    from fenchel.llm.claims import CLAIMS
    from fenchel.theory.claims.claim import Claim

    listed, stated = [], ""
    for path in (ROOT / "llm" / "claims").glob("*.py"):
        module = importlib.import_module(f"fenchel.llm.claims.{path.stem}") if path.stem != "__init__" else None
        own = {k: v for k, v in vars(module).items() if isinstance(v, Claim)} if module else {}
        listed += [f"{path.stem}:{name}" for name in own]
        stated += " ".join(claim.statement + " " for claim in own.values())
    assert sorted(listed) == sorted(CLAIMS.values())
    told = set(re.findall(r"[a-z_]+", stated)) | {name.split(".")[1] for name in CLAIMS}
    assert set(RECIPES) - {"sft"} <= told  # maximum likelihood is no paper's method


def test_every_part_of_a_recipe_fits_its_slot():
    slots = {path.split(":")[1]: key.split(".")[0] for key, path in PARTS.items()}
    for key in RECIPES:
        recipe = get_recipe(key)
        for slot, value in recipe.parts.items():
            for part in flat({slot: value}):
                kind = slots[type(part).__name__]
                wanted = {"weight": "pair_term", "regulariser": "pair_term"} if hasattr(recipe, "link") else {}
                assert kind == wanted.get(slot, slot), (key, slot)


def test_which_kl_terms_are_exact():
    rows = errors()
    exact = {name for name, (reverse, _, _) in rows.items() if reverse < 1e-12}
    assert exact == {
        "answer: k2 as a loss",
        "answer: k1 with the gradient of k2",
        "answer: f'(pi / ref) log pi, f = kl",
        "k1 in the reward",
    }
    assert rows["answer: k3 as a loss"][1] < 1e-12
    assert rows["token: k3 as a loss"][0] > 1
