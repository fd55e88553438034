"""The table and the figure of multi-objective runs."""

from __future__ import annotations

import json

import pytest
import yaml

from fenchel.cli import fronts
from fenchel.cli.report import main


def run_folder(path, env, front, hypervolume):
    path.mkdir(parents=True)
    config = {"env": env, "algo": "pcn", "task": {}, "hash": path.name, "train": {"steps": 5}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    final = [{"seed": i, "front": front, "hypervolume": hypervolume + i, "archive_steps": 2000.0} for i in range(2)]
    summary = {"status": "completed", "steps": 5, "env_steps": 3000, "cpu_seconds": 7.0, "final": final}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


@pytest.mark.parametrize(
    ("env", "front"),
    [
        ("deep-sea-treasure", [[1.0, -1.0], [0.0, 0.0]]),
        ("resource-gathering", [[0.0, 0.5, 0.5]]),
        ("building-9d", [[0.5] * 9, [0.6] * 9]),
    ],
)
def test_fronts_of_two_three_and_more_objectives(env, front, tmp_path, capsys):
    run_folder(tmp_path / "run", env, front, 4.0)
    assert main([str(tmp_path), "--fronts", str(tmp_path / "fronts.png")]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert [cell.strip() for cell in row.split("|")][1:6] == [env, "pcn", "5", "3 + 2", "2"]
    assert "4.5 (" in row
    assert 1000 < (tmp_path / "fronts.png").stat().st_size < 100_000


def test_runs_without_fronts_are_refused(tmp_path, capsys):
    folder = run_folder(tmp_path / "run", "pendulum", [], 0.0)
    with pytest.raises(fronts.UserError, match="no run there has a front"):
        fronts.runs_of([folder])
    assert main([str(tmp_path), "--fronts", str(tmp_path / "fronts.png")]) == 2
    assert "no run there has a front" in capsys.readouterr().err
