"""Knights and Knaves: everybody is a knight, whose statement is true, or a knave, whose statement is false.

`C-;C#B;B=C=` -> `++-`: A, the first to speak, says that C is a knave, B that C and B are not of a kind, C that they
are; the answer has `+` for a knight and `-` for a knave, in the order of the speakers. Statements are X+ (X is a
knight), X- (a knave), X=Y (of a kind), X#Y (not of a kind), and pairs of the first two joined by & (both) or | (at
least one). The difficulty is the number of people. Every problem has exactly one solution: others are thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

from fenchel.llm.tasks.task import Draws, Problem, TokenTask

NAMES = "ABCDEF"


class Knights(TokenTask):
    """A statement is about somebody else first; whom it names beside may be the speaker."""

    TITLE = "Knights and Knaves"
    DRAWS = 192
    SFT_STEPS = 800
    SYMBOLS = "ABCDEF+-=#&|;"
    LEVELS = (2, 4, 6)
    ENUMERABLE = 2
    ENUMERABLE_SYMBOLS = "AB+-=#&|;"

    @property
    def max_prompt(self) -> int:
        return 6 * self.difficulty

    @property
    def max_answer(self) -> int:
        return self.difficulty + 1

    def problem(self, draws: Draws) -> Problem | None:
        kinds = draws.choice(worlds(self.difficulty))
        statements = tuple(self._statement(draws, speaker, kinds) for speaker in range(self.difficulty))
        if len(solutions(statements)) != 1:
            return None
        return Problem(f"{';'.join(statements)}=", kinds, statements)

    def _statement(self, draws: Draws, speaker: int, kinds: str) -> str:
        """What this speaker can say: true of a knight, false of a knave."""
        people = NAMES[: self.difficulty]
        while True:
            first, form = draws.choice(people.replace(NAMES[speaker], "")), draws.below(4)
            second = draws.choice(people.replace(first, ""))
            text = first + draws.choice("+-")
            if form == 1:
                text = first + draws.choice("=#") + second
            elif form > 1:
                text += "&|"[form - 2] + second + draws.choice("+-")
            if holds(text, kinds) == (kinds[speaker] == "+"):
                return text

    def right(self, problem: Problem, answer: str) -> bool:
        if len(answer) != self.difficulty or set(answer) - {"+", "-"}:
            return False
        return all(holds(said, answer) == (kind == "+") for said, kind in zip(problem.facts, answer, strict=True))


def holds(statement: str, kinds: str) -> bool:
    """Whether a statement is true of these people, `+` for a knight and `-` for a knave."""
    for sign, join in (("&", all), ("|", any)):
        if sign in statement:
            return join(holds(part, kinds) for part in statement.split(sign))
    subject, relation, *other = statement
    kind = kinds[NAMES.index(subject)]
    if other:
        return (kind == kinds[NAMES.index(other[0])]) == (relation == "=")
    return kind == relation


@cache
def worlds(people: int) -> list[str]:
    return ["".join(kinds) for kinds in product("-+", repeat=people)]


@cache
def agreeing(statement: str, speaker: int, people: int) -> frozenset[str]:
    """The worlds in which this speaker can say this: a knight, and it is true, or a knave, and it is false."""
    return frozenset(kinds for kinds in worlds(people) if holds(statement, kinds) == (kinds[speaker] == "+"))


def solutions(statements: Sequence[str]) -> frozenset[str]:
    """All worlds in which everybody can say what he says."""
    said = enumerate(statements)
    return frozenset.intersection(*(agreeing(statement, i, len(statements)) for i, statement in said))
