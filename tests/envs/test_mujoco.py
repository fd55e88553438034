"""MuJoCo sets: the same configuration gives the same bits, shares are what the page says, snapshots are plain."""

import pytest
import torch

from fenchel.envs import make
from fenchel.envs import mujoco as mj
from fenchel.errors import UserError

pytest.importorskip("mujoco")
KINDS = ("random", "medium", "medium-replay", "medium-expert", "expert")
ROBOTS = [robot for robot in mj.ROBOTS if (mj.ACTORS / f"{robot}.safetensors").exists()]


def test_all_robots_have_their_actors():
    assert ROBOTS == list(mj.ROBOTS)


@pytest.mark.parametrize("kind", ["random", "medium-expert"])
def test_the_same_configuration_gives_the_same_bits(tmp_path, monkeypatch, kind):
    hashes = []
    for folder in "ab":
        monkeypatch.setenv("FENCHEL_DATA", str(tmp_path / folder))
        data = make(f"hopper-{kind}", transitions=500).dataset()
        assert (len(data), data.findings) == (500, [])
        hashes.append(data.hash)
    assert hashes[0] == hashes[1] != make(f"hopper-{kind}", transitions=500, data_seed=1).dataset().hash


@pytest.mark.parametrize("robot", ROBOTS)
def test_members_and_roles(robot):
    algorithm, rows, tensors = mj.snapshots(robot)
    returns = [row["return"] for row in rows]
    role = {row["role"]: k for k, row in enumerate(rows) if row["role"]}
    assert algorithm in ("ppo", "sac")
    assert returns[role["expert"]] == max(returns)
    assert returns[role["medium"]] > max(returns) / 3
    assert all(r <= max(returns) / 3 for r in returns[: role["medium"]])
    assert mj.members(robot, "medium-replay") == list(range(role["medium"] + 1))
    assert mj.members(robot, "medium-expert") == [role["medium"], role["expert"]]
    assert 8 <= len(rows) <= 12
    assert all(t.keys() == tensors[0].keys() for t in tensors)


@pytest.mark.parametrize("robot", ROBOTS)
def test_groups_of_an_actor_act_as_each_member_alone(robot):
    dim = mj.snapshots(robot)[2][0]["w0"].shape[1]
    obs = torch.randn(6, dim)
    both = mj.Actor(robot, mj.members(robot, "medium-expert"), 6, noise=0.0)(obs)
    for group, k in enumerate(mj.members(robot, "medium-expert")):
        rows = slice(3 * group, 3 * group + 3)
        alone = mj.Actor(robot, [k], 3, noise=0.0)(obs[rows])
        torch.testing.assert_close(both[rows], alone, atol=1e-5, rtol=1e-5)
    assert float(both.abs().max()) <= 1
    noisy = mj.Actor(robot, mj.members(robot, "medium"), 6)(obs)
    assert float((noisy - both).abs().max()) > 0


@pytest.mark.slow
def test_better_snapshots_give_better_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    means = [float(make(f"hopper-{kind}", transitions=20_000).dataset().episode_returns().mean()) for kind in KINDS]
    random, medium, replay, both, expert = means
    assert random < replay < medium < both < expert


def test_missing_actors_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mj, "ACTORS", tmp_path)
    mj.snapshots.cache_clear()
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    with pytest.raises(UserError, match="actors of hopper are missing"):
        make("hopper-medium").dataset()
    mj.snapshots.cache_clear()


def test_nothing_is_printed_and_no_log_file_is_left(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for id in ("halfcheetah-random", "gym:HalfCheetah-v5"):
        make(id).make_vec(2)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
