"""The command line on token tasks: the run folder, kill and resume, `--list recipes`, `--explain`."""

from __future__ import annotations

import ast
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fenchel.cli import recipes, source
from fenchel.cli.run import main

ROOT = Path(__file__).resolve().parents[2]
TASK = "env=llm/sort task.difficulty=2 task.train=64 task.test=16"
MODEL = "algo.width=16 algo.layers=1 algo.heads=2 algo.sft_steps=60 algo.sft_batch=64 algo.sft_lr=1e-2"
SMALL = f"{TASK} {MODEL} algo.prompts=4 seed=0:2 eval_episodes=4 final_episodes=8 log_every=10"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(line: str) -> int:
    return main(line.split())


def test_a_run_leaves_the_folder_of_any_run(capsys):
    assert run(f"{SMALL} algo=dr_grpo steps=20 out=a algo.lr=[1e-3,2e-3]") == 0
    out = capsys.readouterr().out
    assert "pass@1" in out
    assert "pass@8" in out
    assert {p.name for p in Path("a").iterdir()} >= {
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "learning_curve.png",
    }  # fmt: skip
    summary = json.loads(Path("a/summary.json").read_text())
    assert (summary["env"], summary["algo"], summary["status"]) == ("llm/sort", "dr_grpo", "completed")
    assert len(summary["data_hash"]) == 32
    assert [(row["seed"], row["lr"]) for row in summary["final"]] == [(0, 1e-3), (1, 1e-3), (0, 2e-3), (1, 2e-3)]
    for row in summary["final"]:
        assert 0 <= row["pass_at_1"] <= row["pass_at_k"] <= 1
        assert {"k", "length_mean", "entropy", "kl", "best_pass_at_1", "best_step"} <= set(row)
    rows = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == list(range(0, 21, 2))
    assert rows[0]["kl"] == [0.0] * 4
    config = yaml.safe_load(Path("a/config.yaml").read_text())["config"]
    assert config["clip"] == 0.2
    assert config["lr"] == [1e-3, 1e-3, 2e-3, 2e-3]


def test_a_recipe_is_chosen_where_the_line_names_none():
    assert run(f"{SMALL} steps=1") == 0
    assert [path.name for path in Path("runs/llm_sort").iterdir()] == ["dr_grpo"]


def test_preferences_are_learned_from(capsys):
    assert run(f"{SMALL} algo=dpo steps=4 out=a algo.beta=0.5") == 0
    assert json.loads(Path("a/summary.json").read_text())["final"][0]["kl"] > 0


def test_a_killed_run_resumes_to_the_same_bytes():
    line = f"{SMALL} algo=grpo steps=150 eval_every=15 checkpoint_every=5 algo.epochs=2"
    assert run(f"{line} out=whole") == 0
    words = [sys.executable, str(ROOT / "scripts" / "run.py"), *line.split(), "out=killed", "resume=true"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not Path("killed/checkpoints/last.safetensors").exists():
        time.sleep(0.01)
    time.sleep(random.Random(0).uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run(f"{line} out=killed resume=true") == 0
    for name in ("metrics.jsonl", "checkpoints/last.safetensors"):
        assert Path("whole", name).read_bytes() == Path("killed", name).read_bytes()
    final = [json.loads(Path(name, "summary.json").read_text())["final"] for name in ("whole", "killed")]
    assert final[0] == final[1]


def test_recipes_are_listed_as_they_are(capsys):
    from fenchel.llm import get_recipe

    assert main(["--list", "recipes"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(source.recipes())
    for key in source.recipes():
        recipe, told = get_recipe(key), recipes.told(key)
        assert (told["title"], told["family"], told.get("paper")) == (recipe.title, recipe.family, recipe.paper), key


@pytest.mark.parametrize("key", ["dr_grpo", "ppo", "dpo", "nash_mp", "a_star_po"])
def test_a_recipe_is_explained_with_every_option(key, capsys):
    from dataclasses import fields

    from fenchel.llm.training import get_learner

    assert main(["--explain", f"algo={key}", "env=llm/countdown"]) == 0
    out = capsys.readouterr().out
    cls = get_learner(key)
    assert cls.TITLE in out
    for field in fields(cls.Config):
        assert f"  algo.{field.name}=" in out
    for option in ("difficulty", "enumerable", "reward"):
        assert f"  task.{option}=" in out
    assert main(["--explain", f"algo={key}"]) == 0


def test_every_option_of_training_is_documented():
    for option in source.config_fields("llm.config", "TokenConfig"):
        assert option.doc, option.name
        ast.literal_eval(option.default)


def test_a_name_of_both_tables_is_one_method():
    """A key that learners and recipes share is of one paper."""
    from fenchel.llm import get_recipe

    shared = set(source.recipes()) & set(source.algorithms())
    for key in shared:
        assert get_recipe(key).paper == source.describe(key).attributes["PAPER"], key
