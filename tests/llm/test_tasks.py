"""Token tasks against brute force: problems, worked solutions, verifiers, splits and the dial of difficulty."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fenchel.errors import UserError
from fenchel.llm.tasks import TASKS, get_task, make
from fenchel.llm.tasks.files import FileTask
from fenchel.llm.tasks.knights import NAMES

GENERATED = [name for name in TASKS if get_task(f"llm/{name}") is not FileTask]


@cache
def small(name: str, **options):
    return make(f"llm/{name}", **({"train": 60, "test": 20} | options))


def variants(name: str):
    low, _, high = get_task(f"llm/{name}").LEVELS
    return [small(name, difficulty=low), small(name, difficulty=high), small(name, enumerable=True)]


@pytest.mark.parametrize("name", GENERATED)
def test_problems_are_what_they_should_be(name):
    """At both ends of the dial and where enumerable: distinct, disjoint, solved, of bounded length, the same again."""
    for task in variants(name):
        splits = {split: task.problems(split) for split in ("train", "test")}
        prompts = [item.prompt for problems in splits.values() for item in problems.items]
        assert len(set(prompts)) == len(prompts)
        for problems in splits.values():
            assert len(problems) > 1
            assert problems.verify(torch.arange(len(problems)), problems.solutions).eq(1).all()
            assert problems.prompts.shape[1] <= task.max_prompt
            assert problems.solutions.shape[1] <= task.max_answer
            again = type(task)(task.id, difficulty=task.difficulty, enumerable=task.enumerable, train=60, test=20)
            assert [item.prompt for item in again.problems("train").items] == prompts[: len(splits["train"])]


@pytest.mark.parametrize("name", GENERATED)
def test_the_split_of_a_prompt_does_not_depend_on_sizes(name):
    few, many = small(name, train=20, test=5), small(name, train=80, test=40)
    assert {item.prompt for item in few.problems("test").items} <= {item.prompt for item in many.problems("test").items}
    other = small(name, seed=1)
    assert other.problems("train").items[0].prompt != few.problems("train").items[0].prompt


@pytest.mark.parametrize("name", GENERATED)
def test_the_dial_goes_one_way(name):
    low, _, high = get_task(f"llm/{name}").LEVELS
    size = []
    for level in range(low, min(high, low + 4) + 1):
        task = small(name, difficulty=level, train=200)
        items = task.problems("train").items
        size.append(np.mean([len(item.prompt) + len(item.solution) for item in items]))
        assert all(len(item.prompt) <= task.max_prompt and len(item.solution) < task.max_answer for item in items)
    assert np.diff(size).min() > 0


@pytest.mark.parametrize("name", GENERATED)
def test_an_answer_that_does_not_end_is_wrong_and_what_follows_the_end_is_not_read(name):
    problems = small(name).problems("train")
    index, solutions, eos = torch.arange(len(problems)), problems.solutions, problems.task.eos
    assert problems.verify(index, solutions.masked_fill(solutions == eos, -1)).eq(0).all()
    garbage = torch.nn.functional.pad(solutions, (0, 3), value=1)
    assert problems.verify(index, garbage).eq(1).all()
    late = torch.cat([solutions.new_full((len(problems), problems.task.max_answer), 1), solutions], 1)
    assert problems.verify(index, late).eq(0).all()


@pytest.mark.parametrize("name", GENERATED)
@given(data=st.data())
def test_no_answer_raises(name, data):
    problems = small(name).problems("test")
    V, T = problems.task.vocabulary, problems.task.max_answer
    answers = torch.tensor(data.draw(st.lists(st.lists(st.integers(0, V - 1), min_size=T, max_size=T), min_size=1)))
    verdict = problems.verify(torch.zeros(len(answers), dtype=torch.int64), answers)
    assert set(verdict.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", GENERATED)
def test_the_enumerable_variant_holds_every_answer(name):
    task = small(name, enumerable=True)
    problems = task.problems("test")
    right = problems.right
    assert right.shape == (len(problems), task.tree.num_completions)
    for x, item in enumerate(problems.items):
        solution = [*task.tokenizer.encode(item.solution), task.eos]
        assert right[x, task.tree.index(solution)] == 1
    assert right.sum() < 0.01 * right.numel()
    assert torch.equal(problems.earned, right)


# --- one referee per task: none of them calls the task's own functions ------------------------------------------------


def expressions(numbers):
    """Every value that these numbers reach, each used once, with an expression in Python's own syntax."""
    if len(numbers) == 1:
        yield Fraction(numbers[0]), str(numbers[0])
        return
    for size in range(1, len(numbers)):
        for left in itertools.combinations(range(len(numbers)), size):
            one = [numbers[i] for i in left]
            other = [n for i, n in enumerate(numbers) if i not in left]
            for (a, x), (b, y) in itertools.product(expressions(one), expressions(other)):
                yield a + b, f"({x}+{y})"
                yield a - b, f"({x}-{y})"
                yield a * b, f"({x}*{y})"
                if b:
                    yield a / b, f"({x}/{y})"


def test_countdown_agrees_with_a_solver():
    """Every problem is solved by it, and the verifier accepts exactly the expressions that reach the target."""
    task = small("countdown", train=25)
    for item in task.problems("train").items:
        numbers = [int(n) for n in item.prompt.split(":")[0].split(",")]
        target = int(item.prompt.split(":")[1].removesuffix("="))
        found = dict.fromkeys((text, value) for value, text in expressions(numbers))
        assert any(value == target for _, value in found)
        for text, value in list(found)[::7]:
            assert task.right(item, text) == (value == target), text
        assert not task.right(item, f"{target}")
        assert not task.right(item, f"({item.solution})+0")
        assert not task.right(item, f"{item.solution}*{numbers[0]}/{numbers[0]}")


def truth(statement: str, knight: dict[str, bool]) -> bool:
    """A statement by Python's own logic."""
    if "&" in statement or "|" in statement:
        words = [f"{knight[s[0]]} == {s[1] == '+'}" for s in statement.replace("|", "&").split("&")]
        return eval(f"({words[0]}) {'and' if '&' in statement else 'or'} ({words[1]})")
    a, relation, *b = statement
    if b:
        return (knight[a] is knight[b[0]]) is (relation == "=")
    return knight[a] is (relation == "+")


def test_knights_have_one_solution():
    for level in (2, 3, 4, 5):
        task = small("knights", difficulty=level)
        for item in task.problems("train").items:
            said = item.prompt.removesuffix("=").split(";")
            worlds = []
            for kinds in itertools.product((True, False), repeat=level):
                knight = dict(zip(NAMES, kinds, strict=False))
                if all(truth(s, knight) is knight[NAMES[i]] for i, s in enumerate(said)):
                    worlds.append("".join("+" if kind else "-" for kind in kinds))
            assert worlds == [item.solution]
            for kinds in itertools.product("+-", repeat=level):
                assert task.right(item, "".join(kinds)) == ("".join(kinds) == item.solution)


def test_maze_solutions_are_shortest_and_walks_are_judged_cell_by_cell():
    task = small("maze", difficulty=5)
    rng = np.random.default_rng(0)
    for item in task.problems("train").items[:30]:
        grid = np.array([list(row) for row in item.prompt.removesuffix("=").split("/")])
        cells = np.argwhere(grid != "#")
        near = np.abs(cells[:, None] - cells[None]).sum(-1) == 1
        start, goal = (int(np.flatnonzero((cells == np.argwhere(grid == s)[0]).all(1))[0]) for s in "SG")
        ways, moves = np.eye(len(cells), dtype=int)[start], 0
        while not ways[goal]:
            ways, moves = (ways @ near > 0).astype(int), moves + 1
        assert moves == len(item.solution)
        for _ in range(20):
            walk = "".join(rng.choice(list("DLRU"), rng.integers(1, 9)))
            assert task.right(item, walk) == reaches(grid, walk)


def reaches(grid: np.ndarray, walk: str) -> bool:
    place = np.argwhere(grid == "S")[0]
    for move in walk:
        place = place + {"D": (1, 0), "U": (-1, 0), "R": (0, 1), "L": (0, -1)}[move]
        if (place < 0).any() or (place >= len(grid)).any() or grid[tuple(place)] == "#":
            return False
    return bool(grid[tuple(place)] == "G")


@pytest.mark.parametrize(("name", "options"), [("arithmetic", {"backwards": False}), ("chain_sum", {})])
def test_sums_are_pythons(name, options):
    task = small(name, difficulty=3, **options)
    for item in task.problems("train").items:
        value = eval(item.prompt.removesuffix("="))
        last = item.solution.split(",")[-1]
        assert int(last) == value
        assert task.right(item, str(value))
        for wrong in (str(value + 1), f"0{value}", f" {value}", f"+{value}", "", f"{value},"):
            assert not task.right(item, wrong)


def test_backwards_every_number_is_turned_round():
    task = small("arithmetic", difficulty=3)
    for item in task.problems("train").items:
        operands, value = re.split(r"(?<=\d)[+-]", item.prompt.removesuffix("=")), item.solution
        assert [len(operand) for operand in operands] == [3, 3]
        a, b = (int(operand[::-1]) for operand in operands)
        wanted = a + b if item.prompt[3] == "+" else a - b
        assert int(value.removeprefix("-")[::-1]) * (-1 if value[0] == "-" else 1) == wanted
        assert not value.removeprefix("-").endswith("0") or wanted == 0


def test_running_totals_are_totals():
    task = small("chain_sum", difficulty=2)
    for item in task.problems("train").items:
        terms = item.prompt.removesuffix("=").replace("-", "+-").split("+")
        totals = list(itertools.accumulate(int(term) for term in terms))[1:]
        assert item.solution == ",".join(map(str, totals))


def test_sorting_is_sorting():
    for item in small("sort").problems("train").items:
        assert item.solution == "".join(sorted(item.prompt.removesuffix("=")))


REFUSED = [
    (dict(difficulty=99), r"task\.difficulty=99 is out of range; valid is a whole number from 2 to 6\."),
    (dict(train=0), r"task\.train=0 is out of range; valid is 1 or more\."),
    (dict(enumerable=True, difficulty=3), r"task\.enumerable=true has task\.difficulty=2 only\."),
    (dict(reward="verifer"), r"task\.reward=verifer is unknown; .* Did you mean 'verifier'\?"),
    (dict(reward=["verifier", "verifier"]), r"task\.reward=.* is not valid"),
    (dict(dificulty=3), r"task\.dificulty is not an option of env=llm/countdown; .* Did you mean 'difficulty'\?"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_options_are_refused_with_one_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        make("llm/countdown", **options)


def test_other_refusals():
    with pytest.raises(UserError, match="env=llm/nope is unknown"):
        make("llm/nope")
    with pytest.raises(UserError, match=r"split=tets is unknown; .* Did you mean 'test'\?"):
        small("sort").problems("tets")
    with pytest.raises(UserError, match=r"task\.enumerable=true is its small form"):
        _ = small("sort").tree
    problems = small("sort").problems("test")
    with pytest.raises(UserError, match="must be index"):
        problems.verify(torch.arange(3), problems.solutions[:2])
