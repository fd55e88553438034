"""A task in the tokens of another tokenizer: the same problems, answers and verdicts, for a model that was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fenchel.errors import UserError
from fenchel.llm.tasks.task import SPLITS, Problem, TokenTask
from fenchel.llm.tokenizer import Tokenizer

LOOKED_AT = 64  # solutions per split that are read back


class Retold:
    """What `retold` puts before a task's own class. Answers are read as the task reads them, without spaces around."""

    told: Any  # the task itself
    max_prompt = max_answer = 0  # in tokens: the longest of the problems and of their solutions

    def _draw(self, split: str, count: int) -> list[Problem]:
        return self.told.problems(split).items

    def text(self, answer: Sequence[int]) -> str | None:
        found = super().text(answer)  # type: ignore[misc]
        return None if found is None else found.strip()

    def right(self, problem: Problem, answer: str) -> bool:
        """Text of other symbols than the task's, or longer than it reads, is wrong."""
        known, told = self.told.SYMBOLS, self.told
        readable = len(answer) < told.max_answer and (not known or set(answer) <= set(known))
        return readable and told.right(problem, answer)


def retold(task: TokenTask, tokenizer: Tokenizer, name: str) -> TokenTask:
    """The task as `tokenizer` writes it. Raises UserError for a task that is to be enumerated, and for a tokenizer that
    does not give text back as it was; `name` is what the sentence calls it."""
    if task.enumerable:
        raise UserError(f"{name} writes in tokens of its own, so that task.enumerable=true cannot be had.")
    other = object.__new__(type("RetoldTask", (Retold, type(task)), {}))
    vars(other).update(vars(task) | {"told": task, "tokenizer": tokenizer, "_splits": {}})
    other.max_answer = 1 << 30  # until it is known
    splits = [other.problems(split) for split in SPLITS]
    pairs = [found for split in splits if (found := other.pairs(split)) is not None]
    other.max_prompt = max(split.prompts.shape[-1] for split in splits)
    other.max_answer = max(x.shape[-1] for x in (*pairs, *(split.solutions for split in splits)))
    for split in splits:
        for item, row in zip(split.items[:LOOKED_AT], split.solutions.tolist(), strict=False):
            if not other.judge(item, found := other.text([token for token in row if token >= 0])):
                raise UserError(
                    f"{name} does not give text back: {item.solution!r} of env={task.id} becomes {found!r}."
                )
    return other
