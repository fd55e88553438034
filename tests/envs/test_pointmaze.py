"""The batched point maze against OGBench's MuJoCo environment, and what its data promise."""

import numpy as np
import pytest
import torch

import fenchel.envs.pointmaze as pm
from fenchel.envs import make
from fenchel.envs.pointmaze import Controller, PointMaze, cell_centre, cell_of


def ogbench_env(maze):
    pytest.importorskip("ogbench", reason="ogbench is not installed: the MuJoCo comparison is SKIPPED")
    import gymnasium

    return gymnasium.make(f"pointmaze-{maze}-singletask-v0", render_mode=None).unwrapped


def replay(env, start, actions):
    """(T + 1, 2) positions of the MuJoCo environment."""
    env.set_xy(np.asarray(start, dtype=float))
    env.data.qvel[:] = 0
    return np.stack([np.asarray(start), *(env.step(action)[0] for action in actions)])


def test_free_motion_equals_mujoco():
    env = ogbench_env("medium")
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 2))
    ours = PointMaze("medium", 1, substeps=1)
    ours.reset(torch.tensor([0]))
    ours.xy = torch.zeros(1, 2)
    theirs = replay(env, (0.0, 0.0), actions)
    for action, xy in zip(actions, theirs[1:], strict=True):
        np.testing.assert_allclose(ours.step(torch.tensor(action)[None]).obs[0], xy, atol=1e-6)


def test_a_wall_gives_back_the_same_share_as_mujoco():
    env = ogbench_env("medium")
    env.reset(seed=0)
    for depth in (0.05, 0.15, 0.25):
        start = (4 + 2 - pm.RADIUS - 0.2 + depth, 0.0)
        theirs = replay(env, start, np.array([[1.0, 0.0]]))
        ours = pm.push_out(torch.tensor([start]) + torch.tensor([0.2, 0.0]), pm.walls("medium"))
        np.testing.assert_allclose(ours[0], theirs[1], atol=1e-5)


def test_a_concave_corner_pushes_back_as_mujoco_to_a_tenth_of_the_depth():
    env = ogbench_env("medium")
    env.reset(seed=0)
    for ratio in (0.2, 0.4, 0.6, 0.8, 1.0):
        start = (-1.3 - 0.2, -1.3 - 0.2 * ratio)
        theirs = replay(env, start, np.zeros((1, 2)))
        ours = pm.push_out(torch.tensor([start]), pm.walls("medium"))
        np.testing.assert_allclose(ours[0], theirs[1], atol=0.01)


def held_pushes(n, steps):
    """Random full-strength pushes held for 25 steps: most of the time against a wall."""
    rng = np.random.default_rng(1)
    push = rng.uniform(-1, 1, (steps // 25, n, 2))
    push /= np.abs(push).max(-1, keepdims=True)
    return torch.tensor(np.repeat(push, 25, 0), dtype=torch.float32)


def cells(path):
    sequence = cell_of(torch.as_tensor(np.asarray(path), dtype=torch.float32)).tolist()
    return [c for k, c in enumerate(sequence) if k == 0 or c != sequence[k - 1]]


@pytest.mark.slow
@pytest.mark.parametrize("maze", ["medium", "large"])
def test_cells_are_visited_in_the_same_order_as_in_mujoco(maze):
    """99 % of 200 episodes of 200 steps, half of them walking to random goals and half pushing blindly."""
    env = ogbench_env(maze)
    env.reset(seed=0)
    n, steps, same, total = 100, 200, 0, 0
    for drive in ("walk", "push"):
        ours = PointMaze(maze, n, substeps=1, anywhere=True, max_steps=10**6)
        obs = ours.reset(torch.arange(n))
        walker = Controller(maze, n, seed=3, noise=0.5, substeps=1)
        walker.begin(torch.ones(n, dtype=torch.bool))
        pushes, path, actions = held_pushes(n, steps), [obs], []
        for t in range(steps):
            actions.append(walker(obs) if drive == "walk" else pushes[t])
            obs = ours.step(actions[-1]).obs
            path.append(obs)
        ours_path, actions = torch.stack(path, 1), torch.stack(actions, 1).double().numpy()
        for i in range(n):
            same += cells(replay(env, ours_path[i, 0], actions[i])) == cells(ours_path[i])
            total += 1
    assert same >= 0.99 * total, f"{same} of {total}"


def test_v0_has_the_rewards_and_ends_of_the_single_task_environment():
    env = ogbench_env("medium")
    env.reset(seed=0)
    ours = make("pointmaze-medium-v0").make_vec(1)
    ours.reset(torch.tensor([0]))
    start = ours.goal + torch.tensor([-1.5, 0.0])
    ours.xy, env.cur_goal_xy = start[None], ours.goal.numpy()
    env.set_xy(start.numpy().astype(float))
    for _ in range(6):
        mine = ours.step(torch.tensor([[1.0, 0.0]]))
        _, reward, terminal, _, _ = env.step(np.array([1.0, 0.0]))
        assert (float(mine.reward), bool(mine.terminal)) == (reward, terminal)
        if terminal:
            return
    pytest.fail("the goal was not reached")


@pytest.mark.parametrize("maze", ["umaze", "medium", "large"])
def test_no_action_leads_through_a_wall(maze):
    n = 500
    env = PointMaze(maze, n, anywhere=True, max_steps=10**6)
    obs = env.reset(torch.arange(n))
    pushes = held_pushes(n, 150)
    for t in range(150):
        before, obs = cell_of(obs), env.step(pushes[t]).obs
        after = cell_of(obs)
        assert not bool(env.walls[after[:, 0], after[:, 1]].any())
        moved = (after - before).abs()
        diagonal = moved.amin(-1) == 1
        assert int(moved.max()) <= 1
        sides = env.walls[before[:, 0], after[:, 1]] & env.walls[after[:, 0], before[:, 1]]
        assert not bool((diagonal & sides).any())


@pytest.mark.parametrize("name", sorted(pm.REFERENCE))
def test_reference_returns_are_the_measured_ones(name):
    low, high = pm.reference(f"pointmaze-{name}", episodes=300)
    assert low == pm.REFERENCE[name][0]
    assert abs(high - pm.REFERENCE[name][1]) < 0.02 * abs(high)


def test_data_are_deterministic_and_follow_the_options(tmp_path, monkeypatch):
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path / "a"))
    first = make("pointmaze-umaze", transitions=2_000).dataset()
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path / "b"))
    again = make("pointmaze-umaze", transitions=2_000).dataset()
    other = make("pointmaze-umaze", transitions=2_000, data_seed=1).dataset()
    assert len(first) == 2_000
    assert first.findings == []
    assert first.hash == again.hash != other.hash
    assert set(first.reward.tolist()) == {-1.0}
    at_goal = (first.next_obs - cell_centre(torch.tensor(pm.GOAL["umaze"]))).norm(dim=-1) <= pm.GOAL_RADIUS
    assert torch.equal(first.terminal, at_goal)


@pytest.mark.parametrize("maze", ["umaze", *(pytest.param(m, marks=pytest.mark.slow) for m in ("medium", "large"))])
def test_copying_the_controller_leads_nowhere(tmp_path, monkeypatch, maze):
    """The mean action per square of half a unit, which behaviour cloning would find, scores below 50."""
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    task = make(f"pointmaze-{maze}", transitions=30_000)
    data = task.dataset()
    fine = ((data.obs + 8) * 2).long()
    flat = fine[:, 0] * 200 + fine[:, 1]
    total = torch.zeros(200 * 200, 2).index_add_(0, flat, data.action)
    count = torch.zeros(200 * 200).index_add_(0, flat, torch.ones(len(flat)))
    mean = total / count[:, None].clamp_min(1)
    n = 50
    env = task.make_vec(n)
    obs, alive, gained = env.reset(torch.arange(n)), torch.ones(n), torch.zeros(n)
    for _ in range(task.max_steps):
        at = ((obs + 8) * 2).long()
        step = env.step(mean[at[:, 0] * 200 + at[:, 1]])
        obs, gained = step.obs, gained + step.reward * alive
        alive = alive * ~(step.terminal | step.timeout)
    assert float(task.normalized(gained.mean())) < 50


@pytest.mark.parametrize("maze", ["umaze", *(pytest.param(m, marks=pytest.mark.slow) for m in ("medium", "large"))])
def test_the_data_hold_a_solution(tmp_path, monkeypatch, maze):
    """Q over squares of one unit and eight directions, fitted to the data alone, scores near 100."""
    monkeypatch.setenv("FENCHEL_DATA", str(tmp_path))
    task = make(f"pointmaze-{maze}", transitions=100_000 if maze == "umaze" else 200_000)
    data, width, n = task.dataset(), 64, 100

    def square(xy):
        at = (xy + 8).long()
        return at[:, 0] * width + at[:, 1]

    turn = (torch.atan2(data.action[:, 1], data.action[:, 0]) / (torch.pi / 4)).round().long() % 8
    pair, after, go_on = square(data.obs) * 8 + turn, square(data.next_obs), 0.99 * ~data.terminal
    count = torch.bincount(pair, minlength=width * width * 8)
    q = torch.full((width * width * 8,), -100.0)
    for _ in range(200):
        target = go_on * q.view(-1, 8).amax(1)[after] - 1
        q = torch.where(count > 0, torch.bincount(pair, target, len(q)) / count.clamp_min(1), -100.0).float()
    angle = q.view(-1, 8).argmax(1) * torch.pi / 4
    env = task.make_vec(n)
    obs, alive, gained = env.reset(torch.arange(n)), torch.ones(n), torch.zeros(n)
    for _ in range(task.max_steps):
        way = angle[square(obs)]
        step = env.step(torch.stack([way.cos(), way.sin()], -1))
        obs, gained = step.obs, gained + step.reward * alive
        alive = alive * ~(step.terminal | step.timeout)
    assert float(task.normalized(gained.mean())) > 90


def test_reset_touches_only_the_masked_copies():
    env = PointMaze("umaze", 4)
    env.reset(torch.arange(4))
    before = env.step(torch.ones(4, 2)).obs
    after = env.reset(torch.arange(4) + 9, torch.tensor([True, False, False, True]))
    assert torch.equal(before[1:3], after[1:3])
    assert not torch.equal(before[0], after[0])
    assert env.t.tolist() == [0, 1, 1, 0]
