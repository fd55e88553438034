"""Rewards by rule and by model, and files of word problems and preferences: exact, bounded, never executed."""

from __future__ import annotations

import gzip
import json
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fenchel.errors import UserError
from fenchel.llm import data
from fenchel.llm.reward_model import RewardModel, aggregated
from fenchel.llm.rewards import REWARDS, checked, make_reward
from fenchel.llm.rewards.expression import evaluate
from fenchel.llm.rewards.numbers import final_number
from fenchel.llm.sequences import join
from fenchel.llm.tasks import make
from fenchel.llm.training import get_learner

VALUES = [
    ("3*2+7", 13, (3, 2, 7)), ("(4+4)*7", 56, (4, 4, 7)), ("8-(3-2)", 7, (8, 3, 2)), ("7/2", Fraction(7, 2), (7, 2)),
    ("2-5", -3, (2, 5)), ("0", 0, (0,)), (" 1 + 2 ", 3, (1, 2)), ("6/(8-5)/2", 1, (6, 8, 5, 2)),
]  # fmt: skip
NO_EXPRESSIONS = [
    "", " ", "+", "1+", "1//2", "2**3", "9**9**9", "9* *9", "(1", "1)", "()", "1 2", "01+2", "1_000", "1.5", "1e9",
    "-3", "+3", "1/0",
    "3(4)", "(1,2)", "1<2", "x", "__import__('os').system('true')", "1 if 1 else 2", "[1]", "1;2", "1\n+2", "١+٢", "１",
    "2" * 300, "+".join("1" * 100), "*".join(["999999999999"] * 10), "(" * 120, "1" + "+1" * 127,
]  # fmt: skip


@pytest.mark.parametrize(("text", "value", "numbers"), VALUES)
def test_expressions_are_evaluated_exactly(text, value, numbers):
    assert evaluate(text) == (value, numbers)


@pytest.mark.parametrize("text", NO_EXPRESSIONS, ids=lambda text: text[:20])
def test_whatever_else_is_refused_at_once(text):
    started = time.perf_counter()
    assert evaluate(text) is None
    assert time.perf_counter() - started < 1


@given(st.text("0123456789+-*/() .,x", max_size=40))
def test_an_expression_has_pythons_value_or_none(text):
    found = evaluate(text)
    if found is not None:
        assert float(found.value) == pytest.approx(eval(text.strip(), {"__builtins__": {}}))


NUMBERS = [
    ("72", 72), ("so 48 + 24 = 72.", 72), ("#### 1,234", 1234), ("it is -3", -3), ("0.25 of it", Fraction(1, 4)),
    ("1 #### 2", 2), ("#### 5\nand 7 more", 5), ("3/4", Fraction(3, 4)), ("5-3", 3), ("$1,000,000.", 1_000_000),
    (".5", Fraction(1, 2)), ("1,2345", 2345), ("", None), ("none", None), ("####", None), ("#### x 7", 7),
    ("3/0", None),
    ("9" * 33, None), ("1" * 5000, None), ("١٢", None), ("7 " * 5000, 7),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS, ids=[text[:12] for text, _ in NUMBERS])
def test_the_number_that_a_text_ends_with(text, value):
    assert final_number(text) == value


@given(st.text("0123456789,./-#$ ", max_size=200))
def test_no_text_makes_the_extractor_raise(text):
    found = final_number(text)
    assert found is None or isinstance(found, Fraction)


# --- rewards by rule -------------------------------------------------------------------------------------------------


def test_rewards_of_worked_solutions():
    problems = make("llm/sort", train=10, test=5).problems("train")
    index, answers = torch.arange(10), problems.solutions
    every = make_reward(["verifier", "finished", "agreement", "brevity"])(problems, index, answers)
    assert torch.equal(every[:, :3], torch.ones(10, 3))
    assert torch.equal(every[:, 3], torch.zeros(10))  # every answer has the full length
    half = torch.cat([answers[:, :4], answers.new_full((10, 5), -1)], 1)
    values = make_reward(["verifier", "finished", "agreement", "brevity"])(problems, index, half)
    assert torch.allclose(values, torch.tensor([0, 0, 4 / 9, 5 / 9]).expand(10, -1))
    assert make_reward("verifier")(problems, index.view(2, 5), answers.view(2, 5, -1)).shape == (2, 5)


def test_the_gold_reward_is_standardised_and_blind_to_padding():
    problems = make("llm/sort", train=200, test=20, reward="gold").problems("train")
    index = torch.arange(len(problems))
    gold = problems.task.reward(problems, index, problems.solutions)
    assert gold.mean().abs() < 1e-5
    assert abs(gold.std() - 1) < 1e-5
    wider = torch.nn.functional.pad(problems.solutions, (0, 2), value=-1)
    assert torch.allclose(problems.task.reward(problems, index, wider), gold)


def test_the_gold_reward_of_an_enumerable_task_is_standardised_over_all_answers():
    earned = make("llm/sort", enumerable=True, reward="gold").problems("train").earned
    assert abs(earned.mean()) < 1e-5
    assert abs(earned.std() - 1) < 1e-4


def test_a_reward_gives_one_number_per_answer():
    for wrong in (torch.zeros(3), [0.0] * 4, torch.zeros(4, 1)):
        with pytest.raises(UserError, match=r"The reward mine gave .* for 4 answers; it must give \(4,\)"):
            checked("mine", wrong, torch.arange(4))
    assert set(REWARDS) >= {"verifier", "brevity", "finished", "agreement", "gold"}


# --- reward models ---------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=5))
def test_aggregates_of_an_ensemble(rows):
    scores = torch.tensor(rows, dtype=torch.float64)
    mean, worst, careful = (aggregated(scores, how, 0.5) for how in ("mean", "worst", "uncertainty"))
    assert (worst <= scores + 1e-12).all()
    assert (worst <= mean + 1e-12).all()
    assert torch.allclose(careful, mean - 0.5 * scores.var(0, correction=0))
    assert torch.allclose(aggregated(scores.flip(0), "uncertainty", 0.5), careful)
    same = scores[:1].expand(4, -1)
    assert torch.allclose(torch.stack([aggregated(same, how) for how in ("mean", "worst", "uncertainty")]), scores[:1])


def test_a_reward_model_learns_an_order_and_members_are_those_of_single_runs():
    task = make("llm/sort", difficulty=3, train=200, test=20)
    problems = task.problems("train")
    right, _, _ = join(problems.prompts, problems.solutions, task.eos)
    wrong, _, _ = join(problems.prompts, problems.solutions.roll(1, 0), task.eos)
    options = dict(vocabulary=task.vocabulary, context=task.context, width=32, layers=1, heads=4)
    ensemble = RewardModel([0, 7], aggregate="worst", **options)
    share = ensemble.fit(right, wrong, steps=60, batch=32)
    assert share.min() > 0.75
    assert ensemble.members(torch.cat([right, wrong])).mean(1).abs().max() < 1e-5
    assert torch.equal(ensemble(right), ensemble.members(right).amin(0))
    single = RewardModel([7], **options)
    single.fit(right, wrong, steps=60, batch=32)
    assert torch.equal(single.members(right)[0], ensemble.members(right)[1])
    with pytest.raises(UserError, match="must be pairs of sequences"):
        single.fit(right, wrong[:3])
    with pytest.raises(UserError, match="aggregate=wosrt is unknown"):
        RewardModel([0], aggregate="wosrt", **options)


# --- files -----------------------------------------------------------------------------------------------------------

GSM8K = [
    {
        "question": f"Ann has {i} nuts and eats one. How many?",
        "answer": f"{i} - 1 = <<{i}-1={i - 1}>>{i - 1}\n#### {i - 1}",
    }
    for i in range(2, 40)
]
SVAMP = [
    {"Body": f"A pack costs {i} dollars", "Question": "How much are two?", "Equation": f"( {i}.0 * 2.0 )",
     "Answer": 2.0 * i, "Type": "Multiplication"}
    for i in range(1, 40)
]  # fmt: skip
TALK = "\n\nHuman: hello\n\nAssistant: yes?\n\nHuman: sing\n\nAssistant:"
HH = [{"chosen": f"{TALK} la {i}", "rejected": f"{TALK} no {i}"} for i in range(5)]


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_gsm8k(tmp_path):
    path = write(tmp_path / "train.jsonl", GSM8K)
    assert data.gsm8k(path)[0] == ("Ann has 2 nuts and eats one. How many?", "2 - 1 = 1\n#### 1", 1)
    test = write(tmp_path / "test.jsonl", GSM8K[:5])
    task = make("llm/gsm8k", path=str(path), test_path=str(test))
    train, held = task.problems("train"), task.problems("test")
    assert (len(train), len(held)) == (len(GSM8K) - 5, 5)
    assert held.verify(torch.arange(5), held.solutions).eq(1).all()
    assert task.right(held.items[0], "it is 1")
    assert not task.right(held.items[0], "it is 2")


def test_svamp(tmp_path):
    path = tmp_path / "SVAMP.json"
    path.write_text(json.dumps(SVAMP))
    assert data.svamp(path)[0] == ("A pack costs 1 dollars. How much are two?", "( 1.0 * 2.0 ) #### 2", 2)
    task = make("llm/svamp", path=str(path), longest_prompt=60)
    prompts = {split: {item.prompt for item in task.problems(split).items} for split in ("train", "test")}
    assert not prompts["train"] & prompts["test"]
    assert sum(map(len, prompts.values())) == len(SVAMP)


def test_preferences(tmp_path):
    rows = [*HH, {"chosen": TALK, "rejected": TALK}, {"prompt": "p", "chosen": "a", "rejected": "b"}]
    plain = write(tmp_path / "pairs.jsonl", rows)
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    found = data.preferences(plain)
    assert found == data.preferences(packed)
    assert found[0] == (TALK, " la 0", " no 0")
    assert found[-1] == ("p", "a", "b")
    assert len(found) == len(HH) + 1


def test_preferences_are_a_task(tmp_path):
    rows = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(40)]
    task = make("llm/preferences", path=str(write(tmp_path / "pairs.jsonl", rows)))
    problems = task.problems("train")
    pairs = task.pairs(problems)
    assert pairs.shape == (len(problems), 2, 4)
    assert [task.text(row) for row in pairs[0].tolist()] == ["yes", "no"]
    assert make("llm/sort").pairs(problems) is None
    made = get_learner("dpo")(
        task.spec, {"width": 16, "layers": 1, "heads": 2, "sft_steps": 5, "prompts": 8}, seeds=[0]
    )
    made.bind(task)
    source = made.source(task)
    accuracy = [made.scores(task, 4, 0)["preference_accuracy"][0]]
    for _ in range(20):
        made.step(source)
    accuracy.append(made.scores(task, 4, 0)["preference_accuracy"][0])
    assert accuracy[0] == 0.5
    assert accuracy[1] > 0.9
    with pytest.raises(UserError, match=r"env=llm/preferences has no verifier: take a recipe such as algo=dpo"):
        get_learner("grpo")(task.spec, {"sft_steps": 5}).bind(task)


DAMAGED = [
    ("gsm8k", "", "has no records"),
    ("gsm8k", "{", "line 1 is not JSON"),
    ("gsm8k", "[1]", "line 1 has no question"),
    ("gsm8k", '{"question": "q", "answer": 3}', "line 1: answer is not text"),
    ("gsm8k", '{"question": "q", "answer": "no number"}', "line 1: the answer has no number behind ####"),
    ("gsm8k", '{"question": "' + "q" * (1 << 20) + '", "answer": "#### 1"}', "valid are at most"),
    ("svamp", "{}", "must hold a list"),
    ("svamp", "[" * 5000, "is not JSON"),
    (
        "svamp",
        '[{"Body": "b", "Question": "q", "Equation": "e", "Answer": "many"}]',
        "problem 1: Answer 'many' is no number",
    ),
    ("preferences", '{"chosen": "a", "rejected": "b"}', "line 1: chosen and rejected share no turn"),
    ("preferences", '{"chosen": "a"}', "line 1 has no rejected"),
]


@pytest.mark.parametrize(("loader", "text", "sentence"), DAMAGED, ids=[f"{a} {b[:20]}" for a, b, _ in DAMAGED])
def test_damaged_files_are_refused_with_one_sentence(loader, text, sentence, tmp_path):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        getattr(data, loader)(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="is not there"):
        data.gsm8k(tmp_path / "nope")
    (tmp_path / "x.gz").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        data.preferences(tmp_path / "x.gz")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        data.gsm8k(tmp_path / "binary")
    with pytest.raises(UserError, match=r"env=llm/gsm8k reads a file; add task\.path=FILE"):
        make("llm/gsm8k")
    with pytest.raises(UserError, match=r"task\.test_path=/nope is not there"):
        make("llm/gsm8k", path=str(write(tmp_path / "a", GSM8K)), test_path="/nope")
    with pytest.raises(UserError, match="both must have one"):
        make("llm/gsm8k", path=str(write(tmp_path / "b", GSM8K)), longest_prompt=3)
