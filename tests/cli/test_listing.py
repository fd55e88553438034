"""`--list`, `--explain`, `--help`: complete, and answered without importing torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fenchel.cli import source
from fenchel.cli.run import main
from fenchel.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("words", ["--list envs", "--list algos", "--list recipes", "--list papers", "--help",
                                   "--explain algo=iql"])  # fmt: skip
def test_no_torch(words):
    code = (
        "import sys; from fenchel.cli.run import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'hydra', 'rich', 'gymnasium', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("key", source.algorithms())
def test_explain_agrees_with_the_class(key, capsys):
    """What is read from the source is what Python sees: every option with its default, documented; the attributes."""
    from dataclasses import fields

    from fenchel.algorithms import get_algorithm

    cls, about = get_algorithm(key), source.describe(key)
    assert [option.name for option in about.options] == [field.name for field in fields(cls.Config)]
    assert all(option.doc for option in about.options)
    for name in ("PAPER", "TITLE", "FAMILY", "ACTIONS", "NEEDS", "PRESETS", "ONLINE"):
        assert about.attributes.get(name) == getattr(cls, name), name
    assert cls.TITLE
    assert main(["--explain", f"algo={key}"]) == 0
    out = capsys.readouterr().out
    for field in fields(cls.Config):
        assert f"algo.{field.name}=" in out


def test_list_names_every_row(capsys):
    from fenchel.envs import DATASETS, ENVS
    from fenchel.llm.tasks import TASKS

    main(["--list", "algos"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*source.algorithms(), *source.synonyms()]
    main(["--list", "envs"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert listed == [*dict.fromkeys([*ENVS, *DATASETS]), *(f"llm/{name}" for name in TASKS)]
    main(["--list", "papers"])
    assert len(capsys.readouterr().out.splitlines()) == 338


@pytest.mark.parametrize("name", source.synonyms())
def test_a_synonym_is_a_valid_line_and_no_learner(name):
    from fenchel.algorithms import get_algorithm
    from fenchel.cli import compose
    from fenchel.cli.plan import make_plan, root_keys

    words = f"algo={source.synonyms()[name]}".split()
    plan = make_plan(compose.compose(compose.read(words, root_keys())), words)
    for option, value in (word.removeprefix("algo.").split("=") for word in words[1:]):
        assert str(getattr(plan.config, option)).removesuffix(".0") == value
    assert name not in source.algorithms()
    with pytest.raises(UserError, match=f"algo={name} is algo={plan.algo} with {words[1]}"):
        get_algorithm(name)


def test_help_names_every_key(capsys):
    from fenchel.cli.plan import root_keys

    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {key}=" in out for key in root_keys())
