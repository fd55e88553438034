"""Batches of prefixes, and what every learner on them must do."""

from __future__ import annotations

import pytest
import torch
from prefix_problem import F64, REWARD, SMALL, SPEC, P, T, answers, scored

from fenchel.envs.spec import Discrete, Spec
from fenchel.errors import UserError
from fenchel.llm.bridge import BRIDGE, get_bridge
from fenchel.llm.bridge.prefixes import Prefix, PrefixSampler, Scored
from fenchel.llm.tasks import make as task


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["tabular", "transformer"])
@pytest.mark.parametrize("key", BRIDGE)
def test_replicas_have_the_bits_of_single_runs(key, kind, dtype):
    data = scored()
    options = {"policy": kind, "batch_size": 24, "places": 2, "tau": 0.1, "clip_grad": 1.0, **SMALL}

    def run(seeds, lr):
        learner = get_bridge(key)(SPEC, options | {"lr": lr}, seeds, dtype=dtype)
        sampler = PrefixSampler(data, learner)
        losses = [learner.step(sampler) for _ in range(3)]
        networks = (part.state()["flat"] for part in vars(learner).values() if hasattr(part, "flat"))
        return [*losses[-1].values(), *networks]

    together = run([3, 5], [1e-3, 1e-2])
    assert all(t.isfinite().all() for t in together)
    for i, (seed, lr) in enumerate(((3, 1e-3), (5, 1e-2))):
        for whole, own in zip(together, run([seed], lr), strict=True):
            assert torch.equal(whole[i : i + 1], own)


@pytest.mark.parametrize(
    ("key", "options"),
    [("f_dvl_lag", {}), ("ivl", {}), ("odice", {}), ("iql", {"value_loss": "hl_gauss", "value_range": (-2, 3)})],
)
def test_updates_need_no_number_on_the_host(key, options):
    from torch._subclasses.fake_tensor import FakeTensorMode

    learner = get_bridge(key)(SPEC, SMALL | options)
    sampler = PrefixSampler(scored(), learner)
    batch = sampler(0)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        fakes = {
            k: Prefix(*map(fake.from_tensor, v)) if isinstance(v, Prefix) else fake.from_tensor(v)
            for k, v in batch.items()
        }
        assert all(loss.shape == (1,) for loss in learner.update(fakes).values())


@pytest.mark.parametrize("key", BRIDGE)
def test_targets_follow(key):
    learner = get_bridge(key)(SPEC, SMALL | {"tau": 0.25, "lr": 0.01})
    source, before = getattr(learner, "critic", learner.value), learner.target.flat.clone()
    assert torch.equal(before, source.flat)
    learner.step(PrefixSampler(scored(), learner))
    assert torch.equal(learner.target.flat, before.lerp(source.flat, 0.25))
    assert not torch.equal(learner.target.flat, source.flat)


def test_transitions_are_equally_likely():
    tokens, mask, _ = answers()
    learner = get_bridge("iql")(SPEC, SMALL | {"batch_size": 3000, "places": 3, "gamma": 0.5}, [1], **F64)
    sampler = PrefixSampler(scored(), learner)
    code, starts = [], []
    for step in range(5):
        batch = sampler(step)
        (rows, place), last = batch["obs"], batch["discount"] == 0
        assert torch.equal(batch["next_obs"].place[~last.view_as(place)], place[~last.view_as(place)] + 1)
        index = (rows[0].unsqueeze(1) == tokens).all(-1).long().argmax(-1)
        ends = mask.cumsum(-1).argmax(-1)[index]
        assert torch.equal(last.view_as(place)[0], place[0] == ends[:, None])
        assert torch.equal(
            batch["reward"].view_as(place)[0], REWARD.flatten()[index][:, None] * (place[0] == ends[:, None])
        )
        assert set(batch["discount"].unique().tolist()) == {0.0, 0.5}
        assert torch.equal(batch["action"].view_as(place), rows.gather(2, place))
        code.append((index[:, None] * (P + T) + place[0]).flatten())
        starts.append(torch.bincount(index, batch["start_weight"][0], minlength=len(tokens)))
    counts = torch.bincount(torch.cat(code), minlength=mask.numel()).view_as(mask)
    assert (counts[~mask] == 0).all()
    expected = counts.sum() / mask.sum()
    assert ((counts[mask] - expected).abs() < 6 * (3 * expected) ** 0.5).all()
    weight = torch.stack(starts).sum(0)
    assert (weight / weight.mean() - 1).abs().max() < 0.2


def test_rewards_of_tokens():
    tokens, mask, _ = answers()
    learner = get_bridge("iql")(SPEC, SMALL | {"batch_size": 64})
    sampler = PrefixSampler(Scored(tokens, mask, torch.arange(tokens.numel()).view_as(tokens).float()), learner)
    batch = sampler(0)
    index = (batch["obs"].tokens[0].unsqueeze(1) == tokens).all(-1).long().argmax(-1)
    assert torch.equal(batch["reward"].view(1, -1, 4)[0].long(), index[:, None] * (P + T) + batch["obs"].place[0])


def test_resumes_where_it_stopped():
    data = scored()

    def run(learner, steps):
        sampler = PrefixSampler(data, learner)
        for _ in range(steps):
            learner.step(sampler)
        return {name: tensor.clone() for name, tensor in learner.state_dict().items()}

    first = get_bridge("f_dvl_lag")(SPEC, SMALL)
    half = run(first, 2)
    whole = run(first, 2)
    second = get_bridge("f_dvl_lag")(SPEC, SMALL)
    second.load_state_dict(half)
    for name, tensor in run(second, 2).items():
        assert torch.equal(tensor, whole[name]), name


def test_a_learner_begins_as_the_warm_start_and_learns_from_its_answers():
    where = task("llm/sort", difficulty=2, train=32, test=8)
    options = SMALL | {"sft_steps": 30, "sft_lr": 1e-2, "sft_batch": 32, "data_prompts": 20, "data_answers": 3}
    learner = get_bridge("iql")(where.spec, options, [4, 7])
    learner.bind(where)
    first = learner.first_policy().frozen.weights
    for network in (learner.policy, learner.value, learner.critic, learner.target):
        for mine, theirs in zip(network.body.frozen.weights[:-1], first[:-1], strict=True):
            assert torch.equal(mine, theirs.expand_as(mine))
    assert torch.equal(learner.policy.body.frozen.weights[-1][1:], first[-1])
    data, again = learner.data(where), learner.data(where)
    assert torch.equal(data.tokens, again.tokens)
    problems = where.problems("train")
    answers = data.tokens[:, problems.prompts.shape[1] :]
    index = torch.arange(20).repeat_interleave(3)
    assert torch.equal(data.tokens[:, : problems.prompts.shape[1]], problems.prompts[index])
    assert torch.equal(data.reward, problems.verify(index, answers))
    assert 0 < data.reward.mean() < 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: get_bridge("iq"), "algo=iq is unknown"),
        (lambda: Scored(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1)), "its mask is empty"),
        (lambda: get_bridge("iql")(Spec(4, Discrete(3)), {"policy": "tabular"}), "can be enumerated"),
        (
            lambda: PrefixSampler(Scored(*answers()[:2], REWARD.flatten()), get_bridge("iql")(SPEC, {"places": 300})),
            "over",
        ),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
