"""Any line ends in a run, or in status 2 with one sentence: never in a traceback."""

from __future__ import annotations

import pytest

from fenchel.cli import execute, run
from fenchel.theory.rng import Rng

KEYS = [
    "env", "algo", "seed", "steps", "preset", "device", "out", "resume", "log", "eval_every", "normalize_obs",
    "threads",
    "algo.lr", "algo.expectile", "algo.hidden", "algo.batch_size", "algo.clip_grad", "task.transitions", "task.nope",
    "algo.nope", "hydra.run.dir", "hydra/launcher", "+env", "++steps", "~algo", "algo@pkg", "", "task", "env.x", "sead",
    "-m", "--cfg", "--list", "--explain", "--hlep", "-", "--",
]  # fmt: skip
VALUES = [
    "pointmaze-umaze", "pointmaze-umase", "gym:CartPole-v1", "gym:", "minari:x", "d4rl:/no.hdf5", "os:getcwd", ":",
    "a.b:c", "iql", "bc", "iqll", "0:4", "4:0", "0:99999999999999999999", "[0,1]", "[0,0]", "[]", "[", "]", "{",
    "{a:1}",
    "{a:{b:[1,{}]}}", "1e5", "-1", "0", "nan", "inf", "1e400", "1_000", "0x10", "null", "true", "False", "small", "cpu",
    "cuda:99", "tensorboard", "''", "'a b'", '"', "${env}", "${nope}", "${oc.env:NOPE}", "${", "a,b", "range(1,3)",
    "choice(1,2)", "interval(0,1)", "sort(3,2)", "shuffle(1,2)", "glob(*)", "int(3.7)", "str(1)", "é∂", "\\", "a=b", "",
    "[[1,2],[3]]", "[64,64]", "[-5]", "[1.5]", "????", "*", "%s", "\t", "\x00", "9" * 400, "envs", "algo=iql", "job",
]  # fmt: skip


def line(rng: Rng) -> list[str]:
    words = []
    for _ in range(int(rng.integers(4, 1)) + 1):
        key = KEYS[int(rng.integers(len(KEYS), 1))]
        value = VALUES[int(rng.integers(len(VALUES), 1))]
        form = int(rng.integers(12, 1))
        words.append({0: key, 1: value, 2: f"{key}={value}{value}", 3: f"{key}=={value}"}.get(form, f"{key}={value}"))
    return words


def check(count: int, seed: int, capsys, monkeypatch, tmp_path) -> None:
    """The whole entry in-process, up to where training would begin."""
    monkeypatch.chdir(tmp_path)
    prepared = []

    def stop(plan, ready, quiet=False):
        prepared.append(plan)
        return {"code": 0, "message": "", "folder": None}

    monkeypatch.setattr(execute, "execute", stop)
    monkeypatch.setattr(execute, "make_task", _cached(execute.make_task))
    rng = Rng(seed, "lines")
    codes = []
    for _ in range(count):
        words = [word for word in line(rng) if word not in ("-m", "--multirun")]
        codes.append(run.main(words))
        err = capsys.readouterr().err
        assert codes[-1] in (0, 2), words
        assert (codes[-1] == 2) == bool(err), (words, err)
        assert err.count("\n") <= 1, (words, err)
        assert "Traceback" not in err
    assert len(set(codes)) == 2
    assert prepared
    assert list(tmp_path.iterdir()) == []


def _cached(make):
    """Small data instead of the default size; the options that the line gave are still checked."""
    found = {}

    def cached(env, options):
        key = (env, repr(options))
        if key not in found:
            size = options.get("transitions")
            small = {"transitions": 500} if env.startswith("pointmaze") and (size is None or size == 1e5) else {}
            found[key] = make(env, options | small)
        return found[key]

    return cached


def test_no_line_ends_in_a_traceback(capsys, monkeypatch, tmp_path):
    check(300, 0, capsys, monkeypatch, tmp_path)


@pytest.mark.slow
def test_ten_thousand_lines(capsys, monkeypatch, tmp_path):
    check(10_000, 1, capsys, monkeypatch, tmp_path)


@pytest.mark.parametrize("command", ["reproduce", "data", "report", "bench"])
@pytest.mark.parametrize(
    "words", [["--nope"], ["nope"], ["--json"], ["nope", "--json", "/no/folder/x"], ["\x00"], ["=", "="]]
)
def test_the_other_commands_refuse_with_one_sentence(command, words, capsys, monkeypatch, tmp_path):
    from fenchel.cli import main

    monkeypatch.chdir(tmp_path)
    assert main([command, *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_the_entry_point(capsys):
    from fenchel.cli import COMMANDS, main

    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"fenchel {name}" in out for name in COMMANDS)
    assert main(["rum"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean 'run'?\n")
