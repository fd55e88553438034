"""Training by recipes: replicas, resume, micro-batches, sources, what every row of RECIPES must do."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fenchel.algorithms.training import LAST, TrainConfig, train
from fenchel.errors import UserError
from fenchel.llm import RECIPES, get_recipe, warm_start
from fenchel.llm.config import TokenConfig
from fenchel.llm.gather import verdict
from fenchel.llm.options import options
from fenchel.llm.parts.demonstrations import Demonstrations
from fenchel.llm.parts.replays import RingReplay, SuccessReplay
from fenchel.llm.parts.samplers import UCB, Difficulty, Thompson
from fenchel.llm.sources import labelled, preference_set
from fenchel.llm.tasks import make
from fenchel.llm.training import get_learner, learner_of

SIZES = {"width": 16, "layers": 1, "heads": 2, "sft_steps": 60, "sft_lr": 1e-2, "sft_batch": 64}
SMALL = SIZES | {"prompts": 4, "pass_k": 2, "eval_answers": 4, "pair_prompts": 32, "pair_answers": 4}


@cache
def task(**options):
    return make("llm/sort", **({"difficulty": 2, "train": 64, "test": 16} | options))


def learner(key, seeds=(0, 1), dtype=torch.float32, where=None, **options):
    cls = learner_of(WITH_PARTS[key]) if key in WITH_PARTS else get_learner(key)
    where = where or task()
    made = cls(where.spec, SMALL | options, seeds=list(seeds), dtype=dtype)
    made.bind(where)
    return made


def advance(made, steps, where=None):
    source = made.source(where or task())
    for _ in range(steps):
        losses = made.step(source)
    return losses


def parts(made):
    return {name: tensor for name, tensor in made.state_dict().items() if tensor.ndim and len(tensor) == made.R}


WITH_PARTS = {
    "replay": replace(get_recipe("grpo"), replay=RingReplay(capacity=8, replayed=2)),
    "rescue": replace(get_recipe("grpo"), replay=SuccessReplay()),
    "difficulty": replace(get_recipe("rloo"), sampler=Difficulty()),
    "ucb": replace(get_recipe("rloo"), sampler=UCB()),
    "thompson": replace(get_recipe("rloo"), sampler=Thompson()),
    "sft mixed in": replace(get_recipe("grpo"), sft=Demonstrations(sft=0.5, sft_end=0.0)),
}


# --- every recipe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", RECIPES)
def test_every_recipe_trains(key):
    """Two updates: finite, the parameters move, and no option of a recipe hides one of training."""
    where = task(reward=("verifier", "brevity")) if key == "modpo" else task()
    made = learner(key, where=where, prompts=16)
    before = made.policy.flat.clone()
    losses = advance(made, 2, where)
    assert all(loss.shape == (2,) and loss.isfinite().all() for loss in losses.values())
    assert (made.policy.flat != before).any(1).all()
    assert made.policy.flat.isfinite().all()
    assert not {f.name for f in fields(options(get_recipe(key)))} & {f.name for f in fields(TokenConfig)}


@pytest.mark.parametrize("key", ["grpo", "ppo", "dpo", "kto", "rover", "inpo", "sft"])
def test_an_update_needs_no_numbers_on_the_host(key):
    made = learner(key)
    batch = made.source(task())(0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        losses = made.update(batch)
    assert all(loss.shape == (2,) for loss in losses.values())


# --- replicas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("grpo", {"epochs": 2, "minibatches": 2}),
        ("ppo", {"prompts": 16}),
        ("dpo", {}),
        ("spo", {"prompts": 16, "top_k": 4}),
        ("nash_mp", {}),
        ("replay", {}),
        ("thompson", {"judge": "worst", "judge_steps": 5}),
    ],
)
def test_a_replica_equals_the_single_run(key, given, dtype):
    swept = {"lr": [1e-3, 2e-3, 3e-3], "temperature": [1.0, 0.8, 1.2]}
    if key != "dpo":
        given = given | swept
    many = learner(key, (5, 6, 7), dtype, **given)
    advance(many, 4)
    single = {name: value[2] if name in swept else value for name, value in given.items()}
    alone = learner(key, (7,), dtype, **single)
    advance(alone, 4)
    for name, tensor in parts(alone).items():
        assert torch.equal(tensor[0], many.state_dict()[name][2]), name


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("grpo", {"epochs": 2, "minibatches": 2}),
        ("ppo", {"epochs": 3, "prompts": 8, "top_k": 4}),
        ("spo", {"prompts": 8}),
        ("egpo", {}),
        ("tr_dpo", {}),
        ("kto", {"judge": "mean", "judge_steps": 5}),
        *((name, {"epochs": 2 if name == "replay" else 1}) for name in WITH_PARTS),
    ],
)
def test_a_resumed_run_has_the_same_bits(key, options, tmp_path):
    config = dict(eval_every=4, log_every=1, checkpoint_every=5, eval_episodes=2, final_episodes=4)
    files = []
    for name, stops in (("whole", (10,)), ("parts", (7, 10))):
        for i, stop in enumerate(stops):
            made = learner(key, **options)
            if i:  # the seventh update is after the last regular checkpoint: what is left on disk is that of the end
                assert (tmp_path / name / "checkpoints" / LAST).exists()
            found = train(task(), made, TrainConfig(steps=stop, **config), folder=tmp_path / name, resume=bool(i))
        scores = [{k: v for k, v in row.items() if not k.startswith("best_")} for row in found["final"]]
        files.append((parts(made), scores))
    (whole, final), (pieces, again) = files
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert final == again


# --- one update ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["grpo", "dapo", "ppo", "rebel", "dpo", "kto", "gvpo"])
def test_micro_batches_have_the_same_gradient(key):
    """In float64: parameters after an update by one pass and by passes of 3 prompts agree to 1e-12."""
    flats = [
        (made := learner(key, dtype=torch.float64, prompts=8, micro=micro, lr=1e-2, clip_grad=None), advance(made, 1))[
            0
        ]
        for micro in (None, 3)
    ]
    assert torch.allclose(flats[0].optimiser.grads[0], flats[1].optimiser.grads[0], rtol=0, atol=1e-12)


def test_on_policy_ratios_are_one():
    for sampling in ({}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8, "temperature": 1.3}):
        made = learner("grpo", **sampling)
        batch = made.source(task())(0)
        data = batch.prepared.data
        support = None if batch.support is None else batch.support.flatten(1, 2)
        live = made.policy.logp(
            data.tokens.flatten(1, 2), data.mask.flatten(1, 2), temperature=made.h.temperature, support=support
        )
        assert torch.equal(live.view_as(data.old_logp), data.old_logp)


def test_a_reference_that_moves():
    fixed, moving = learner("dpo"), learner("tr_dpo")
    for made in (fixed, moving):
        advance(made, 2)
    first = fixed.first_policy().flat.expand_as(fixed.reference.flat)
    assert torch.equal(fixed.reference.flat, first)
    assert not torch.equal(moving.reference.flat, first)


def test_an_extragradient_pair_is_one_update_from_where_it_began():
    made = learner("egpo", lr=1e-2)
    source = made.source(task())
    made.step(source)
    half, began = made.policy.flat.clone(), made.anchor.saved["flat0"].clone()
    assert not torch.equal(half, began)
    source(1)
    assert torch.equal(made.policy.flat, began)
    assert torch.equal(made.half.flat, half)
    assert made.optimiser.count == 0


def test_a_replica_that_is_not_finite_is_frozen_and_the_others_go_on():
    made, alone = learner("grpo", (0, 1)), learner("grpo", (1,))
    config = TrainConfig(steps=4, eval_every=2, log_every=1, eval_episodes=2, final_episodes=2)
    made.policy.flat[0] = float("nan")
    found = train(task(), made, config)
    train(task(), alone, config)
    assert found["final"][0]["diverged_at"] == 1
    assert found["final"][0]["pass_at_1"] is None
    assert torch.equal(made.policy.flat[1], alone.policy.flat[0])


# --- data ------------------------------------------------------------------------------------------------------------


def test_a_warm_start_is_built_once(monkeypatch):
    first = learner("grpo")
    monkeypatch.setattr(warm_start, "train", lambda *args: pytest.fail("trained again"))
    again = learner("dpo", seeds=(3,))
    assert torch.equal(first.policy.flat[1], again.policy.flat[0])
    assert torch.equal(first.reference.flat, first.policy.flat)
    assert first.data_hash == again.data_hash


def test_a_warm_start_has_learned_something():
    made, bare = learner("grpo"), learner("grpo", sft_steps=0)
    scores = [m.scores(task(), 16, 0)["pass_at_1"][0] for m in (made, bare)]
    assert scores[0] > 0.1 > scores[1]


def test_preferences_are_between_answers_that_differ():
    source = learner("dpo").source(task())
    assert (source.reward[:, 0] > source.reward[:, 1]).all()
    assert len(source.ids) > 3
    group = preference_set(source.gather, 4)[2]
    assert group.shape[1] == 4
    assert (group.amax(1) > group.amin(1)).all()
    batch = source(0).prepared.data
    assert batch.reward.shape == (2, 4, 2)
    assert torch.equal(
        batch.tokens, source.answers.tokens[source.learner.rng.integers("pairs", len(source.ids), (4,), 0)]
    )


def test_labels_of_pairs_follow_the_reward_and_break_ties_by_chance():
    source = learner("inpo", prompts=16).source(task())
    ids = torch.arange(16).expand(2, -1)
    s = source.gather.answers(ids, 2, "x", 0)
    reward = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).repeat(4, 1).expand(2, -1, -1)
    uniform = torch.tensor([0.1, 0.9, 0.1, 0.9]).repeat(4).expand(2, -1)
    answers, ordered = labelled(s, reward, uniform)
    assert (ordered[..., 0] >= ordered[..., 1]).all()
    swapped = torch.tensor([False, True, True, False]).repeat(4)
    assert torch.equal(answers.tokens[:, swapped], s.tokens[:, swapped].flip(2))
    assert torch.equal(answers.tokens[:, ~swapped], s.tokens[:, ~swapped])


def test_bradley_and_terrys_verdicts_are_drawn_with_the_chance_of_the_difference():
    made = learner("dpo", verdicts="bradley_terry", pair_prompts=8, pair_answers=400, prompts=128, where=gold())
    source = made.source(gold())
    assert 200 > source.ids.bincount().min() > 60  # pairs per prompt, without those of equal answers
    difference = (source.reward[:, 0] - source.reward[:, 1]).abs().double()
    won = (source.reward[:, 0] > source.reward[:, 1]).double()
    chance = torch.sigmoid(difference)
    assert abs((won - chance).mean()) < 4 * (chance * (1 - chance)).mean().sqrt() / len(won) ** 0.5
    assert 0 < won.mean() < 1
    assert abs(torch.corrcoef(torch.stack([won, difference]))[0, 1]) > 0.1
    win = verdict(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[0.0, 1.0]]]), "bradley_terry")
    assert torch.allclose(win, torch.sigmoid(torch.tensor([[[[0.0, -1.0], [2.0, 1.0]]]])))


@cache
def gold():
    return make("llm/sort", enumerable=True, reward="gold")


def test_continued_supervision_sees_mistakes_as_the_warm_start_did():
    for given, share in (({}, 0.5), ({"demonstration_noise": 0.0}, 0.0)):
        made = learner("sft", sft_noise=0.5, prompts=60, **given)
        source = made.source(task())
        batch = source(0).prepared.data
        wrong = (batch.tokens != source.demonstrations[0][prompts_of(source, made)].unsqueeze(2)).any(-1).double()
        assert abs(wrong.mean() - share * 10 / 11) < 0.15  # one symbol in eleven is replaced by itself
        assert share or not wrong.any()


def prompts_of(source, made):
    return made.rng.uniform("prompts", (len(source.problems),), 0).topk(60, -1).indices


def test_a_judge_takes_the_place_of_the_reward():
    made = learner("rloo", judge="uncertainty", judge_steps=5, judge_weight=2.0)
    source = made.source(task())
    rollout = source(0).prepared.data
    members = torch.stack([made.judge.members(rows.flatten(0, 1)) for rows in rollout.tokens], 1)
    expected = members.mean(0) - 2.0 * members.var(0, correction=0)
    assert torch.allclose(rollout.reward, expected.view_as(rollout.reward), atol=1e-6)
    scores = made.scores(task(), 8, 0)
    assert scores["return_mean"] != scores["pass_at_1"]


def test_learning():
    """RLOO from a weak warm start: the exact chance of a right answer to the problems it learns from rises."""
    where = task(difficulty=None, enumerable=True)
    made = learner("rloo", where=where, sft_steps=25, width=32, lr=3e-3, prompts=8, answers=8, beta=0.0)
    where._splits["test"] = where.problems("train")
    before = made.scores(where, 8, 0)
    advance(made, 40, where)
    after = made.scores(where, 8, 0)
    for i in range(2):
        assert after["pass_at_1"][i] > before["pass_at_1"][i] + 0.2
        assert after["kl"][i] > 0


REFUSED = [
    ("grpo", {"minibatches": 3}, r"algo\.minibatches=3 must divide a rollout's 4 prompts"),
    ("grpo", {"prompts": 1000}, r"algo\.prompts=1000 exceeds the 64 problems of env=llm/sort"),
    ("grpo", {"pass_k": 9}, r"algo\.eval_answers=4 is fewer than algo\.pass_k=9"),
    ("dpo", {"answers": 3}, r"algo\.answers=3 is not valid; this recipe takes 2"),
    ("egpo", {"epochs": 2}, r"algo\.epochs and algo\.minibatches are 1"),
    ("grpo", {"betta": 2}, r"betta is not an option; .* Did you mean 'beta'\?"),
    ("grpo", {"sft_lr": 1e30}, r"The warm start of env=llm/sort is not finite; lower algo\.sft_lr"),
    ("dpo", {"sft_steps": 0}, r"The first policy's answers to 32 prompts of env=llm/sort all earn the same"),
    ("modpo", {}, r"task\.reward=\[verifier,brevity\]"),
]


@pytest.mark.parametrize(("key", "options", "sentence"), REFUSED)
def test_refusals(key, options, sentence):
    with pytest.raises(UserError, match=sentence):
        advance(learner(key, **options), 1)


def test_a_prompt_longer_than_the_context_is_refused():
    made = learner("grpo")
    with pytest.raises(UserError, match="over the context"):
        advance(made, 1, make("llm/sort", difficulty=9, train=64, test=16))
