"""Multi-digit arithmetic: `47*6=` -> `282`. The difficulty is the number of digits of both operands."""

from __future__ import annotations

from fenchel.llm.tasks.task import Draws, Problem, TokenTask

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


class Arithmetic(TokenTask):
    """a o b with o one of + - *, each operand from 0 to 10^difficulty - 1. One answer is right, as it is written."""

    TITLE = "multi-digit sums, differences and products"
    SYMBOLS = "0123456789+-*="
    LEVELS = (1, 2, 6)
    TRAIN = 16_384
    SFT_STEPS = 1500
    ENUMERABLE_SYMBOLS = SYMBOLS

    @property
    def max_prompt(self) -> int:
        return 2 * self.difficulty + 2

    @property
    def max_answer(self) -> int:
        return 2 * self.difficulty + 1

    def problem(self, draws: Draws) -> Problem:
        sign, a, b = draws.choice("+-*"), draws.below(10**self.difficulty), draws.below(10**self.difficulty)
        return Problem(f"{a}{sign}{b}=", str(OPERATIONS[sign](a, b)))

    def right(self, problem: Problem, answer: str) -> bool:
        return answer == problem.solution
