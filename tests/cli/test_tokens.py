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


# --- learners of both tables ----------------------------------------------------------------------------------------

TABLE = "env=llm/chain_sum task.enumerable=true preset=small algo.sft_noise=0.4 algo.policy=tabular algo.lr=0.03"


def test_a_table_learns_from_scored_answers_and_is_loaded():
    """f-DVL on answers of a warm start that errs: exact pass@1 on the prompts of the data."""
    from fenchel.llm.bridge import get_bridge
    from fenchel.llm.tasks import make

    assert run(f"{TABLE} algo=f_dvl algo.tau=0.1 algo.temperature=0.1 steps=120 eval_every=60 out=a seed=0:2") == 0
    rows = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    first, *_, last = (row for row in rows if row["kind"] == "eval")
    assert max(first["kl"]) < 1e-12
    assert min(last["pass_at_1"]) > max(first["pass_at_1"]) + 0.2
    loaded = get_bridge("f_dvl").load("a/checkpoints/last.safetensors")
    task = make("llm/chain_sum", enumerable=True)
    assert loaded.scores(task, 1, 0)["pass_at_1"] == last["pass_at_1"]


@pytest.mark.parametrize("key", source.bridge())
def test_a_learner_on_prefixes_resumes_to_the_same_bytes(key):
    line = f"{TASK} {MODEL} seed=0:2 algo={key} algo.batch_size=32 algo.data_prompts=16"
    line += " log_every=2 eval_every=2 eval_episodes=4 final_episodes=4"
    assert run(f"{line} steps=6 out=whole") == 0
    assert run(f"{line} steps=4 out=parts") == 0
    assert run(f"{line} steps=6 out=parts resume=true") == 0
    for name in ("metrics.jsonl", "checkpoints/last.safetensors"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
    final = json.loads(Path("parts/summary.json").read_text())["final"]
    assert final == json.loads(Path("whole/summary.json").read_text())["final"]
    assert all(row["kl"] > 0 for row in final)
    if key == "f_dvl_lag":
        assert all(row["cost"] == pytest.approx(row["length_mean"]) for row in final)
        assert final[0]["limit"] < final[0]["cost"]


@pytest.mark.parametrize("key", source.bridge())
def test_a_learner_on_prefixes_is_explained_with_every_option(key, capsys):
    from dataclasses import fields

    from fenchel.llm.bridge import get_bridge

    assert main(["--explain", f"algo={key}", "env=llm/chain_sum"]) == 0
    out = capsys.readouterr().out
    about, cls = source.describe(key, "llm/"), get_bridge(key)
    assert {option.name for option in about.options} == {field.name for field in fields(cls.Config)}
    defaults = cls.Config()
    for option in about.options:
        assert option.doc
        value = getattr(defaults, option.name)
        given = ast.literal_eval(option.default)
        assert given == (list(value) if isinstance(value, tuple) and isinstance(given, list) else value), option.name
        assert f"  algo.{option.name}=" in out
    assert cls.TITLE in out
    assert "  task.enumerable=" in out


def test_recipes_are_listed_as_they_are(capsys):
    from fenchel.llm import get_recipe
    from fenchel.llm.bridge import get_bridge

    assert main(["--list", "recipes"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(source.recipes())
    for key in source.recipes():
        told = recipes.told(key)
        if key in source.bridge():
            cls = get_bridge(key)
            expected = (cls.TITLE, cls.FAMILY, cls.PAPER)
        else:
            recipe = get_recipe(key)
            expected = (recipe.title, recipe.family, recipe.paper)
        assert (told["title"], told["family"], told.get("paper")) == expected, key


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
    """A key that learners and recipes share is one objective: of one paper, and where the method allows, the very same
    `update`; what the others share is tested in tests/llm/test_bridge.py."""
    from fenchel.algorithms import get_algorithm
    from fenchel.cli.compose import learner_class

    shared = set(source.recipes()) & set(source.algorithms())
    assert set(source.bridge()) <= shared
    for key in shared:
        vectors, prefixes = get_algorithm(key), learner_class(key, "llm/sort")
        assert prefixes.PAPER == vectors.PAPER, key
        assert key in ("f_dvl_lag", "ppo") or prefixes.update is vectors.update, key
