"""Multi-digit arithmetic: `47-6=` -> `41`. The difficulty is the number of digits of both operands.

Carries go from the last digit to the first one, and a model that writes from left to right must know all of them before
its first symbol. With `backwards`, numbers are written from their last digit on, operands padded to the same length, as
in `74-60=` -> `14`, and every digit follows from two digits and one carry.
"""

from __future__ import annotations

from fenchel.llm.tasks.task import Draws, Problem, TokenTask


class Arithmetic(TokenTask):
    """a + b or a - b, each operand from 0 to 10^difficulty - 1. One answer is right, as it is written: a minus comes
    first in either order. backwards: numbers from their last digit on."""

    TITLE = "multi-digit sums and differences"
    SYMBOLS = "0123456789+-="
    LEVELS = (1, 2, 6)
    TRAIN = 12_288
    SFT_STEPS = 2200
    SFT_NOISE = 0.5
    ENUMERABLE_SYMBOLS = SYMBOLS

    def __init__(
        self,
        id: str,
        *,
        backwards: bool = True,
        difficulty: int | None = None,
        enumerable: bool = False,
        train: int | None = None,
        test: int = 512,
        seed: int = 0,
        reward: str | list[str] = "verifier",
    ):
        super().__init__(
            id, difficulty=difficulty, enumerable=enumerable, train=train, test=test, seed=seed, reward=reward
        )
        self.backwards = backwards

    @property
    def max_prompt(self) -> int:
        return 2 * self.difficulty + 2

    @property
    def max_answer(self) -> int:
        """Digits, a carry or a sign, the end token."""
        return self.difficulty + 2

    def problem(self, draws: Draws) -> Problem:
        plus, a, b = draws.choice((True, False)), draws.below(10**self.difficulty), draws.below(10**self.difficulty)
        value = a + b if plus else a - b
        minus, digits = "-" if value < 0 else "", str(abs(value))
        answer = digits[::-1] if self.backwards else digits
        return Problem(f"{self._written(a)}{'+' if plus else '-'}{self._written(b)}=", f"{minus}{answer}")

    def _written(self, number: int) -> str:
        return str(number).zfill(self.difficulty)[::-1] if self.backwards else str(number)

    def right(self, problem: Problem, answer: str) -> bool:
        return answer == problem.solution
