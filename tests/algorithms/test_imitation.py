"""Where imitation learners' batches come from, and what they must not look at."""

from __future__ import annotations

import pytest
import torch

from fenchel.algorithms import ALGORITHMS, get_algorithm
from fenchel.algorithms.runner import Runner
from fenchel.envs.dataset import OfflineDataset
from fenchel.errors import UserError

KEYS = [key for key in ALGORITHMS if get_algorithm(key).FAMILY == "imitation"]
STEPS = 5


def changed(data, **columns):
    """The data with other columns."""
    named = data.columns() | columns
    extras = {name: named.pop(name) for name in data.extras}
    return OfflineDataset.from_arrays(**named, extras=extras, check=False)


def flats(key, data, make, **options):
    learner = make(key, "discrete" if not data.action.is_floating_point() else "box", **options)
    learner.observe(data)
    Runner(learner, learner.sampler(data)).advance(STEPS)
    return {name: tensor for name, tensor in learner.state_dict().items() if name.endswith("flat")}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["box", "discrete"])
@pytest.mark.parametrize("name", KEYS)
def test_rewards_are_not_read(name, kind, make, tasks):
    data = tasks[kind].dataset()
    turned = changed(data, reward=data.reward.flip(0) + 1)
    assert same(flats(name, data, make), flats(name, turned, make))


OBSERVERS = [("lobsdice", {}), ("lobsdice", {"closed_form": False}), ("smodice", {})]


@pytest.mark.parametrize(("key", "options"), OBSERVERS)
def test_actions_of_demonstrations_are_not_read(key, options, make, tasks):
    data = tasks["box"].dataset()
    hidden = torch.where(data.extras["expert"].bool()[:, None], 0.0, data.action)
    assert same(flats(key, data, make, **options), flats(key, changed(data, action=hidden), make, **options))
    assert not same(flats(key, data, make), flats(key, changed(data, action=-data.action), make))


@pytest.mark.parametrize("kind", ["box", "discrete"])
@pytest.mark.parametrize(("learning", "union"), [("demodice", True), ("smodice", False)])
def test_batches_hold_rows_of_the_right_sort(learning, union, kind, make, tasks):
    data = tasks[kind].dataset()
    tagged = changed(data, reward=torch.arange(len(data), dtype=torch.float32))  # the row's number
    learner = make(learning, kind, [3, 5], batch_size=300, gamma=0.9)
    source = learner.sampler(tagged)
    batch, expert = source(1), data.extras["expert"].bool()
    rows = batch["reward"].long()
    assert torch.equal(batch["obs"], data.obs[rows])
    assert bool(expert[rows].any()) == union
    index = expert.nonzero()[:, 0][learner.blocks.draw(1, "integers", "expert", (300,), high=int(expert.sum()))]
    for name, column in {"expert_obs": data.obs, "expert_next_obs": data.next_obs}.items():
        assert torch.equal(batch[name], column[index])
    assert torch.equal(batch["expert_discount"], torch.where(data.terminal[index], 0.0, 0.9))
    action = learner.spec.action.unscale(data.action) if kind == "box" else data.action
    assert torch.equal(batch["expert_action"], action[index])
    starts = data.obs[data.episode_starts]
    assert all((starts == obs).all(-1).any() for obs in batch["start_obs"][0])
    assert not torch.equal(rows[0], rows[1])
    single = make(learning, kind, [5], batch_size=300, gamma=0.9).sampler(tagged)(1)
    assert all(torch.equal(column[1], single[name][0]) for name, column in batch.items())


@pytest.mark.parametrize(
    ("key", "mark", "sentence"),
    [
        ("recoil", torch.zeros, "ReCOIL needs demonstrations, and no row has expert = 1"),
        ("recoil", torch.ones, "ReCOIL needs offline data beside the demonstrations, all rows are expert"),
        ("smodice", torch.rand, "column expert must hold one number per row, 0 or 1"),
        ("demodice", lambda n: torch.ones(n, 2), "column expert must hold one number per row, 0 or 1"),
    ],
)
def test_a_column_that_tells_nothing_apart_is_refused(key, mark, sentence, make, tasks):
    data = tasks["box"].dataset()
    with pytest.raises(UserError, match=sentence):
        make(key, "box").sampler(changed(data, expert=mark(len(data))))


@pytest.mark.parametrize("key", ["demodice", "iq_learn"])
def test_demonstrations_alone_are_enough(key, make, tasks):
    """For methods whose other rows include them; and bc clones what a data set of demonstrations holds."""
    data = tasks["box"].dataset()
    flats(key, changed(data, expert=torch.ones(len(data))), make)


def test_data_without_the_column_are_refused(make, tasks):
    data = tasks["box"].dataset()
    plain = OfflineDataset.from_arrays(**{n: c for n, c in data.columns().items() if n not in data.extras}, check=False)
    with pytest.raises(UserError, match="ReCOIL needs the data column expert"):
        make("recoil", "box").sampler(plain)
