"""Tables of run folders, from folders written by hand so that every number is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from fenchel.cli.report import main


def write_run(folder: Path, algo: str, scores: dict[int, float | None], env: str = "maze", **options) -> None:
    """Scores by seed; best = last + 1; one evaluation at half of it."""
    folder.mkdir(parents=True)
    steps = options.pop("steps", 10)
    config = {
        "line": f"python scripts/run.py algo={algo}", "hash": str(folder), "env": env, "task": {}, "algo": algo,
        "config": {"lr": 0.1, "hidden": [8], "batch_size": 4} | options, "seeds": list(scores), "normalize_obs": True,
        "train": {"steps": steps}, "data_hash": "x",
    }  # fmt: skip
    final = [
        {"seed": seed, "normalized_score": score, "return_mean": 0.0, "best_normalized_score": _plus_one(score)}
        for seed, score in scores.items()
    ]
    summary = {"status": options.pop("status", "completed"), "wall_seconds": 90.0, "cpu_seconds": 60.0, "final": final}
    rows = [
        {"kind": "eval", "step": step, "normalized_score": [s and s * step / steps for s in scores.values()]}
        for step in (steps // 2, steps)
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _plus_one(score: float | None) -> float | None:
    return None if score is None else score + 1


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs/a", "bc", {0: 0.0, 1: 10.0})
    write_run(tmp_path / "runs/b", "bc", {2: 20.0, 3: 1000.0})
    write_run(tmp_path / "runs/c", "iql", {0: 50.0, 1: None, 2: 70.0})
    write_run(tmp_path / "runs/d", "iql", {0: 5.0}, lr=0.2)
    return tmp_path / "runs"


def read(runs: Path) -> dict[tuple[str, str], dict]:
    assert main([str(runs), "--json", str(runs / "out.json")]) == 0
    return {(row["algo"], row["options"]): row for row in json.loads((runs / "out.json").read_text())}


def test_runs_of_one_configuration_are_pooled_over_seeds(runs, capsys):
    rows = read(runs)
    bc = rows["bc", ""]
    assert (bc["seeds"], bc["mean"], bc["iqm"], bc["best"]) == (4, 257.5, 15.0, 258.5)
    assert bc["mean_interval"][0] < 257.5 < bc["mean_interval"][1]
    assert bc["seconds"] == 120
    assert "| maze" in capsys.readouterr().out


def test_options_that_differ_split_and_name_the_rows(runs):
    assert {("iql", "lr=0.1"), ("iql", "lr=0.2")} <= set(read(runs))


def test_a_diverged_replica_is_counted_and_left_out(runs):
    row = read(runs)["iql", "lr=0.1"]
    assert (row["seeds"], row["diverged"], row["mean"]) == (3, 1, 60.0)


def test_a_repeated_run_counts_once(runs):
    text = (runs / "a" / "config.yaml").read_text()
    write_run(runs / "e", "bc", {0: 77.0, 1: 77.0})
    (runs / "e" / "config.yaml").write_text(text)
    assert read(runs)["bc", ""]["seeds"] == 4


def test_a_seed_that_two_runs_share_counts_once(runs):
    write_run(runs / "e", "bc", {3: 1000.0, 4: 20.0})
    assert read(runs)["bc", ""]["seeds"] == 5


def test_unfinished_and_damaged_runs_are_named(runs, capsys):
    write_run(runs / "f", "bc", {9: 1.0}, status="failed")
    write_run(runs / "g", "bc", {9: 1.0})
    (runs / "g" / "summary.json").write_text("{")
    write_run(runs / "h", "bc", {9: 1.0})
    (runs / "h" / "summary.json").unlink()
    assert read(runs)["bc", ""]["seeds"] == 4
    out = capsys.readouterr().out
    for folder, why in (("f", "failed"), ("g", "summary.json is damaged"), ("h", "no summary.json yet")):
        assert f"{runs / folder} is left out: {why}" in out


def test_several_tasks_get_a_stratified_row(runs):
    write_run(runs / "i", "bc", {0: 100.0, 1: 100.0, 2: 100.0, 3: 100.0}, env="corridor")
    assert main([str(runs), "--json", str(runs / "out.json")]) == 0
    rows = [row for row in json.loads((runs / "out.json").read_text()) if row["env"] == "all tasks"]
    assert [(row["algo"], row["seeds"], row["mean"]) for row in rows] == [("bc", 8, 178.75)]


def test_csv_page_and_figure(runs, tmp_path, capsys):
    page = tmp_path / "offline.md"
    assert main([str(runs), "--csv", str(tmp_path / "x.csv"), "--page", str(page)]) == 0
    with open(tmp_path / "x.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["algo"] for row in rows} == {"bc", "iql"}
    assert "mean_low" in rows[0]
    text = page.read_text()
    assert "python scripts/run.py algo=bc" in text
    assert "offline.png" in text
    assert 1000 < (tmp_path / "offline.png").stat().st_size < 100_000


def test_tasks_with_a_budget_show_their_cost(runs, tmp_path, capsys):
    write_run(runs / "safe", "cpq", {0: 50.0, 1: 60.0}, env="point")
    path = runs / "safe" / "summary.json"
    summary = json.loads(path.read_text())
    for row, cost in zip(summary["final"], (4.0, 12.0), strict=True):
        row |= {"cost": cost, "limit": 8.0, "normalized_cost": cost / 8}
    path.write_text(json.dumps(summary))
    files = {"--json": tmp_path / "x.json", "--csv": tmp_path / "x.csv"}
    assert main([str(runs), *(str(part) for pair in files.items() for part in pair)]) == 0
    rows = {row["algo"]: row for row in json.loads(files["--json"].read_text()) if row["env"] == "point"}
    assert (rows["cpq"]["cost"], rows["cpq"]["normalized_cost"]) == (8.0, 1.0)
    assert rows["cpq"]["normalized_cost_interval"] == [0.5, 1.5]
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.replace(" ", "").endswith("|CPUs|cost|cost/limit|95%|")
    assert next(line for line in lines if "cpq" in line).replace(" ", "").endswith("|8.00|1.00|0.50to1.50|")
    assert next(line for line in lines if "iql" in line).replace(" ", "").endswith("||||")
    with open(files["--csv"]) as file:
        assert {row["algo"]: row["cost"] for row in csv.DictReader(file)}["cpq"] == "8.0"


def test_token_policies_have_a_table_of_their_own(tmp_path, capsys):
    sizes = {"width": 16, "layers": 2, "lr_schedule": "linear"}
    for algo, last in (("rloo", [0.5, 0.7]), ("sft", [0.2, 0.4])):
        write_run(tmp_path / "runs" / algo, algo, {0: 0.0, 1: 0.0}, env="llm/sums", **sizes)
        more = {"pass_at_k": 0.9, "k": 8, "entropy": 1.5, "kl": 0.25}
        final = [{"seed": seed, "pass_at_1": value, "best_pass_at_1": value} | more for seed, value in enumerate(last)]
        path = tmp_path / "runs" / algo
        summary = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(summary | {"final": final}))
        rows = [{"kind": "eval", "step": step, "pass_at_1": at} for step, at in ((0, [0.2, 0.4]), (10, last))]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, table = tmp_path / "llm.md", tmp_path / "x.json"
    assert main([str(tmp_path / "runs"), "--page", str(page), "--json", str(table)]) == 0
    rows = {row["algo"]: row for row in json.loads(table.read_text())}
    assert rows["rloo"]["gain"] == pytest.approx(0.3)
    assert rows["sft"]["gain"] == 0.0
    assert rows["rloo"]["first"] == pytest.approx(0.3)
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.replace(" ", "").endswith("|first|pass@1|95%|gain|95%|pass@8|entropy|KL|CPUs|")
    cells = [cell.strip() for cell in lines[0].split("|")]
    assert (cells[2], cells[6], cells[7], cells[9]) == ("rloo", "30.0", "60.0", "+30.0")
    assert cells[-5:-1] == ["90.0", "1.50", "0.25", "60"]
    assert "Transformers of width 16, 2 layers" in page.read_text()


def test_nothing_to_report(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == "no run folders there; name a folder that holds runs, such as runs/.\n"
    assert main([]) == 2
    assert main([str(tmp_path / "nope")]) == 2
