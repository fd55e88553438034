"""Tasks from files, character by character: word problems of GSM8K and SVAMP, and preferences."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from fenchel.errors import UserError
from fenchel.llm import data
from fenchel.llm.rewards.numbers import final_number
from fenchel.llm.sequences import pad_right
from fenchel.llm.tasks.task import Problem, Problems, TokenTask, split_of
from fenchel.llm.tokenizer import characters

LOADERS = {"llm/gsm8k": data.gsm8k, "llm/preferences": data.preferences, "llm/svamp": data.svamp}


class FileTask(TokenTask):
    """path: the file; test_path: that of the test split, without which a fifth of `path` is set aside, chosen by a hash
    of the prompt. A prompt that stands in both belongs to the test. Prompts and answers with more characters than
    longest_prompt and longest_answer are left out; the vocabulary is the characters of what is left.

    Of a word problem the number that an answer ends with is read. Preferences have no verifier: the chosen answer is
    the worked solution, and only it counts as right."""

    TITLE = "word problems or preferences from a file"
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
        self.preferences = LOADERS[id] is data.preferences
        self.tokenizer = characters(text for rows in self.rows.values() for row in rows for text in self._texts(row))

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
        items = [self._problem(row) for row in LOADERS[self.id](path)]
        return {item.prompt: item for item in items if self._fits(*self._texts(item))}

    def _problem(self, row: Any) -> Problem:
        if self.preferences:
            return Problem(row.prompt, row.chosen, row.rejected)
        return Problem(f"{row.question}\n", row.solution, row.answer)

    def _texts(self, item: Problem) -> list[str]:
        return [item.prompt, item.solution, *([item.facts] if self.preferences else [])]

    def _fits(self, prompt: str, *answers: str) -> bool:
        return len(prompt) <= self.max_prompt and all(len(answer) < self.max_answer for answer in answers)

    def _draw(self, split: str, count: int) -> list[Problem]:
        return self.rows[split][:count]

    def right(self, problem: Problem, answer: str) -> bool:
        if self.preferences:
            return answer == problem.solution
        found = final_number(answer)
        return found is not None and found == problem.facts

    def pairs(self, problems: Problems) -> Tensor | None:
        if not self.preferences:
            return None
        both = [[*self.tokenizer.encode(text), self.eos] for item in problems.items for text in self._texts(item)[1:]]
        return pad_right(both).unflatten(0, (-1, 2))
