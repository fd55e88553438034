"""README.md: its code blocks run, its table is current, its commands are the ones that .ci/run executes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fenchel.cli import readme

ROOT = Path(__file__).resolve().parents[2]
TEXT = readme.README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_code_blocks_run(block, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[block], "README.md", "exec"), {"__name__": "readme"})


def test_there_are_a_box_and_a_discrete_example():
    assert any("IQL" in block and "Discrete" not in block for block in BLOCKS)
    assert any("Discrete" in block for block in BLOCKS)


def test_the_table_is_current():
    assert readme.refreshed(TEXT) == TEXT, "run `python scripts/report.py --readme`"


def test_the_two_commands_need_only_python_and_pip():
    commands = [block for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) if "pip install" in block]
    assert len(commands) == 2
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    for command in commands:
        parts = [part.strip() for part in command.split("&&")]
        assert parts[0] == "python3 -m venv .venv"
        assert parts[1] == ".venv/bin/pip install -c constraints.txt torch"
        assert all(part.startswith(".venv/bin/") for part in parts[1:])


def test_links_of_the_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
