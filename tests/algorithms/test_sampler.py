"""Batches, their random numbers, and where the columns come from."""

from __future__ import annotations

import pytest
import torch

from fenchel.algorithms import get_algorithm
from fenchel.algorithms.blocks import LENGTH, Blocks
from fenchel.algorithms.runner import Runner
from fenchel.algorithms.sampler import Sampler
from fenchel.envs.dataset import OfflineDataset
from fenchel.errors import UserError
from fenchel.theory.rng import Streams


@pytest.fixture(params=["box", "discrete"])
def case(request, make, tasks):
    """(learner, data, batch, the rows of data that the batch holds)."""
    learner, data = make("iql", request.param, [3, 5], gamma=0.9), tasks[request.param].dataset()
    learner.observe(data)
    index = learner.blocks.draw(4, "integers", "batch", (7,), high=len(data))
    return learner, data, Sampler(data, learner)(4), index


def test_batch_holds_the_rows(case):
    learner, data, batch, index = case
    torch.testing.assert_close(batch["obs"], (data.obs[index] - learner.obs_mean) / learner.obs_std)
    torch.testing.assert_close(batch["next_obs"], (data.next_obs[index] - learner.obs_mean) / learner.obs_std)
    assert torch.equal(batch["reward"], data.reward[index])
    if learner.spec.discrete:
        assert torch.equal(batch["action"], data.action[index])
    else:
        torch.testing.assert_close(batch["action"], data.action[index] / 2)  # the box is [-2, 2]
        assert torch.equal(batch["obs_action"], torch.cat([batch["obs"], batch["action"]], -1))
        assert batch["obs_action"].data_ptr() == batch["obs"].data_ptr()  # a view


def test_time_outs_keep_their_discount(make, tasks):
    data = tasks["box"].dataset()
    learner = make("iql", "box", [3], gamma=0.9, batch_size=400)
    sampler = Sampler(data, learner)
    index = learner.blocks.draw(0, "integers", "batch", (400,), high=len(data))
    discount = sampler(0)["discount"]
    assert data.timeout[index].any()
    assert data.terminal[index].any()
    torch.testing.assert_close(discount, torch.where(data.terminal[index], 0.0, 0.9))
    swept = make("iql", "box", [3, 3], gamma=[0.9, 0.5], batch_size=400)
    torch.testing.assert_close(Sampler(data, swept)(0)["discount"], torch.cat([discount, discount / 0.9 * 0.5]))


def test_observation_statistics(make, tasks):
    learner, data = make("bc", "box"), tasks["box"].dataset()
    learner.source(tasks["box"], normalize_obs=False)
    assert torch.equal(learner.obs_std, torch.ones(2))
    learner.source(tasks["box"])
    torch.testing.assert_close(learner.obs_mean, data.obs.mean(0))
    torch.testing.assert_close(learner.obs_std, data.obs.std(0, correction=0) + 1e-3)


def test_extra_columns(make, tasks):
    cls = get_algorithm("bc")
    needy = type("Needy", (cls,), {"NEEDS": ("price", "goal")})
    data = tasks["box"].dataset()
    extras = {"price": torch.arange(len(data)).float(), "goal": torch.ones(len(data), 2, 3)}
    rich = OfflineDataset.from_arrays(
        data.obs, data.action, data.reward, data.terminal, data.timeout, data.next_obs, extras=extras, check=False
    )
    learner = needy(data.spec(), {"batch_size": 7}, [3, 5])
    batch = Sampler(rich, learner)(0)
    assert torch.equal(batch["price"].long(), learner.blocks.draw(0, "integers", "batch", (7,), high=len(data)))
    assert batch["goal"].shape == (2, 7, 2, 3)
    with pytest.raises(UserError, match="Needy needs the data column price, but it has cost, expert"):
        Sampler(data, learner)


def test_numbers_are_a_function_of_the_step():
    blocks, fresh = Blocks(Streams([3, 5]), torch.float32), Blocks(Streams([3, 5]), torch.float32)
    far = fresh.draw(3 * LENGTH + 5, "normal", "a", (4,))
    for step in (0, LENGTH, 3 * LENGTH + 5):
        last = blocks.draw(step, "normal", "a", (4,))
    assert torch.equal(last, far)
    assert not torch.equal(far, fresh.draw(3 * LENGTH + 6, "normal", "a", (4,)))
    alone = Blocks(Streams([5]), torch.float32).draw(3 * LENGTH + 5, "normal", "a", (4,))
    assert torch.equal(alone[0], far[1])


@pytest.mark.parametrize("start", [0, 10, LENGTH - 1])
def test_staged_numbers_are_the_drawn_ones(start):
    """What a CUDA graph reads: buffers of fixed address, filled before each replay, also across two blocks."""
    blocks, plain = (Blocks(Streams([3, 5]), torch.float32) for _ in range(2))
    calls = [("normal", "a", (4,), 0), ("integers", "b", (2,), 9), ("uniform", "c", (), 0)]
    for law, name, shape, high in calls:
        blocks.draw(0, law, name, shape, high)
    blocks.open(start, 3)
    captured = {
        (name, i): blocks.draw(start + i, law, name, shape, high) for law, name, shape, high in calls for i in range(3)
    }
    buffers = blocks.close()
    for first in (start, start + 3, start + 6):
        blocks.stage(buffers, first)
        for law, name, shape, high in calls:
            for i in range(3):
                assert torch.equal(captured[name, i], plain.draw(first + i, law, name, shape, high)), (name, i)


def test_a_graph_of_one_period_takes_the_eager_steps(make, tasks, monkeypatch):
    """The runner's bookkeeping, with the graph replaced by a recording of the update: what is replayed must equal eager
    training. The capture itself needs a GPU."""

    class Graph:
        def replay(self):
            learner.steps, before = self.start, learner.steps
            staged = learner.blocks._staged
            learner.blocks._staged, learner.blocks._first = runner._buffers, self.start
            for key, loss in runner._period().items():
                runner._losses[key].copy_(loss)
            learner.blocks._staged, learner.steps = staged, before

    class Capture:
        def __init__(self, graph):
            graph.start, self.saved = learner.steps, {k: t.clone() for k, t in learner.state_dict().items()}

        def __enter__(self): ...

        def __exit__(self, *_):  # a capture computes nothing
            for name, tensor in learner.state_dict().items():
                if name != "counters":
                    tensor.copy_(self.saved[name])

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    learner, eager = make("td3_bc", "box", [3, 5]), make("td3_bc", "box", [3, 5])
    runner = Runner(learner, learner.source(tasks["box"]))
    runner.capture = True
    monkeypatch.setattr(runner, "_warm_up", lambda: (setattr(runner, "_warm", runner._warm + 1), runner._period())[1])
    plain = Runner(eager, eager.source(tasks["box"]))
    for steps in (7, 50, 1, 30):
        mine, theirs = runner.advance(steps), plain.advance(steps)
    assert learner.steps == eager.steps == 88
    for name, tensor in eager.state_dict().items():
        assert torch.equal(learner.state_dict()[name], tensor), name
    assert torch.equal(mine["critic_loss"], theirs["critic_loss"])


@pytest.mark.gpu
def test_captured_training_equals_eager_training(make, key, kind, tasks):
    cls, task = get_algorithm(key), tasks[kind]
    if cls.ONLINE:
        pytest.skip("captured where batches come from stored data")
    learners = [cls(task.spec, {"hidden": (16, 16), "batch_size": 32}, [3, 5], device="cuda") for _ in range(2)]
    for learner, capture in zip(learners, (True, False), strict=True):
        Runner(learner, learner.source(task), capture=capture).advance(100)
    for (name, mine), theirs in zip(learners[0].state_dict().items(), learners[1].state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)
