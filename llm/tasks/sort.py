"""Sorting: `4193=` -> `1349`. The difficulty is the number of digits."""

from __future__ import annotations

from fenchel.llm.tasks.task import Draws, Problem, TokenTask


class Sort(TokenTask):
    """Digits 0 to 9 (0 to 3 where enumerable), with repetitions, in ascending order."""

    TITLE = "sorting digits"
    SYMBOLS = "0123456789="
    LEVELS = (2, 8, 24)
    SFT_STEPS = 100
    ENUMERABLE = 3
    ENUMERABLE_SYMBOLS = "0123="

    @property
    def max_prompt(self) -> int:
        return self.difficulty + 1

    @property
    def max_answer(self) -> int:
        return self.difficulty + 1

    def problem(self, draws: Draws) -> Problem:
        digits = "0123" if self.enumerable else "0123456789"
        text = "".join(draws.choice(digits) for _ in range(self.difficulty))
        return Problem(f"{text}=", "".join(sorted(text)))

    def right(self, problem: Problem, answer: str) -> bool:
        return answer == problem.solution
