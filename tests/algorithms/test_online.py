"""PPO, SAC and learners that are built on them: what they collect, what they learn from it, and that they resume."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch

from fenchel.algorithms import checkpoint, get_algorithm
from fenchel.algorithms.online.collector import Collector, Moments
from fenchel.algorithms.training import LAST, TrainConfig, train
from fenchel.envs import make
from fenchel.envs.gym import task_of
from fenchel.envs.spec import Box, Spec
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError

# --- environments that tell where they are -----------------------------------------------------------------------

COUNTING = Spec(2, Box((-2.0,), (2.0,)), {"cost": ()})  # observation: (the episode's name, steps within it)


def length(name):
    return 2 + name % 4


def ends_terminally(name):
    """The others end by a time-out."""
    return name % 8 < 4


@dataclass
class Counting:
    """n copies; an episode is what its seed makes it."""

    n: int

    def __post_init__(self):
        self.obs = torch.zeros(self.n, 2)
        self.actions = []

    def reset(self, seeds, mask=None):
        fresh = torch.ones(self.n, dtype=torch.bool) if mask is None else mask
        self.obs[fresh] = torch.stack([seeds % 1000, torch.zeros_like(seeds)], 1).float()[fresh]
        return self.obs  # the very tensor that the next step changes

    def step(self, action):
        self.actions.append(action)
        self.obs[:, 1] += 1
        name, time = self.obs.unbind(1)
        over, terminal = time >= length(name), ends_terminally(name)
        return Step(self.obs, 10 * time, over & terminal, over & ~terminal, {"cost": name % 3})


class CountingGym(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed=None, options=None):
        self.now = np.array([seed % 1000, 0.0])
        return self.now, {}

    def step(self, action):
        self.now = self.now + np.array([0.0, 1.0])
        name, time = self.now
        over, terminal = time >= length(name), ends_terminally(name)
        return self.now, 10 * time, bool(over and terminal), bool(over and not terminal), {"cost": name % 3}


FACTS = {"spec": COUNTING, "max_steps": 50, "metadata": {"cost": {"unit": "episode", "limits": (3.0,)}}}
COUNTING_TASKS = {
    "native": Task("counting", make_vec=lambda n, seed, device="cpu": Counting(n), **FACTS),
    "gymnasium": replace(task_of("counting", CountingGym), **FACTS),
}


TINY = {"hidden": (5, 9), "batch_size": 7}


@pytest.fixture(params=COUNTING_TASKS)
def counting(request):
    return COUNTING_TASKS[request.param]


def learner_of(key, seeds=(3, 5), spec=COUNTING, dtype=torch.float32, **options):
    return get_algorithm(key)(spec, TINY | options, seeds, dtype=dtype)


def rollouts(task, normalize_obs=False, **options):
    learner = learner_of("ppo", num_envs=3, horizon=16, normalize_reward=False, **options)
    return learner, learner.source(task, normalize_obs)


# --- what is collected -------------------------------------------------------------------------------------------


def test_no_transition_leads_across_an_episode_boundary(counting):
    learner = learner_of("ppo", num_envs=3)
    collector = Collector(learner, counting, 3)
    moves = [collector.step(torch.zeros(2, 3, 1)) for _ in range(60)]
    names = {tuple(moves[0].obs[..., 0].flatten().tolist())}
    for move, after in pairwise(moves):
        name, time = move.next_obs.unbind(-1)
        assert torch.equal(move.next_obs, move.obs + torch.tensor([0.0, 1.0]))  # the same episode, one step on
        assert torch.equal(move.reward, 10 * time)
        over = time == length(name)
        assert torch.equal(move.terminal, over & ends_terminally(name))
        assert torch.equal(move.timeout, over & ~ends_terminally(name))
        assert torch.equal(after.obs[~over], move.next_obs[~over])
        assert (after.obs[..., 1][over] == 0).all()
        names.add(tuple(after.obs[..., 0].flatten().tolist()))
    assert len(names) > 40
    assert all(len(set(row)) >= 5 for row in names)  # copies and replicas have seeds of their own
    assert collector.env_steps == 180


def test_replay_holds_transitions_as_they_were(counting):
    """Every row is (state, action, reward, discount, true successor), also after the buffer has wrapped."""
    learner = learner_of("sac", num_envs=3, buffer_size=20, learning_starts=9, gamma=[0.9, 0.5])
    source = learner.source(counting)
    rows = {}
    for step in range(30):
        batch = source(step)
        learner.steps = step + 1
        filled = min(3 * (3 + step + 1), 18)  # 20 rounded down to whole steps of 3 copies
        stored = source.rows.view(2, 18, -1)
        assert (stored[:, filled:] == 0).all()
        obs, _, reward, discount, following = stored[:, :filled].split(source.widths, -1)
        assert torch.equal(following, obs + torch.tensor([0.0, 1.0]))
        assert torch.equal(reward, 10 * following[..., 1:])
        gamma = torch.tensor([0.9, 0.5])[:, None, None]
        assert ((discount == gamma) | (discount == 0)).all()
        for replica in range(2):
            known = {tuple(row) for row in stored[replica, :filled].tolist()}
            drawn = torch.cat([batch["obs"], batch["action"], batch["reward"][..., None], batch["discount"][..., None],
                               batch["next_obs"]], -1)  # fmt: skip
            assert {tuple(row) for row in drawn[replica].tolist()} <= known
            rows.setdefault(replica, []).append(known)
    fresh = [len(new - old) for old, new in zip(rows[0], rows[0][1:], strict=False)]
    assert fresh == [3] * 29  # each step brings one row per copy
    gone = [len(old - new) for old, new in zip(rows[0], rows[0][1:], strict=False)]
    assert gone == [0, 0] + [3] * 27  # and takes the oldest ones, once there is no more room
    name, time, discount = stored[..., 0], stored[..., -1], stored[..., 4]
    over = time == length(name)
    assert torch.equal(discount == 0, over & ends_terminally(name))
    assert (discount[over & ~ends_terminally(name)] > 0).any()  # time-outs keep theirs


def test_every_transition_of_the_buffer_is_drawn_alike():
    learner = learner_of("sac", seeds=[3], num_envs=3, buffer_size=18, learning_starts=30, act_every=10**6)
    source = learner.source(COUNTING_TASKS["native"])
    source(0)
    source.rows[:, 0] = torch.arange(18.0)  # names the rows; from here on none is written
    counts = torch.zeros(18)
    for step in range(1, 400):
        learner.steps = step
        counts += torch.bincount(source(step)["obs"][0, :, 0].long(), minlength=18)
    assert 0.75 * counts.mean() < counts.min()
    assert counts.max() < 1.25 * counts.mean()


def test_the_collector_ends_episodes_that_the_environment_does_not():
    task = replace(COUNTING_TASKS["native"], max_steps=3)
    collector = Collector(learner_of("ppo"), task, 2)
    moves = [collector.step(torch.zeros(2, 2, 1)) for _ in range(40)]
    name, time = torch.stack([move.next_obs for move in moves]).unbind(-1)
    terminal, timeout = (torch.stack([getattr(move, end) for move in moves]) for end in ("terminal", "timeout"))
    over = time == torch.minimum(length(name), torch.tensor(3.0))  # neither later nor earlier
    own = over & (time == length(name))
    assert time.max() == 3
    assert torch.equal(terminal, own & ends_terminally(name))
    assert torch.equal(timeout, over & ~terminal)


def test_actions_are_clipped_and_scaled_for_the_environment_only():
    collector = Collector(learner_of("ppo"), COUNTING_TASKS["native"], 2)
    action = torch.tensor([[[0.5], [-3.0]], [[float("nan")], [1.5]]])
    collector.step(action)
    assert collector.env.actions[0].flatten().tolist() == [1.0, -2.0, 0.0, 2.0]
    assert action[0, 1] == -3  # what the learner keeps is what it drew


def test_both_runs_begin_new_episodes_at_a_checkpoint():
    learner = learner_of("ppo")
    one, other = (Collector(learner, COUNTING_TASKS["native"], 2) for _ in range(2))
    one.step(torch.zeros(2, 2, 1))
    first = one.obs.clone()
    checkpoint.copy_into(other.state(), one.state())
    one.at_checkpoint()
    other.at_checkpoint()
    assert torch.equal(one.obs, other.obs)
    assert (one.obs[..., 0] != first[..., 0]).all()
    assert (one.obs[..., 1] == 0).all()


def test_moments_are_those_of_everything_seen():
    mean, std = torch.zeros(2, 1, 3, dtype=torch.float64), torch.ones(2, 1, 3, dtype=torch.float64)
    moments = Moments(mean, std)
    x = torch.from_numpy(np.random.default_rng(0).normal(5, 3, (2, 400, 3))) * torch.tensor([1.0, 10.0])[:, None, None]
    for part in x.split([1, 7, 92, 300], 1):
        moments.update(part)
    torch.testing.assert_close(mean, x.mean(1, keepdim=True), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(std, x.std(1, correction=0, keepdim=True), rtol=1e-3, atol=0)


# --- PPO ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_advantages_are_those_of_an_independent_computation(counting, lam):
    """In numpy, episode by episode, from the definition: sums of discounted TD errors."""
    learner, source = rollouts(counting, gae_lambda=lam, gamma=[0.9, 0.6], dtype=torch.float64)
    source(0)
    rollout = {name: rows.unflatten(1, (3, 16)).numpy() for name, rows in source.rollout.items()}
    obs = torch.from_numpy(rollout["obs"])
    with torch.no_grad():
        value = learner.value(obs.flatten(1, 2)).view(2, 3, 16).numpy()
        follower = learner.value((obs + torch.tensor([0.0, 1.0])).flatten(1, 2)).view(2, 3, 16).numpy()
    ends = set()
    for replica, gamma in enumerate([0.9, 0.6]):
        for copy in range(3):
            name, step = rollout["obs"][replica, copy].T
            for begin, end in pairwise([*np.flatnonzero(step == 0), 16]):
                whole = end - begin == length(name[begin])
                terminal = whole and ends_terminally(name[begin])
                ends.add("terminal" if terminal else "timeout" if whole else "cut off")
                delta = []
                for t in range(begin, end):
                    keep = 0.0 if terminal and t == end - 1 else gamma
                    delta.append(10 * (step[t] + 1) + keep * follower[replica, copy, t] - value[replica, copy, t])
                for t in range(begin, end):
                    expected = sum((gamma * lam) ** (k - t) * delta[k - begin] for k in range(t, end))
                    got = {name: rollout[name][replica, copy, t] for name in ("advantage", "return", "value")}
                    assert got["advantage"] == pytest.approx(expected, abs=1e-9)
                    assert got["value"] == pytest.approx(value[replica, copy, t], abs=1e-12)
                    assert got["return"] == pytest.approx(expected + value[replica, copy, t], abs=1e-9)
    assert {"terminal", "timeout"} <= ends


def test_log_probabilities_are_those_of_unclipped_actions():
    learner, source = rollouts(COUNTING_TASKS["native"])
    source(0)
    rows = source.rollout
    assert rows["action"].abs().max() > 1  # some were clipped on their way to the environment
    with torch.no_grad():
        log_prob = learner.policy.log_prob(rows["obs"], rows["action"])
    torch.testing.assert_close(log_prob, rows["log_prob"], rtol=1e-5, atol=1e-5)


def test_an_epoch_takes_every_transition_once_in_another_order():
    _, source = rollouts(COUNTING_TASKS["native"], batch_size=16)
    source(0)
    source.rollout["value"].copy_(torch.arange(48.0))  # names the rows
    epochs = [torch.cat([source(3 * epoch + i)["value"] for i in range(3)], 1) for epoch in range(1, 5)]
    for order in epochs:
        assert torch.equal(order.sort(1).values, torch.arange(48.0).expand(2, -1))
    assert len({tuple(row.tolist()) for order in epochs for row in order}) == 8  # of every epoch and replica
    again = torch.cat([source(6 + i)["value"] for i in range(3)], 1)  # a function of the step alone
    assert torch.equal(again, epochs[1])


def test_a_rollout_is_collected_when_its_epochs_are_over():
    _, source = rollouts(COUNTING_TASKS["native"], epochs=2)
    steps = []
    for step in range(25):
        source(step)
        steps.append(source.env_steps)
    assert steps == [48] * 12 + [96] * 12 + [144]  # 48 // 7 minibatches per epoch, 2 epochs; per replica


def test_rewards_are_scaled_by_the_deviation_of_the_discounted_return():
    learner = learner_of("ppo", seeds=[3], num_envs=3, horizon=16, gamma=0.5, dtype=torch.float64)
    source = learner.source(COUNTING_TASKS["native"], False)
    reward = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (40, 1, 3)))
    over = torch.from_numpy(np.random.default_rng(1).random((40, 1, 3)) < 0.2)
    running, seen = np.zeros(3), []
    for r, end in zip(reward, over, strict=True):
        scaled = source._scaled(r, end, 0.5)
        running = 0.5 * running + r[0].numpy()
        seen.extend(running)
        running = np.where(end[0], 0.0, running)
        np.testing.assert_allclose(scaled[0], r[0] / np.std(seen), rtol=1e-2 if len(seen) < 30 else 1e-3)


def ppo_batch(learner, log_prob_shift, advantage, generator=0):
    """32 states of one replica, actions of the policy itself, whose old log-probabilities are shifted."""
    rng = np.random.default_rng(generator)
    obs = torch.from_numpy(rng.normal(size=(1, 32, 2))).to(learner.dtype)
    noise = torch.from_numpy(rng.normal(size=(1, 32, 1))).to(learner.dtype)
    with torch.no_grad():
        action, log_prob = learner.policy.sample(obs, noise)
        value = learner.value(obs)
    return {"obs": obs, "action": action, "log_prob": log_prob - log_prob_shift, "advantage": advantage.to(log_prob),
            "value": value, "return": value}  # fmt: skip


def alternating(size=32):
    return torch.tensor([1.0, -1.0]).repeat(size // 2)[None]


def gradients(learner, batch):
    """The gradient of the policy's parameters, and what the update reports."""
    learner.optimiser.apply = lambda: None
    losses = learner.update(batch)
    return learner.policy.grad.clone(), losses


def test_entropy_bonus_pulls_the_deviation_up():
    for coef, sign in ((0.0, 0.0), (0.5, -1.0)):
        learner = learner_of("ppo", seeds=[3], entropy_coef=coef, dtype=torch.float64)
        batch = ppo_batch(learner, 0.0, torch.zeros(1, 32))  # without advantages nothing else moves the policy
        _, losses = gradients(learner, batch)
        log_std = learner.policy.weights[-1].grad
        assert log_std.item() == pytest.approx(sign * coef, abs=1e-12)  # d(-coef H) / d log std = -coef
        assert losses["entropy_loss"].item() == pytest.approx(-coef * 0.5 * (1 + np.log(2 * np.pi)))


def test_policy_gradient_prefers_what_was_better_until_clipped():
    learner = learner_of("ppo", seeds=[3], dtype=torch.float64)
    free, losses = gradients(learner, ppo_batch(learner, 0.0, alternating()))
    assert losses["clipped"].item() == 0
    batch = ppo_batch(learner, 0.0, alternating())
    with torch.no_grad():
        learner.policy.flat.sub_(0.01 * free)
        moved = learner.policy.log_prob(batch["obs"], batch["action"]) - batch["log_prob"]
        learner.policy.flat.add_(0.01 * free)
    assert moved[alternating() > 0].mean() > moved[alternating() < 0].mean()
    # all ratios are too high by more than the clip: only bad actions have a gradient; too low: only good ones
    for shift, sign in ((0.5, -1.0), (-0.5, 1.0)):
        batch = ppo_batch(learner, shift, alternating())
        got, losses = gradients(learner, batch)
        kept = alternating() == sign
        learner.optimiser.apply = lambda: None
        ratio = (learner.policy.log_prob(batch["obs"], batch["action"]) - batch["log_prob"]).exp()
        learner.policy.grad.zero_()
        (-(ratio * sign)[kept].sum() / 32).backward()
        torch.testing.assert_close(got, learner.policy.grad)
        assert losses["clipped"].item() == 1
        assert got.abs().max() > 0


def test_value_moves_to_the_return():
    learner = learner_of("ppo", seeds=[3], value_coef=0.7, dtype=torch.float64)
    batch = ppo_batch(learner, 0.0, torch.zeros(1, 32))
    batch["return"] = batch["value"] + 2.0
    _, losses = gradients(learner, batch)
    assert losses["value_loss"].item() == pytest.approx(0.7 * 2.0)  # 0.7 * 2^2 / 2
    last_bias = learner.value.weights[-1].grad
    assert last_bias.item() == pytest.approx(-0.7 * 2.0)
    assert learner.policy.grad.abs().max() == 0


# --- SAC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "direction"), [(1.5, 1), (-8.0, -1)])
def test_temperature_rises_where_entropy_is_below_its_target(target, direction, tasks):
    """No law on the square has an entropy above 2 log 2 = 1.39; the first policy's is far above -8."""
    learner = learner_of("sac", spec=tasks["box"].spec, target_entropy=target, learning_starts=50)
    source = learner.source(tasks["box"])
    levels = [torch.ones(2)]
    for _ in range(10):
        learner.step(source)
        levels.append(learner.log_temperature().detach().exp().flatten())
    steps = torch.stack(levels).diff(dim=0)
    assert (direction * steps > 0).all()


def test_target_entropy_is_minus_the_dimensions(tasks):
    assert learner_of("sac", spec=tasks["box"].spec).target_entropy == -2


def test_backup_is_soft_and_pessimistic(tasks):
    """The critic's loss, computed anew from its definition."""
    learner = learner_of("sac", spec=tasks["box"].spec, learning_starts=20, dtype=torch.float64)
    source = learner.source(tasks["box"])
    for _ in range(3):
        learner.step(source)
    with torch.no_grad():
        learner.log_temperature.flat[:, 0] = torch.tensor([0.3, -0.4], dtype=torch.float64)
        batch = source(learner.steps)
        batch["discount"] = batch["discount"] * (torch.arange(7) % 2)  # some are terminal
        mean, log_std = learner.policy.parameters(batch["next_obs"])
        raw = torch.distributions.Normal(mean, log_std.exp())
        law = torch.distributions.TransformedDistribution(raw, torch.distributions.TanhTransform())
        action = torch.tanh(mean + log_std.exp() * learner.noise("next_action", (7, 2)))
        q = torch.minimum(*learner.target.of(batch["next_obs"], action).unbind(1))
        temperature = torch.tensor([[0.3], [-0.4]]).exp()
        y = batch["reward"] + batch["discount"] * (q - temperature * law.log_prob(action).sum(-1))
        expected = sum((member - y).square().mean(1) for member in learner.critic(batch).unbind(1))
    torch.testing.assert_close(learner.update(batch)["critic_loss"], expected)


def test_a_hotter_policy_is_wider(tasks):
    widths = []
    for heat in (-3.0, 1.0):
        options = {"batch_size": 32, "lr": 1e-2, "gamma": 0.0, "learning_starts": 100, "num_envs": 2}
        learner = learner_of("sac", spec=tasks["box"].spec, **options)
        source = learner.source(tasks["box"])
        for _ in range(60):
            with torch.no_grad():
                learner.log_temperature.flat[:, 0] = heat
            learner.step(source)
        _, log_std = learner.policy.parameters(source(learner.steps)["obs"])
        widths.append(log_std.mean().item())
    assert widths[0] + 0.5 < widths[1]


def test_environment_steps_per_update():
    for options, expected in (({}, 20 + 12), ({"act_every": 3}, 20 + 4), ({"num_envs": 4}, 20 + 48)):
        learner = learner_of("sac", learning_starts=20, **options)
        source = learner.source(COUNTING_TASKS["native"])
        for step in range(12):
            source(step)
        assert source.env_steps == expected


# --- the training loop -------------------------------------------------------------------------------------------

SIZES = {
    "ppo": {"num_envs": 2, "horizon": 21, "epochs": 2},  # 12 updates per rollout: checkpoints fall inside one
    "sac": {"num_envs": 2, "learning_starts": 10, "buffer_size": 30},  # wraps after 10 updates
}
SIZES |= {
    "ppo_lag": SIZES["ppo"] | {"multiplier": "pid"},
    "sac_lag": SIZES["sac"],
    "cal": SIZES["sac"] | {"act_every": 1},
}
LOOP = TrainConfig(steps=60, log_every=15, eval_every=30, eval_episodes=1, final_episodes=0, checkpoint_every=20)


def run(key, task, steps, folder=None, resume=False, **options):
    learner = learner_of(key, spec=task.spec, **(SIZES[key] | options))
    result = train(task, learner, replace(LOOP, steps=steps), folder=folder, resume=resume)
    return learner, result


def same(first, second):
    mine, theirs = first.state_dict(), second.state_dict()
    return [name for name in mine if not torch.equal(mine[name], theirs[name])]


@pytest.mark.parametrize("key", SIZES)
def test_half_and_half_is_the_whole(key, counting, tmp_path):
    """20 of 60 updates, then the rest: a rollout is under way, the replay buffer has wrapped."""
    whole, _ = run(key, counting, 60, tmp_path / "whole")
    run(key, counting, 20, tmp_path / "halves")
    halves, _ = run(key, counting, 60, tmp_path / "halves", resume=True)
    assert same(whole, halves) == []
    files = [checkpoint.read(tmp_path / name / "checkpoints" / LAST)[0] for name in ("whole", "halves")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])  # episodes, buffers, moments
    other, _ = run(key, counting, 60, lr=1e-3)
    assert same(whole, other)


def test_killed_runs_resume(tmp_path):
    """SIGKILL between two checkpoints, in processes of their own."""
    script = f"""
        import os, signal
        from dataclasses import replace
        from pathlib import Path
        from fenchel.algorithms import get_algorithm
        from fenchel.algorithms.training import TrainConfig, train
        from fenchel.envs import make
        config, task = {LOOP!r}, make("pendulum-velocity")

        def tell(kind, record):
            if kind == "log" and record["step"] == 45:
                os.kill(os.getpid(), signal.SIGKILL)

        for key, options in {SIZES!r}.items():
            if child := os.fork():
                assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
            else:
                learner = get_algorithm(key)(task.spec, {TINY!r} | options, (3, 5))
                train(task, learner, config, folder=Path({str(tmp_path)!r}, key), listener=tell)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    for key in SIZES:
        part, _ = run(key, make("pendulum-velocity"), 60, tmp_path / key, resume=True)
        whole, _ = run(key, make("pendulum-velocity"), 60, tmp_path / "whole")
        assert same(whole, part) == []
        lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", key)]
        assert lines[0] == lines[1]


@pytest.mark.parametrize("key", SIZES)
def test_an_observation_that_is_not_finite_ends_its_own_replica_only(key, tmp_path):
    """It is reported, the replica is frozen, the others have the bits of a clean run, the environment sees no NaN."""
    actions = []

    class Broken(Counting):
        def step(self, action):
            result = super().step(action)
            actions.append(action)
            if len(actions) == 40 and self.n == 4:
                self.obs[0, 1] = float("nan")  # a copy of replica 0
            return result

    task = replace(COUNTING_TASKS["native"], make_vec=lambda n, seed, device="cpu": Broken(n))
    broken = learner_of(key, **SIZES[key])
    events = []
    config = replace(LOOP, eval_episodes=0, log_every=5, steps=120)
    result = train(task, broken, config, listener=lambda *event: events.append(event))
    warnings = [record["message"] for kind, record in events if kind == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("Replica 0 (seed 3) is not finite at step")
    assert result["status"] == "completed"
    assert all(action.isfinite().all() for action in actions)
    clean = learner_of(key, **SIZES[key])
    train(COUNTING_TASKS["native"], clean, config)
    for name, tensor in clean.state_dict().items():
        if tensor.ndim > 1:
            assert torch.equal(tensor[1], broken.state_dict()[name][1]), name


def test_a_run_says_how_many_environment_steps_it_took(tmp_path):
    events = []
    learner = learner_of("ppo", **SIZES["ppo"])
    result = train(COUNTING_TASKS["native"], learner, LOOP, listener=lambda *event: events.append(event))
    assert result["env_steps"] == 5 * 42
    assert [record["env_steps"] for kind, record in events if kind == "log"] == [84, 126, 168, 210]


# --- what is refused ---------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_in_one_sentence():
    task = COUNTING_TASKS["native"]
    cases = [
        ("ppo", {"batch_size": 100, "horizon": 4, "num_envs": 3}, task, "batch_size=100 exceeds a rollout"),
        ("sac", {"buffer_size": 3, "num_envs": 4}, task, "buffer_size=3 must be at least num_envs=4"),
        ("sac", {}, replace(task, make_vec=None), "no environment to act in"),
        ("ppo", {}, replace(task, metadata={"objectives": 2}), "vector rewards"),
    ]
    for key, options, where, message in cases:
        with pytest.raises(UserError, match=message):
            learner_of(key, **options).source(where)


@pytest.mark.parametrize("key", SIZES)
def test_a_data_set_is_refused(key):
    with pytest.raises(UserError, match="learns by acting"):
        learner_of(key).fit(None, 1)
