"""Chain sums with running totals: `7+12-3=` -> `19,16`. The difficulty is the number of operations.

Only what stands after the last comma is read, so that a model may answer at once or work its way: the length of an
answer is the model's own choice.
"""

from __future__ import annotations

from itertools import accumulate

from fenchel.llm.tasks.task import Draws, Problem, TokenTask


class ChainSum(TokenTask):
    """Terms from 1 to 20 (1 to 6 where enumerable), added or subtracted from left to right."""

    TITLE = "chains of sums and differences, with running totals"
    SYMBOLS = "0123456789+-,="
    SFT_STEPS = 800
    LEVELS = (1, 2, 8)
    ENUMERABLE_SYMBOLS = SYMBOLS

    @property
    def max_prompt(self) -> int:
        return 3 * self.difficulty + 3

    @property
    def max_answer(self) -> int:
        return 3 if self.enumerable else 4 * self.difficulty + 1

    def problem(self, draws: Draws) -> Problem:
        largest = 6 if self.enumerable else 20
        terms = [draws.between(1, largest)]
        terms += [draws.choice((1, -1)) * draws.between(1, largest) for _ in range(self.difficulty)]
        first, *totals = accumulate(terms)
        return Problem(f"{first}{''.join(f'{term:+d}' for term in terms[1:])}=", ",".join(map(str, totals)), totals[-1])

    def right(self, problem: Problem, answer: str) -> bool:
        return answer.rpartition(",")[2] == str(problem.facts)
