"""What a run leaves: the folder, exact resume after kills, failures, sweeps, plots."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from fenchel.cli.run import main

ROOT = Path(__file__).resolve().parents[2]
TASK = "env=pointmaze-umaze task.transitions=2000"
SMALL = "algo.hidden=[8] algo.batch_size=8 eval_episodes=1 final_episodes=2"
LINE = f"{TASK} algo=bc seed=0:2 steps=40 eval_every=10 log_every=20 {SMALL}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(line: str) -> int:
    return main(line.split())


def summary(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "summary.json").read_text())


def test_the_folder_has_what_the_design_names(capsys):
    assert run(f"{LINE} out=a") == 0
    assert {p.name for p in Path("a").iterdir()} >= {
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "learning_curve.png",
    }  # fmt: skip
    found = summary("a")
    assert set(found) >= {
        "schema", "env", "algo", "seeds", "steps", "status", "wall_seconds", "cpu_seconds", "updates_per_second",
        "device", "versions", "commit", "data_hash", "final",
    }  # fmt: skip
    assert (found["env"], found["algo"], found["seeds"]) == ("pointmaze-umaze", "bc", [0, 1])
    assert (found["steps"], found["status"]) == (40, "completed")
    assert [row["seed"] for row in found["final"]] == [0, 1]
    assert all({"return_mean", "normalized_score", "best_return_mean"} <= set(row) for row in found["final"])
    rows = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [10, 20, 30, 40]
    assert Path("a/learning_curve.png").stat().st_size < 100_000
    out = capsys.readouterr().out
    assert "a/summary.json" in out
    assert "a/learning_curve.png" in out
    assert "\x1b" not in out  # stdout is not a terminal here


def test_the_default_folder_is_named_by_what_determines_the_numbers():
    assert run(LINE) == 0
    assert run(f"{LINE} final_episodes=1") == 0  # how often we look does not change the numbers of training
    assert run(f"{LINE} algo.lr=0.001") == 0
    names = sorted(path.name for path in Path("runs/pointmaze-umaze/bc").iterdir())
    assert len(names) == 3
    assert sum(name.endswith("-2") for name in names) == 1
    first = next(name for name in names if f"{name}-2" in names)
    metrics = [Path(f"runs/pointmaze-umaze/bc/{name}/metrics.jsonl").read_bytes() for name in (first, f"{first}-2")]
    assert metrics[0] == metrics[1]


def test_seeds_and_lists_become_replicas():
    assert run(f"{TASK} algo=iql seed=3:5 algo.expectile=[0.6,0.8] algo.lr=1e-3 steps=2 {SMALL} out=a") == 0
    rows = summary("a")["final"]
    assert [(row["seed"], round(row["expectile"], 6)) for row in rows] == [(3, 0.6), (4, 0.6), (3, 0.8), (4, 0.8)]
    assert yaml.safe_load(Path("a/config.yaml").read_text())["config"]["lr"] == 0.001


def test_preset_yields_to_the_line():
    assert run(f"{TASK} algo=bc seed=0 preset=small steps=1 eval_episodes=0 final_episodes=0 out=a") == 0
    assert (
        run(f"{TASK} algo=bc seed=0 preset=small steps=1 eval_episodes=0 final_episodes=0 algo.hidden=[4] out=b") == 0
    )
    configs = [yaml.safe_load(Path(f"{name}/config.yaml").read_text())["config"] for name in "ab"]
    assert [config["hidden"] for config in configs] == [[64, 64], [4]]
    assert configs[0]["batch_size"] == configs[1]["batch_size"] == 64


def test_out_must_be_empty_or_resumed(capsys):
    Path("a").mkdir()
    Path("a/mine.txt").write_text("precious")
    assert run(f"{LINE} out=a") == 2
    assert capsys.readouterr().err == ("out=a is not empty; name another folder, or add resume=true to go on.\n")
    Path("b").write_text("")
    assert run(f"{LINE} out=b") == 2
    assert capsys.readouterr().err == "out=b is a file; valid is a folder that is new or empty.\n"
    assert run(f"{LINE} out=c") == 0
    assert run(f"{LINE} out=c resume=true algo.lr=0.1") == 2
    assert capsys.readouterr().err == (
        "resume=true goes on with the same line, but config differs from c/config.yaml; repeat that line or name "
        "another folder by out=.\n"
    )  # fmt: skip


def test_one_writer_at_a_time(capsys):
    from filelock import FileLock

    assert run(f"{LINE} out=a") == 0
    with FileLock("a/.lock"):
        assert run(f"{LINE} out=a resume=true") == 2
    assert "out=a is being written by another process" in capsys.readouterr().err


def test_steps_may_grow():
    assert run(f"{LINE} out=a") == 0
    assert run(f"{LINE} steps=80 out=b") == 0
    assert run(f"{LINE} steps=80 out=a resume=true") == 0
    assert Path("a/metrics.jsonl").read_bytes() == Path("b/metrics.jsonl").read_bytes()
    assert summary("a")["final"] == summary("b")["final"]


def test_the_length_of_a_schedule_is_part_of_the_run(capsys):
    assert run(f"{LINE} algo.lr_schedule=linear out=a") == 0
    config = yaml.safe_load(Path("a/config.yaml").read_text())
    assert config["config"]["lr_steps"] == config["train"]["steps"]
    assert run(f"{LINE} algo.lr_schedule=linear steps=80 out=a resume=true") == 2
    assert "config differs" in capsys.readouterr().err
    assert run(f"{LINE} algo.lr_schedule=linear algo.lr_steps=7 out=b") == 0
    assert yaml.safe_load(Path("b/config.yaml").read_text())["config"]["lr_steps"] == 7


def child(line: str) -> subprocess.Popen:
    words = [sys.executable, str(ROOT / "scripts" / "run.py"), *line.split()]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_and_resumed(line: str, out: str, kills: int, rng: random.Random, longest: float) -> int:
    """SIGKILL `kills` times at random moments after the run folder appears, then to the end; returns the real kills."""
    done = 0
    for _ in range(kills):
        process = child(f"{line} out={out} resume=true")
        while process.poll() is None and not Path(out, "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        done += process.wait() == -signal.SIGKILL
    assert run(f"{line} out={out} resume=true") == 0
    return done


def check_kills(kills: int, steps: int, longest: float, seed: int) -> None:
    line = f"{TASK} algo=iql seed=0:2 steps={steps} eval_every=20 log_every=20 checkpoint_every=15 {SMALL}"
    assert run(f"{line} out=whole") == 0
    assert killed_and_resumed(line, "killed", kills, random.Random(seed), longest) > 0
    for name in ("metrics.jsonl", "checkpoints/last.safetensors"):
        assert Path("whole", name).read_bytes() == Path("killed", name).read_bytes()
    assert summary("whole")["final"] == summary("killed")["final"]
    assert not list(Path("killed").rglob("*.tmp*"))


def test_a_killed_run_resumes_to_the_same_bytes():
    check_kills(kills=2, steps=400, longest=1.0, seed=0)


@pytest.mark.slow
def test_twenty_kills_are_twenty_exact_resumes():
    check_kills(kills=20, steps=6000, longest=6.0, seed=1)


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    from fenchel.algorithms import runner

    advance, calls = runner.Runner.advance, []

    def interrupted(self, steps):
        calls.append(steps)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return advance(self, steps)

    monkeypatch.setattr(runner.Runner, "advance", interrupted)
    assert run(f"{LINE} out=a") == 130
    assert capsys.readouterr().err == "Stopped at step 20; repeat the line with resume=true to go on in a.\n"
    assert summary("a")["status"] == "interrupted"
    assert run(f"{LINE} out=a resume=true") == 0
    assert summary("a")["status"] == "completed"


def test_a_failure_keeps_the_checkpoint_and_says_one_sentence(capsys, monkeypatch):
    from fenchel.algorithms import evaluation

    real = evaluation.evaluate

    def failing(learner, task, episodes, step, *rest):
        if step == 30:
            raise OSError(28, "No space left on device")
        return real(learner, task, episodes, step, *rest)

    monkeypatch.setattr(evaluation, "evaluate", failing)
    assert run(f"{LINE} out=a") == 3
    captured = capsys.readouterr()
    assert captured.err == (
        "Failed at step 20: OSError: [Errno 28] No space left on device; the last finite checkpoint is kept in "
        "a/checkpoints.\n"
    )  # fmt: skip
    found = summary("a")
    assert (found["status"], found["steps"], found["final"]) == ("failed", 20, [])
    assert Path("a/checkpoints/last.safetensors").exists()
    assert "Traceback" in Path("a/error.txt").read_text()


def test_a_run_whose_replicas_all_diverge_fails(capsys):
    line = f"{TASK} algo=bc seed=0:2 steps=40 log_every=10 {SMALL} algo.lr=1e30 out=a"
    assert run(line) == 3
    assert "every replica diverged" in capsys.readouterr().err
    assert summary("a")["status"] == "failed"


def test_one_diverged_replica_does_not_stop_the_others(capsys):
    line = f"{TASK} algo=bc seed=0 steps=40 log_every=10 {SMALL} algo.lr=[1e-3,1e30] out=a"
    assert run(line) == 0
    found = summary("a")
    assert found["status"] == "completed"
    assert [row["return_mean"] is None for row in found["final"]] == [False, True]
    assert "Replica 1 (seed 0) is not finite" in capsys.readouterr().out


def test_a_sweep_collects_what_is_refused(capsys):
    line = f"{LINE} steps=4"
    assert run(f"-m {line} algo=bc,iql algo.expectile=0.7") == 2  # bc has no expectile
    out = capsys.readouterr().out.splitlines()
    assert sum("algo.expectile is not an option" in text for text in out) == 1
    assert out[-1].startswith("1 of 2 jobs done; record: runs/sweeps/")
    assert len(list(Path("runs/pointmaze-umaze/iql").iterdir())) == 1
    jobs = next(Path("runs/sweeps").glob("*/jobs.jsonl"))
    assert sorted(json.loads(row)["code"] for row in jobs.read_text().splitlines()) == [0, 2]


@pytest.mark.slow
def test_a_sweep_runs_in_joblib_workers(capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = f"-m {LINE} steps=4 algo=bc,iql hydra/launcher=joblib hydra.launcher.n_jobs=2"
    assert run(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 of 2 jobs done")


def test_tensorboard_sink():
    pytest.importorskip("tensorboard")
    assert run(f"{LINE} log=tensorboard out=a") == 0
    assert list(Path("a").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("log", ["tensorboard", "wandb"])
def test_a_missing_sink_names_its_extra(log, capsys, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == log else find(name, *rest))
    assert run(f"{LINE} log={log} out=a") == 2
    expected = f"log={log} needs the package {log}; install it with pip install 'fenchel[log]'.\n"
    assert capsys.readouterr().err == expected
    assert not Path("a").exists()


def test_the_users_own_environment_from_the_current_folder():
    """Found in the current folder, while their `envs/` does not shadow ours."""
    Path("envs").mkdir()
    Path("envs/__init__.py").write_text("raise AssertionError('imported by mistake')")
    shutil.copy(ROOT / "tests" / "cli" / "own_task.py", "own_task.py")
    words = f"env=own_task:make algo=iql seed=0 steps=2 {SMALL} out=a"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "run.py"), *words.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert summary("a")["env"] == "own_task:make"


def test_cfg_prints_what_would_run(capsys):
    assert run(f"--cfg {TASK} algo=iql algo.expectile=[0.6,0.8] seed=0:2") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["config"]["expectile"] == [0.6, 0.6, 0.8, 0.8]
    assert shown["seeds"] == [0, 1, 0, 1]
    assert not Path("runs").exists()


def test_the_demonstration_is_the_default(capsys):
    assert run("--cfg") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["env"], shown["algo"], shown["seeds"]) == ("pointmaze-umaze", "iql", [0, 1, 2, 3])
    assert (shown["train"]["steps"], shown["config"]["hidden"]) == (20_000, [64, 64])
    assert run("--cfg env=pointmaze-umaze") == 0
    assert yaml.safe_load(capsys.readouterr().out)["config"]["hidden"] == [256, 256]


def test_the_curve_of_one_evaluation_and_of_missing_scores(tmp_path):
    from fenchel.cli.plot import learning_curves

    curves = {"a": (np.array([1]), np.array([[1.0, np.nan]])), "b": (np.array([1, 2]), np.array([[np.nan], [2.0]]))}
    assert learning_curves(tmp_path / "x.png", curves, "t", "score").stat().st_size > 1000
