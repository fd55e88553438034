"""Models of Hugging Face in the trainer: tasks in their tokens, whole and with LoRA, resume, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch

pytest.importorskip("transformers")
import tiny_models

from fenchel.algorithms.training import LAST, TrainConfig, train
from fenchel.cli.run import main
from fenchel.errors import UserError
from fenchel.llm.tasks import make
from fenchel.llm.tasks.retold import retold
from fenchel.llm.tokenizer import characters, words
from fenchel.llm.training import get_learner

SMALL = {"prompts": 4, "pass_k": 2, "eval_answers": 4, "pair_prompts": 16, "pair_answers": 4, "lr": 3e-3}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    from transformers.utils import logging

    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {kind: tiny_models.save(tmp_path_factory.mktemp(kind), kind) for kind in ("llama", "gpt2")}


def learner(key, path, where=None, **options):
    cls = get_learner(key)
    config = cls.Config(**(SMALL | {"model": path} | options))
    task = cls.reads(where or make("llm/sort", difficulty=2, train=32, test=8), config)
    made = cls(task.spec, config, seeds=[3])
    made.bind(task)
    return made, task


def word_problems(folder, count=30):
    lines = [
        {"question": f"What is {i} and {j}?", "answer": f"{i}+{j}=<<{i}+{j}={i + j}>>{i + j}\n#### {i + j}"}
        for i, j in ((i, (7 * i) % 13) for i in range(count))
    ]
    path = folder / "words.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


# --- tasks in other tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["llm/sort", "llm/countdown", "llm/maze", "llm/chain_sum", "llm/gsm8k"])
def test_a_task_keeps_its_text_and_its_verdicts(id, models, tmp_path):
    more = {"path": word_problems(tmp_path)} if id == "llm/gsm8k" else {"difficulty": 3}
    task = make(id, train=24, test=8, **more)
    other = get_learner("grpo").reads(task, get_learner("grpo").Config(model=models["llama"]))
    for split in ("train", "test"):
        mine, its = task.problems(split), other.problems(split)
        assert tiny_models.texts(task, split) == tiny_models.texts(other, split)
        index = torch.arange(len(its))
        assert its.verify(index, its.solutions).all()
        assert not its.verify(index, its.solutions.roll(1, 0))[mine.verify(index, mine.solutions.roll(1, 0)) == 0].any()
        assert its.prompts.shape[1] <= other.max_prompt < 1000
    tokens = other.tokenizer.encode("12") if id == "llm/sort" else []
    assert other.eos == 0
    assert other.spec.action.n == other.tokenizer.vocabulary
    if tokens:  # a pair of digits is one token here, and two in the task's own writing
        assert len(tokens) == 1


def test_foreign_text_is_wrong():
    other = retold(make("llm/sort", difficulty=2, train=16, test=4), characters(["0123456789= ,x"]), "it")
    other.max_answer = 9
    item = other.problems("train").items[0]
    for text, right in ((item.solution, 1), (f" {item.solution} ", 1), (f"{item.solution}x", 0), ("x" * 7, 0)):
        assert other.judge(item, other.text([*other.tokenizer.encode(text), 0])) == right, text
    assert other.text(other.tokenizer.encode(item.solution)) is None


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "key", "options"),
    [
        ("llama", "grpo", {"epochs": 2}),
        ("gpt2", "ppo", {"sft_steps": 0}),
        ("llama", "dpo", {"pair_prompts": 32}),
        ("llama", "rloo", {"lora_rank": 8, "lora_alpha": 64.0, "sft_steps": 100, "top_k": 20, "micro": 2, "chunk": 64}),
    ],
)
def test_trains_and_resumes_to_the_same_bits(kind, key, options, models, tmp_path):
    where = make("llm/sort", difficulty=2, train=32, test=8, reward="agreement")
    options = {"sft_steps": 30, "sft_lr": 1e-2, "sft_batch": 32} | options
    loop = {"eval_every": 2, "log_every": 1, "checkpoint_every": 2, "eval_episodes": 2, "final_episodes": 2}
    found = {}
    for name, stops in (("whole", (4,)), ("parts", (2, 4))):
        for i, stop in enumerate(stops):
            made, task = learner(key, models[kind], where, **options)
            before = made.policy.flat.clone()
            result = train(task, made, TrainConfig(steps=stop, **loop), folder=tmp_path / name, resume=bool(i))
        found[name] = (made.policy.flat.clone(), result["final"])
    assert torch.equal(found["whole"][0], found["parts"][0])
    assert found["whole"][1] == found["parts"][1]
    assert not torch.equal(before, found["whole"][0])
    assert found["whole"][1][0]["kl"] > 0
    with safetensors.safe_open(tmp_path / "whole" / "checkpoints" / LAST, framework="pt") as file:
        sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    assert sizes["policy.flat"] == list(before.shape)
    assert not any("first" in name for name in sizes)
    loaded = get_learner(key).load(tmp_path / "whole" / "checkpoints" / LAST)
    assert torch.equal(loaded.policy.flat, found["whole"][0])


def test_lora_trains_the_adapters_alone_and_begins_as_the_model(models):
    whole, task = learner("sft", models["llama"])
    made, _ = learner("sft", models["llama"], lora_rank=2)
    assert made.policy.flat.numel() < 0.2 * whole.policy.flat.numel()
    tokens = task.problems("train").prompts[None, :4]
    assert torch.equal(made.policy.logits(tokens)[:, :, 1:], whole.policy.logits(tokens)[:, :, 1:])
    base = {name: p.clone() for name, p in made.policy.model.named_parameters() if not p.requires_grad}
    source = made.source(task)
    for _ in range(3):
        made.step(source)
    assert all(torch.equal(p, base[name]) for name, p in made.policy.model.named_parameters() if name in base)
    assert not torch.equal(made.policy.logits(tokens)[:, :, 1:], whole.policy.logits(tokens)[:, :, 1:])


def test_a_warm_start_of_a_model_learns(models):
    made, task = learner("sft", models["llama"], sft_steps=150, sft_lr=1e-2, sft_batch=32)
    assert made.scores(task, 8, 0)["pass_at_1"][0] > 0.05
    again, _ = learner("grpo", models["llama"], sft_steps=150, sft_lr=1e-2, sft_batch=32)
    assert torch.equal(again.policy.flat, made.policy.flat)
    assert torch.equal(again.reference.flat, made.policy.flat)


def test_word_problems_of_a_file_on_the_command_line(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = (
        f"env=llm/gsm8k task.path={word_problems(tmp_path)} algo=grpo algo.model={models['gpt2']} seed=0 steps=2 "
        "algo.prompts=2 algo.lora_rank=2 eval_episodes=2 final_episodes=2 out=a"
    )
    assert main(line.split()) == 0
    assert main(f"{line} resume=true".replace("steps=2", "steps=3").split()) == 0
    summary = json.loads(Path("a/summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["final"][0]["pass_at_1"] >= 0


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(line, capsys):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_refusals(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    endless = tiny_models.save(tmp_path / "endless", end=False)
    short = tiny_models.save(tmp_path / "short", context=8)
    before = sorted(path.name for path in tmp_path.iterdir())
    given = {"env": "llm/sort", "task.difficulty": "4", "algo": "grpo", "seed": "0", "algo.model": models["llama"]}
    for options, sentence in (
        ({"algo.model": endless}, f"algo.model={endless} is not valid: it has no end token, so that no answer could "),
        ({"algo.model": short}, f"algo.model={short} has a context of 8 tokens, but the longest prompt and answer "),
        ({"task.enumerable": "true", "task.difficulty": "null"}, "so that task.enumerable=true cannot be had."),
        ({"seed": "0:2"}, "is trained with one seed and one value of every option; add seed=0."),
        ({"algo.lr": "[1e-3,1e-4]"}, "is trained with one seed and one value of every option; add seed=0."),
        ({"algo.model": "/no/such/folder"}, "algo.model=/no/such/folder cannot be read: "),
        (
            {"algo.model": "null", "algo.lora_rank": "2"},
            "algo.lora_rank is of a model of Hugging Face; add algo.model=",
        ),
        ({"algo": "iql"}, "algo.model is not an option"),
    ):
        line = " ".join(f"{key}={value}" for key, value in (given | options).items())
        assert sentence in refusal(line, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_tokenizer_that_changes_text_is_refused():
    task = make("llm/chain_sum", train=8, test=4)
    with pytest.raises(UserError, match=r"it does not give text back: '.*' of env=llm/chain_sum becomes '.* , .*'"):
        retold(task, words([text for pair in tiny_models.texts(task) for text in pair]), "it")


def test_nothing_of_hugging_face_is_imported_before_a_line_names_a_model():
    code = (
        "import sys, fenchel.llm.training, fenchel.llm.pretrained, fenchel.llm.bridge.learners; "
        "assert not {'transformers', 'peft', 'tokenizers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
