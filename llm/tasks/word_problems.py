"""Word problems from files: GSM8K and SVAMP, character by character, the number that an answer ends with being read."""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from pathlib import Path

from fenchel.errors import UserError
from fenchel.llm import data
from fenchel.llm.rewards.numbers import final_number
from fenchel.llm.tasks.task import Problem, TokenTask, split_of
from fenchel.llm.tokenizer import characters

LOADERS = {"llm/gsm8k": data.gsm8k, "llm/svamp": data.svamp}


class WordProblems(TokenTask):
    """path: the file; test_path: the file of test problems, without which a fifth of `path` is set aside, chosen by a
    hash of the question. A question that stands in both is a test problem. Questions and solutions with more characters
    than longest_prompt and longest_answer are left out. The vocabulary is the characters of what is left."""

    TITLE = "word problems from a file"
    SFT_STEPS = 2000

    def __init__(
        self,
        id: str,
        *,
        path: str | None = None,
        test_path: str | None = None,
        longest_prompt: int = 256,
        longest_answer: int = 128,
        train: int = 8192,
        test: int = 512,
        seed: int = 0,
        reward: str | list[str] = "verifier",
    ):
        if path is None:
            raise UserError(f"env={id} reads a file; add task.path=FILE.")
        for name, given in (("path", path), ("test_path", test_path)):
            if given and not Path(given).expanduser().is_file():
                raise UserError(f"task.{name}={given} is not there.")
        super().__init__(id, train=train, test=test, seed=seed, reward=reward)
        self.path, self.test_path = path, test_path
        self.max_prompt, self.max_answer = longest_prompt + 1, longest_answer + 1
        self.tokenizer = characters(
            text for rows in self.rows.values() for row in rows for text in (row.prompt, row.solution)
        )

    @cached_property
    def rows(self) -> dict[str, list[Problem]]:
        """Every split's problems."""
        found = self._load(self.path)
        test = self._load(self.test_path) if self.test_path else {}
        if not self.test_path:
            test = {prompt: item for prompt, item in found.items() if split_of(prompt) == "test"}
        train = [item for prompt, item in found.items() if prompt not in test]
        if not train or not test:
            raise UserError(
                f"env={self.id} has {len(train)} train and {len(test)} test problems within task.longest_prompt and "
                "task.longest_answer; both must have one."
            )
        return {"train": train, "test": list(test.values())}

    def _load(self, path: str) -> dict[str, Problem]:
        rows = LOADERS[self.id](path)
        short = [r for r in rows if len(r.question) < self.max_prompt and len(r.solution) < self.max_answer]
        return {r.question: Problem(f"{r.question}\n", r.solution, r.answer) for r in short}

    def _draw(self, split: str, count: int) -> list[Problem]:
        return self.rows[split][:count]

    def right(self, problem: Problem, answer: str) -> bool:
        found: Fraction | None = final_number(answer)
        return found is not None and found == problem.facts
