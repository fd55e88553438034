"""Multi-digit arithmetic: `47-6=` -> `41`. The difficulty is the number of digits of both operands."""

from __future__ import annotations

from fenchel.llm.tasks.task import Draws, Problem, TokenTask


class Arithmetic(TokenTask):
    """a + b or a - b, each operand from 0 to 10^difficulty - 1. One answer is right, as it is written."""

    TITLE = "multi-digit sums and differences"
    SYMBOLS = "0123456789+-="
    LEVELS = (1, 2, 6)
    TRAIN = 16_384
    SFT_STEPS = 600
    SFT_NOISE = 0.3
    ENUMERABLE_SYMBOLS = SYMBOLS

    @property
    def max_prompt(self) -> int:
        return 2 * self.difficulty + 2

    @property
    def max_answer(self) -> int:
        """Digits, a carry or a sign, the end token."""
        return self.difficulty + 2

    def problem(self, draws: Draws) -> Problem:
        sign, a, b = draws.choice((1, -1)), draws.below(10**self.difficulty), draws.below(10**self.difficulty)
        return Problem(f"{a}{'+' if sign > 0 else '-'}{b}=", str(a + sign * b))

    def right(self, problem: Problem, answer: str) -> bool:
        return answer == problem.solution
