"""Costs of the velocity tasks are those of the robots' own report; the mixed data span safe and unsafe behaviour."""

import pytest
import torch

from fenchel.envs import make
from fenchel.envs.velocity import LIMITS, PACES, SNAPSHOTS, THRESHOLD


def test_the_pendulum_pays_for_every_fast_step_and_for_nothing_else():
    task, plain = make("pendulum-velocity"), make("pendulum")
    env, other = (t.make_vec(50) for t in (task, plain))
    seeds = torch.arange(50)
    assert torch.equal(env.reset(seeds), other.reset(seeds))
    seen = []
    for t in range(200):
        action = 2 * torch.sin(torch.full((50, 1), t / 9.0))
        ours, theirs = env.step(action), other.step(action)
        assert torch.equal(ours.obs, theirs.obs)
        assert torch.equal(ours.reward, theirs.reward)
        assert torch.equal(ours.info["cost"], (ours.obs[:, 2].abs() > THRESHOLD["pendulum"]).float())
        seen.append(ours.info["cost"])
    assert 0.05 < torch.stack(seen).mean() < 0.95
    assert ours.timeout.all()  # which is no cost
    assert task.spec.extras == {"cost": ()}


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah"])
def test_robots_pay_where_gymnasium_reports_a_speed_above_the_threshold(robot):
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    from fenchel.envs.mujoco import Actor

    task = make(f"{robot}-velocity")
    env, theirs = task.make_vec(1), gymnasium.make({"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5"}[robot])
    obs = env.reset(torch.tensor([3]))
    theirs.reset(seed=3)
    policy, costs = Actor(robot, [5], 1), []
    for _ in range(120):
        action = policy(obs)
        step = env.step(action)
        obs, reward, over, _, info = step.obs, *theirs.step(action[0].numpy())[1:]
        assert float(step.reward) == pytest.approx(reward, rel=1e-5, abs=1e-6)
        assert float(step.info["cost"]) == float(info["x_velocity"] > THRESHOLD[robot])
        costs.append(float(step.info["cost"]))
        if over:
            break
    assert 0 < sum(costs) < len(costs)
    assert task.metadata["cost"] == {"unit": "episode", "limits": LIMITS[robot]}


def test_the_mixed_data_are_paced(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    task = make("halfcheetah-velocity-mixed", transitions=3000)
    data = task.dataset()
    assert (len(data), data.findings, data.meta["budget_kind"]) == (3000, [], "episode")
    cost = data.extras["cost"].view(len(SNAPSHOTS), len(PACES), -1)
    reward = data.reward.view_as(cost)
    assert set(cost.unique().tolist()) == {0.0, 1.0}
    assert cost[:, 0].sum() == 0  # the slowest pace never pays
    assert (cost[:, -1].mean(-1) > 0.2).all()
    assert (reward.mean(-1).diff(dim=1) > 0).float().mean() > 0.8  # faster earns more
