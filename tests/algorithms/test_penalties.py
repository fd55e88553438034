"""Every term of every learner that weighs one thing against another pulls in the right direction.

Replicas share one seed and differ in one weight alone, so that what differs is the weight's doing.
"""

from __future__ import annotations

import pytest
import torch

from fenchel.algorithms import ALGORITHMS

STEPS = 250
OPTIONS = {"hidden": (32, 32), "batch_size": 64, "lr": 3e-3, "gamma": 0.0}
COVERED = {"bc", "cql", "iql", "td3_bc"}  # a learner with such a term gets a test here


def test_no_learner_is_forgotten():
    from fenchel.algorithms import get_algorithm

    assert {key for key in ALGORITHMS if not get_algorithm(key).ONLINE and get_algorithm(key).PAPER is None} <= COVERED


@pytest.fixture
def trained(make, tasks):
    """trained(key, kind, seeds, **options) -> (learner after STEPS, a batch of its data).

    sign=-1 turns rewards around, so that the data's actions are bad ones.
    """

    def run(key, kind, seeds, sign=1.0, **options):
        learner = make(key, kind, seeds, **(OPTIONS | options))
        source = learner.source(tasks[kind])
        for _ in range(STEPS):
            batch = source(learner.steps)
            learner.update(batch | {"reward": sign * batch["reward"]})
            learner.steps += 1
        return learner, source(0)

    return run


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_cql_penalty_opens_a_gap_between_data_and_other_actions(kind, trained):
    learner, batch = trained("cql", kind, [3, 3, 3], sign=-1.0, alpha=[0.0, 0.3, 10.0], samples=3)
    with torch.no_grad():
        q, everything, log_prob = learner.discrete_q(batch) if kind == "discrete" else learner.box_q(batch)
        soft = (everything if log_prob is None else everything - log_prob).logsumexp(-1)
    gap = (q - soft).mean((1, 2))
    assert gap[0] < gap[1] < gap[2]


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_iql_expectile_raises_the_value(kind, trained):
    learner, batch = trained("iql", kind, [3, 3, 3], expectile=[0.1, 0.5, 0.9])
    value = learner.value(batch["obs"]).mean(1)
    assert value[0] < value[1] < value[2]


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_iql_temperature_prefers_good_actions(kind, trained, tasks):
    learner, batch = trained("iql", kind, [3, 3], temperature=[0.0, 5.0])
    right = batch["reward"] > (0.5 if kind == "discrete" else -0.1)
    log_prob = learner.policy.log_prob(batch["obs"], batch["action"])
    likes = [(log_prob[i][right[i]].mean() - log_prob[i][~right[i]].mean()).item() for i in range(2)]
    assert likes[0] < likes[1]


def test_td3_bc_alpha_trades_the_data_for_value(trained):
    learner, batch = trained("td3_bc", "box", [3, 3, 3], alpha=[0.0, 2.5, 100.0])
    action = learner.policy.mode(batch["obs"])
    distance = (action - batch["action"]).square().mean((1, 2))
    miss = (action - batch["obs"] * learner.obs_std - learner.obs_mean).square().mean((1, 2))  # the right one is obs
    assert distance[0] < distance[1]
    assert distance[0] < distance[2]
    assert miss[0] > 2 * miss[1]
    assert miss[0] > 2 * miss[2]


@pytest.mark.parametrize("kind", ["box", "discrete"])
def test_bc_fraction_keeps_the_best_episodes(kind, make, tasks):
    data = tasks[kind].dataset()
    rows = make("bc", kind, fraction=0.5).select(data)
    assert len(rows) == len(data) // 2
    kept = torch.zeros(len(data), dtype=torch.bool).index_fill(0, rows, True)[data.episode_starts]
    returns = data.episode_returns()
    assert returns[kept].min() >= returns[~kept].max()
    odd = make("bc", kind, fraction=0.01).select(data)
    assert len(odd) == 8  # whole episodes, at least the share
    assert make("bc", kind).select(data) is None
