"""Evaluation of vector rewards: sums and discounted sums per objective, and how a summary prints them."""

from __future__ import annotations

import pytest
import torch

from fenchel.algorithms import get_algorithm
from fenchel.algorithms.evaluation import evaluate, summarise
from fenchel.envs import make
from fenchel.errors import UserError


class Script:
    """Two replicas: the first dives at once, the second goes right for two columns and then dives."""

    R, seeds, device, GOALS = 2, [0, 1], "cpu", False

    def act(self, obs, deterministic, counter):
        dive, go = torch.ones(3, dtype=torch.int64), torch.full((3,), 3)
        return torch.stack([dive, go if counter % 100 < 2 else dive])


def test_returns_per_objective():
    """The first treasure after one step; the third after five: 11.5 at .99^4, and five steps."""
    task = make("deep-sea-treasure")
    results = evaluate(Script(), task, 3, step=0)
    assert results["returns"].shape == results["discounted_return"].shape == (2, 3, 2)
    summary = summarise(task, results)
    assert summary["return_mean"] == [pytest.approx([0.7, -1.0]), pytest.approx([11.5, -5.0])]
    assert summary["return_treasure"] == pytest.approx([0.7, 11.5])
    assert summary["return_time"] == [-1.0, -5.0]
    assert summary["length_mean"] == [1.0, 5.0]
    late = [11.5 * 0.99**4, -(1 - 0.99**5) / 0.01]
    assert summary["discounted_return"][1] == pytest.approx(late)
    assert (torch.tensor(late) - task.metadata["front"]()).abs().amax(1).min() < 1e-5  # both lie on the exact front


@pytest.mark.parametrize(("env", "algo"), [("mo-point", "ppo"), ("fruit-tree-mixed", "iql")])
def test_learners_of_one_reward_refuse_vectors(env, algo, monkeypatch, tmp_path):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    task, cls = make(env), get_algorithm(algo)
    learner = cls(task.spec, cls.Config(hidden=(8,)), seeds=[0])
    with pytest.raises(UserError, match=rf"^env={env} has vector rewards; \w+ learns from a single reward\.$"):
        learner.source(task)
