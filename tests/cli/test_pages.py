"""Code blocks of the pages under docs that stand alone: they run, and print what they say."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_exact_side_of_constrained_problems(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "constrained.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, "constrained.md", "exec"), {"__name__": "page"})
    out = capsys.readouterr().out.splitlines()
    value, price = map(float, out[0].split())
    assert (round(value, 4), round(price, 4)) == (0.5335, 0.1435)
    assert out[1].startswith("Certificate(cmdp")
    assert out[-1] == "tensor(6)"
