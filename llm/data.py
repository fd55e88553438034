"""Data sets of word problems and of preferences, read from files by path. Nothing is downloaded.

A file that is missing, is not what it should be, or has a damaged line is refused in one sentence that names the line.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from fenchel.errors import UserError
from fenchel.llm.rewards.numbers import exact, final_number

MAX_LINE = 1 << 20  # characters; a longer line is no record of ours
TURN = "\n\nAssistant:"
CALCULATOR = re.compile(r"<<[^<>]{0,200}>>")  # GSM8K's annotations


class WordProblem(NamedTuple):
    question: str
    solution: str
    answer: Fraction


class Preference(NamedTuple):
    prompt: str
    chosen: str
    rejected: str


def gsm8k(path: str | Path) -> list[WordProblem]:
    """Lines of {"question", "answer"}, the answer's last line being `#### number`. (Cobbe et al. 2021.)

    The calculator's annotations <<...>> are taken out of the solution.
    """
    rows = []
    for number, row in _lines(path, ("question", "answer")):
        answer = final_number(row["answer"])
        if answer is None or "####" not in row["answer"]:
            raise UserError(f"{path}, line {number}: the answer has no number behind ####.")
        rows.append(WordProblem(row["question"], CALCULATOR.sub("", row["answer"]), answer))
    return _some(rows, path)


def svamp(path: str | Path) -> list[WordProblem]:
    """A list of {"Body", "Question", "Equation", "Answer"}; the solution is `equation #### answer`. (Patel 2021.)"""
    try:
        items = json.loads(_read(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}).") from None
    if not isinstance(items, list):
        raise UserError(f"{path} must hold a list of problems.")
    rows = []
    for number, item in enumerate(items, 1):
        row = _checked(item, ("Body", "Question", "Equation", "Answer"), f"{path}, problem {number}")
        answer = exact(str(row["Answer"]))
        if answer is None:
            raise UserError(f"{path}, problem {number}: Answer {str(row['Answer'])[:40]!r} is no number.")
        body = str(row["Body"]).strip()
        question = f"{body}{'' if body.endswith(('.', ',', '?', '!')) else '.'} {str(row['Question']).strip()}"
        shown = str(answer)
        rows.append(WordProblem(question, f"{str(row['Equation']).strip()} #### {shown}", answer))
    return _some(rows, path)


def preferences(path: str | Path) -> list[Preference]:
    """Lines of {"chosen", "rejected"} (HH-RLHF, Bai et al. 2022) or {"prompt", "chosen", "rejected"}; .gz too.

    Without "prompt" both are whole dialogues, which share everything up to an assistant's turn: the prompt is what they
    share, up to and with the last `\\n\\nAssistant:` in it. Pairs that do not differ are left out.
    """
    rows = []
    for number, row in _lines(path, ("chosen", "rejected")):
        chosen, rejected = row["chosen"], row["rejected"]
        prompt = row["prompt"] if "prompt" in row else _shared(chosen, rejected)
        if not isinstance(prompt, str) or not prompt:
            raise UserError(f"{path}, line {number}: chosen and rejected share no turn, and there is no prompt.")
        if "prompt" not in row:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if chosen != rejected:
            rows.append(Preference(prompt, chosen, rejected))
    return _some(rows, path)


def _shared(chosen: str, rejected: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    end = chosen[:length].rfind(TURN)
    return chosen[: end + len(TURN)] if end >= 0 else ""


def _lines(path: str | Path, names: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        if len(line) > MAX_LINE:
            raise UserError(f"{where} has {len(line)} characters; valid are at most {MAX_LINE}.")
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}).") from None
        row = _checked(row, names, where)
        for name in names:
            if not isinstance(row[name], str):
                raise UserError(f"{where}: {name} is not text.")
        yield number, row


def _checked(row: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    missing = [name for name in names if not isinstance(row, dict) or name not in row]
    if missing:
        raise UserError(f"{where} has no {missing[0]}; it must have {', '.join(names)}.")
    return row


def _read(path: str | Path) -> str:
    try:
        content = Path(path).expanduser().read_bytes()
        return (gzip.decompress(content) if str(path).endswith(".gz") else content).decode()
    except FileNotFoundError:
        raise UserError(f"{path} is not there.") from None
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from None


def _some(rows: list[Any], path: str | Path) -> list[Any]:
    if not rows:
        raise UserError(f"{path} has no records.")
    return rows
