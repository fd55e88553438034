"""A token task: problems written in a few symbols, worked solutions, an exact verifier and one dial of difficulty.

A problem is a pure function of (the task's seed, the number of the attempt). Whether it belongs to "train" or "test" is
decided by a hash of its prompt, so that the two never share a prompt, whatever their sizes; within a split prompts are
distinct. Answers are data: a verifier reads them as text, of bounded length, and whatever it does not understand
scores 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.envs.spec import Discrete
from fenchel.errors import UserError, unknown
from fenchel.llm.rewards import make_reward
from fenchel.llm.sequences import PAD, pad_left, pad_right
from fenchel.llm.spec import TokenSpec
from fenchel.llm.tokenizer import Symbols
from fenchel.theory.rng import Streams
from fenchel.theory.tokens import TokenTree

SPLITS = ("train", "test")
TEST_SHARE = 5  # one prompt in so many is a test prompt
ATTEMPTS = 1024  # problems drawn in one block
PATIENCE = 40  # attempts per problem asked for, before a small space counts as exhausted
ENUMERABLE_PROMPTS = 8


class Draws:
    """The random numbers of one attempt. Raises IndexError when they are used up: the attempt is then given up."""

    def __init__(self, numbers: Sequence[int]):
        self.numbers, self.used = numbers, 0

    def below(self, high: int) -> int:
        """Uniform on 0 .. high - 1, up to a bias below high / 2^62."""
        number = self.numbers[self.used]
        self.used += 1
        return number % high

    def between(self, low: int, high: int) -> int:
        """Uniform on low .. high, both included."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]


@dataclass(frozen=True)
class Problem:
    """`facts`: what the verifier must know beyond the text."""

    prompt: str
    solution: str
    facts: Any = None


@dataclass(frozen=True)
class Problems:
    """n problems of one split. prompts (n, P) int64, left-padded; solutions (n, T) int64, right-padded, with EOS."""

    task: TokenTask
    items: list[Problem]
    prompts: Tensor = field(init=False)
    solutions: Tensor = field(init=False)

    def __post_init__(self) -> None:
        task = self.task
        rows = [task.tokenizer.encode(item.prompt) for item in self.items]
        answers = [[*task.tokenizer.encode(item.solution), task.eos] for item in self.items]
        object.__setattr__(self, "prompts", pad_left(rows))
        object.__setattr__(self, "solutions", pad_right(answers))

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: Tensor, answers: Tensor) -> list[tuple[Problem, str | None]]:
        """Problem and answer text of each row of index (*b) and answers (*b, T), flattened; None: no end token."""
        rows = zip(index.flatten().tolist(), answers.flatten(0, -2).tolist(), strict=True)
        return [(self.items[i], self.task.text(row)) for i, row in rows]

    def score(self, index: Tensor, answers: Tensor, function: Callable[[Problem, str | None], float]) -> Tensor:
        """`function(problem, text)` of every answer, (*b) float32 on the answers' device."""
        values = [function(problem, text) for problem, text in self.read(index, answers)]
        return torch.tensor(values, dtype=torch.float32).view(index.shape).to(answers.device)

    def verify(self, index: Tensor, answers: Tensor) -> Tensor:
        """1 for a right answer, else 0. index (*b) int64 into this split, answers (*b, T) int64 with PAD = -1 after the
        end token -> (*b) float32. An answer without an end token is not finished and scores 0."""
        if answers.shape[:-1] != index.shape:
            raise UserError(f"answers {tuple(answers.shape)} must be index {tuple(index.shape)} with a token axis.")
        return self.score(index, answers, self.task.judge)

    @cached_property
    def right(self) -> Float[Tensor, "X Y"]:
        """float64: `verify` of every answer in the task's tree to every prompt."""
        texts = [self.task.text(row) for row in self._answers.tolist()]
        rows = [[self.task.judge(item, text) for text in texts] for item in self.items]
        return torch.tensor(rows, dtype=torch.float64)

    @cached_property
    def earned(self) -> Float[Tensor, "X Y"]:
        """float64: the task's reward of every answer to every prompt; several rewards are added."""
        if self.task.reward_names == "verifier":
            return self.right
        index = torch.arange(len(self))[:, None].expand(-1, len(self._answers))
        rows = [self.task.reward(self, i, self._answers).double() for i in index]
        return torch.stack([row.sum(-1) if row.ndim == 2 else row for row in rows])

    @property
    def _answers(self) -> Tensor:
        tree = self.task.tree
        return torch.where(tree.mask, tree.tokens, PAD)


class TokenTask:
    """A subclass writes `problem` and `right`, and says how long prompts and answers are at each difficulty.

    Options of every task: difficulty; enumerable: a few prompts, and answers so short that `tree` holds them all;
    train, test: how many problems of each split at most (a small space has fewer); seed: of the problems; reward: names
    in `REWARDS`, what training sees (`right` is what counts in the end). None: the task's default. `right` is called
    with text of the task's own symbols only, at most `max_answer` of them.
    """

    TITLE: ClassVar[str] = ""
    DRAWS: ClassVar[int] = 24  # random numbers that one attempt may use
    SFT_STEPS: ClassVar[int] = 1000  # of the warm start, unless an option says otherwise
    SFT_NOISE: ClassVar[float] = 0.0  # share of its solutions that have a mistake
    SYMBOLS: ClassVar[str] = ""
    LEVELS: ClassVar[tuple[int, int, int]] = (1, 2, 9)  # lowest, default, highest difficulty
    TRAIN: ClassVar[int] = 4096  # problems to train on, unless an option says otherwise
    ENUMERABLE: ClassVar[int] = 1  # the difficulty of the enumerable variant
    ENUMERABLE_SYMBOLS: ClassVar[str] = ""

    make_vec = dataset = mdp = reference = None  # what an environment has and a token task has not

    def __init__(
        self,
        id: str,
        *,
        difficulty: int | None = None,
        enumerable: bool = False,
        train: int | None = None,
        test: int = 512,
        seed: int = 0,
        reward: str | list[str] = "verifier",
    ):
        low, default, high = self.LEVELS
        if enumerable and difficulty not in (None, self.ENUMERABLE):
            raise UserError(f"task.enumerable=true has task.difficulty={self.ENUMERABLE} only.")
        level = self.ENUMERABLE if enumerable else default if difficulty is None else difficulty
        if not low <= level <= high:
            raise UserError(f"task.difficulty={level} is out of range; valid is a whole number from {low} to {high}.")
        train = self.TRAIN if train is None else train
        for name, size in (("train", train), ("test", test)):
            if size < 1:
                raise UserError(f"task.{name}={size} is out of range; valid is 1 or more.")
        self.id, self.difficulty, self.enumerable, self.seed = id, level, enumerable, seed
        self.reward, self.reward_names = make_reward(reward), reward
        bound = ENUMERABLE_PROMPTS if enumerable else max(train, test)
        self.sizes = {"train": min(train, bound), "test": min(test, bound)}
        self.tokenizer = Symbols(self.ENUMERABLE_SYMBOLS if enumerable else self.SYMBOLS)
        self._splits: dict[str, Problems] = {}

    # --- what a task writes -----------------------------------------------------------------------------------------

    max_prompt: int
    max_answer: int  # tokens of the longest answer that is read, the end token included

    def problem(self, draws: Draws) -> Problem | None:
        """One problem; None when the draws gave none."""
        raise NotImplementedError

    def right(self, problem: Problem, answer: str) -> bool:
        """Whether `answer` solves the problem, decided exactly."""
        raise NotImplementedError

    # --- what follows -----------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.vocabulary

    @property
    def eos(self) -> int:
        return self.tokenizer.eos

    @property
    def context(self) -> int:
        return self.max_prompt + self.max_answer

    @property
    def spec(self) -> TokenSpec:
        """As a learner sees it: an observation is a padded prefix, an action is a token. Of an enumerable task, with
        all answers and the training prompts, which are what a table has."""
        known: dict[str, Any] = {}
        if self.enumerable:
            rows = self.problems("train").prompts.tolist()
            known = {"tree": self.tree, "prompts": tuple(tuple(t for t in row if t != PAD) for row in rows)}
        return TokenSpec(self.context, Discrete(self.vocabulary), eos=self.eos, **known)

    @property
    def metadata(self) -> dict[str, Any]:
        return {"tokens": True, "enumerable": self.enumerable}

    @property
    def max_steps(self) -> int:
        return self.max_answer

    @cached_property
    def tree(self) -> TokenTree:
        """All answers; raises UserError for a task that is not enumerable."""
        if not self.enumerable:
            raise UserError(f"env={self.id} has too many answers to enumerate; task.enumerable=true is its small form.")
        return TokenTree(self.vocabulary, self.max_answer, self.eos)

    def text(self, answer: Sequence[int]) -> str | None:
        """The text before the end token; None when there is none within `max_answer` tokens."""
        answer = answer[: self.max_answer]
        return self.tokenizer.decode(answer[: answer.index(self.eos)]) if self.eos in answer else None

    def pairs(self, problems: Problems) -> Tensor | None:
        """(n, 2, T): the chosen and the rejected answer to each problem, of a task that is made of preferences."""
        return None

    def judge(self, problem: Problem, answer: str | None) -> float:
        return float(answer is not None and self.right(problem, answer))

    def problems(self, split: str) -> Problems:
        """The problems of "train" or "test", the same in every process."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split not in self._splits:
            self._splits[split] = Problems(self, self._draw(split, self.sizes[split]))
        return self._splits[split]

    def _draw(self, split: str, count: int) -> list[Problem]:
        streams, found = Streams([self.seed]), {}
        for block in range(-(-PATIENCE * count // ATTEMPTS)):
            numbers = streams.bits("problems", (ATTEMPTS, self.DRAWS), counter=block)[0]
            for row in ((numbers >> 2) & ((1 << 62) - 1)).tolist():
                item = self._attempt(Draws(row))
                if item is not None and split_of(item.prompt) == split:
                    found.setdefault(item.prompt, item)
                if len(found) == count:
                    return list(found.values())
        if not found:
            raise UserError(f"env={self.id} has no {split} problem at task.difficulty={self.difficulty}.")
        return list(found.values())

    def _attempt(self, draws: Draws) -> Problem | None:
        try:
            return self.problem(draws)
        except IndexError:
            return None


def split_of(prompt: str) -> str:
    """By the prompt's own hash: the splits are disjoint by construction."""
    key = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big")
    return SPLITS[key % TEST_SHARE == 0]
