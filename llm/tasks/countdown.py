"""Countdown: `3,7,2:13=` -> `3*2+7`. The difficulty is how many numbers there are.

Every number must be used exactly once, with + - * / and brackets, and the value must be the target exactly (fractions
on the way are allowed). Any such expression is right; the worked solution is the one that the problem was made from,
whose values on the way are whole.
"""

from __future__ import annotations

from typing import NamedTuple

from fenchel.llm.rewards.expression import evaluate
from fenchel.llm.tasks.task import Draws, Problem, TokenTask

PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


class Part(NamedTuple):
    value: int
    text: str
    precedence: int = 3  # of the outermost operator


class Countdown(TokenTask):
    """Numbers from 1 to 9, targets from 1 to 99; where enumerable, numbers to 3, targets to 4, and only + and -."""

    TITLE = "reach a target from given numbers"
    SYMBOLS = "0123456789+-*/(),:="
    LEVELS = (2, 3, 6)
    TRAIN = 8192
    SFT_STEPS = 3000
    SFT_NOISE = 0.4
    ENUMERABLE = 2
    ENUMERABLE_SYMBOLS = "1234+-,:="

    @property
    def max_prompt(self) -> int:
        return 2 * self.difficulty + 3

    @property
    def max_answer(self) -> int:
        """Numbers, operators, a pair of brackets for each operator but the outermost, the end token."""
        return 4 * self.difficulty - 4

    def problem(self, draws: Draws) -> Problem | None:
        largest, highest, signs = (3, 4, "+-") if self.enumerable else (9, 99, "+-*/")
        numbers = [draws.between(1, largest) for _ in range(self.difficulty)]
        parts = [Part(number, str(number)) for number in numbers]
        while len(parts) > 1:
            left, right = parts.pop(draws.below(len(parts))), parts.pop(draws.below(len(parts)))
            joined = join(left, draws.choice(signs), right)
            if joined is None:
                return None
            parts.append(joined)
        value, text, _ = parts[0]
        if not 1 <= value <= highest:
            return None
        listed = ",".join(map(str, numbers))
        return Problem(f"{listed}:{value}=", text, (sorted(numbers), value))

    def right(self, problem: Problem, answer: str) -> bool:
        numbers, target = problem.facts
        found = evaluate(answer)
        return found is not None and found.value == target and sorted(found.numbers) == numbers


def join(left: Part, sign: str, right: Part) -> Part | None:
    """`left sign right` with the brackets that it needs; None where the quotient is not whole."""
    level, a, b = PRECEDENCE[sign], left.value, right.value
    if sign == "/" and (b == 0 or a % b):
        return None
    value = a // b if sign == "/" else {"+": a + b, "-": a - b, "*": a * b}[sign]
    first = f"({left.text})" if left.precedence < level else left.text
    # a - (b - c) needs its brackets, a + (b - c) does not
    bare = right.precedence > level or (right.precedence == level and sign in "+*")
    return Part(value, f"{first}{sign}{right.text if bare else f'({right.text})'}", level)
