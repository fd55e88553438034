"""PPO and SAC with multipliers, and CAL: units, what counts as cost, and which way the multiplier goes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fenchel.algorithms import get_algorithm
from fenchel.algorithms.runner import Runner
from fenchel.envs.spec import Box, Discrete, Spec
from fenchel.envs.tabular import TabularEnv
from fenchel.envs.task import Step, Task
from fenchel.theory import instances
from fenchel.theory.rng import Streams
from fenchel.theory.solvers.cmdp import solve_cmdp

SPEC = Spec(1, Box((-1.0,), (1.0,)), {"cost": ()})
KEYS = ("ppo_lag", "sac_lag", "cal")
SMALL = {
    "ppo_lag": {"num_envs": 2, "horizon": 10, "epochs": 1, "batch_size": 10},
    "sac_lag": {"num_envs": 2, "learning_starts": 20},
    "cal": {"num_envs": 2, "learning_starts": 20, "act_every": 1},
}


@dataclass
class Priced:
    """n copies that pay `price` per step, or noise of that mean; 5 steps, which end by a time-out, or terminally."""

    n: int
    price: float
    terminal: bool = False
    noise: bool = False

    def reset(self, seeds, mask=None):
        fresh = torch.ones(self.n, dtype=torch.bool) if mask is None else mask
        self.streams = Streams(torch.where(fresh, seeds, self.streams.seeds) if hasattr(self, "streams") else seeds)
        self.time = torch.where(fresh, 0, self.time) if hasattr(self, "time") else torch.zeros(self.n).long()
        return self._obs()

    def step(self, action):
        self.time = self.time + 1
        cost = torch.full((self.n,), self.price)
        if self.noise:
            cost = (self.streams.uniform("cost", (), counter=self.time[:, None]) < self.price).float()
        over = self.time >= 5
        return Step(
            self._obs(), -action[:, 0].square(), over & self.terminal, over & (not self.terminal), {"cost": cost}
        )

    def _obs(self):
        return 2 * self.streams.uniform("obs", (1,), counter=self.time[:, None]) - 1


def priced(price, limits=(2.0,), **options):
    return Task(
        "priced",
        SPEC,
        lambda n, seed=0, device="cpu": Priced(n, price, **options),
        max_steps=5,
        metadata={"cost": {"unit": "episode", "limits": limits}},
    )


def learner_of(key, seeds=(3, 5), dtype=torch.float64, spec=SPEC, **options):
    common = {"hidden": (16,), "batch_size": 16, "lr": 1e-2, "gamma": 0.5}
    return get_algorithm(key)(spec, common | SMALL[key] | options, seeds, dtype=dtype)


def constant(network, value):
    network.flat.zero_()
    network.weights[-1].data.fill_(value)


# --- which way the multiplier goes -------------------------------------------------------------------------------


@pytest.mark.parametrize("mover", ["projected", "log", "pid"])
@pytest.mark.parametrize("key", KEYS)
def test_the_multiplier_rises_where_every_step_costs_and_falls_where_none_does(key, mover):
    for price, direction in ((1.0, 1), (0.0, -1)):
        learner = learner_of(key, multiplier=mover, multiplier_lr=0.02, proportional=0.0, derivative=0.0)
        if mover == "pid":
            learner.multiplier.row[:, :2] = 25.0  # the integral; the multiplier is 0.02 of it
        runner = Runner(learner, learner.source(priced(price)))
        runner.advance(100)
        before = learner.multiplier()
        runner.advance(20)
        after = learner.multiplier()
        resting = (after == 0).all() if direction < 0 else False
        assert resting or (direction * (after - before) > 0).all(), (price, before, after)


def test_a_controller_without_other_gains_is_projected_ascent():
    options = {"multiplier_lr": 0.05, "initial_multiplier": 0.0, "limit": 4.0}
    learners = [
        learner_of("ppo_lag", **options, multiplier=kind, proportional=0.0, derivative=0.0)
        for kind in ("projected", "pid")
    ]
    for learner in learners:
        Runner(learner, learner.source(priced(0.9))).advance(40)
    one, other = (learner.multiplier() for learner in learners)
    assert (one > 0.05).all()
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_before_an_episode_has_ended_the_multiplier_rests():
    learner = learner_of("ppo_lag", horizon=4, batch_size=4)
    source = learner.source(replace(priced(1.0), max_steps=50))
    source.collector.env.step = lambda action, step=source.collector.env.step: step(action)._replace(
        timeout=torch.zeros(4, dtype=torch.bool)
    )
    source(0)
    assert torch.equal(learner.multiplier(), torch.ones(2, 1, dtype=torch.float64))


# --- limits and units ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("limit", "unit"), [(25.0, "episode"), (2.5, "discounted"), (0.025, "normalised"), (0.025, "average")]
)
def test_a_limit_of_25_in_1000_steps_is_2_5_discounted_by_99_hundredths(key, limit, unit):
    task = replace(priced(1.0), max_steps=1000)
    learner = learner_of(key, gamma=[0.99, 0.9], limit=limit, unit=unit)
    learner.bind(task)
    expected = {"discounted": [2.5, 2.5], "normalised": [2.5, 0.25]}.get(unit, [2.5, 0.25])
    np.testing.assert_allclose(learner.h.budget.squeeze(1), expected, rtol=1e-12)
    episode = {"discounted": [25.0, 250.0]}.get(unit, [25.0, 25.0])
    np.testing.assert_allclose(learner.limits, episode, rtol=1e-12)


@pytest.mark.parametrize("unit", ["episode", "discounted", "normalised", "average"])
def test_ppo_measures_a_constant_cost_alike_in_every_unit(unit):
    learner = learner_of("ppo_lag", unit=unit)
    source = learner.source(priced(0.7))
    constant(learner.cost_value, 1.4)  # which is right: 0.7 / (1 - 0.5)
    source(0)
    np.testing.assert_allclose(source.measured, 1.4, rtol=1e-6)


def test_ppo_measures_only_whole_episodes():
    """One cost in the first step of each: 1 per episode, whatever the rollouts' length."""
    learner = learner_of("ppo_lag", horizon=7, batch_size=7)
    source = learner.source(priced(1.0))
    env, step_of = source.collector.env, source.collector.env.step

    def step(action):
        first = (env.time == 0).to(action.dtype)
        return step_of(action)._replace(info={"cost": first})

    env.step = step
    for rollout in range(10):
        source(2 * rollout)  # of two minibatches each
        expected = 1 / 5 / (1 - 0.5)  # 1 per episode of 5, in discounted units
        np.testing.assert_allclose(source.measured, expected, rtol=1e-12)


# --- time-outs and terminals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("terminal", "after"), [(False, 7.0), (True, 0.0)])
def test_the_cost_s_value_goes_on_beyond_a_time_out_and_ends_at_a_terminal(terminal, after):
    task = priced(1.0, terminal=terminal)
    learner = learner_of("ppo_lag", gae_lambda=1.0)
    source = learner.source(task)
    constant(learner.cost_value, 7.0)
    source(0)
    returns = source.rollout["cost_return"].view(2, 2, 10)
    expected = [after]
    for _ in range(5):
        expected.append(1 + 0.5 * expected[-1])
    np.testing.assert_allclose(returns[..., :5], np.broadcast_to(expected[:0:-1], (2, 2, 5)), rtol=1e-12)
    for key in ("sac_lag", "cal"):
        learner = learner_of(key, batch_size=256)
        source = learner.source(task)
        constant(learner.cost_target, 7.0)
        constant(learner.cost_critic, 0.0)
        batch = source(0)
        last = batch["discount"] == 0
        loss = learner.update(batch)["cost_loss"]  # of every member, from 0 to 1 + discount * 7
        members = 4 if key == "cal" else 1
        expected = members * torch.where(last, 1.0, (1 + 0.5 * 7.0) ** 2).mean(1)
        torch.testing.assert_close(loss, expected.to(loss.dtype))
        assert bool(last.any()) == terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_what_training_cost_is_counted_by_episode_and_an_end_is_no_violation(terminal):
    for price, limit, violations in ((0.3, 2.0, 0.0), (0.3, 1.0, 1.0), (0.4, 2.0, 0.0)):
        learner = learner_of("sac_lag", limit=limit, dtype=torch.float32)
        source = learner.source(priced(price, terminal=terminal))
        Runner(learner, source).advance(20)
        report = learner.report(source)
        np.testing.assert_allclose(report["training_cost"], 5 * price, rtol=1e-6)
        assert report["training_violations"] == [violations] * 2
        assert source.collector.costs.totals[:, 0].tolist() == [12.0, 12.0]  # 30 steps of 2 copies


# --- what the actor pays ------------------------------------------------------------------------------------------


def test_cal_s_weight_is_the_augmented_multiplier():
    """max(0, lam + c (E Q_c+ - d)); c = 0 leaves lam. The release's form is lam - min(c (d - E Q_c+), lam)."""
    seeds, c = (3, 3, 3), [0.0, 10.0, 1000.0]
    learner = learner_of("cal", seeds, c=c, limit=0.1)
    source = learner.source(priced(0.5))
    Runner(learner, source).advance(3)
    for limit in (0.01, 100.0):
        learner.h.budget.fill_(limit)
        lam, losses = learner.multiplier().squeeze(1), learner.step(source)
        slack = torch.tensor(c) * (limit - losses["cost_estimate"])
        torch.testing.assert_close(losses["weight"], lam - torch.minimum(slack, lam))
        assert losses["weight"][0] == lam[0]
        assert (losses["weight"] >= 0).all()


@pytest.mark.parametrize("key", ["sac_lag", "cal"])
def test_the_actor_descends_the_cost_and_leaves_its_critic_alone(key):
    options = {"c": 0.0} if key == "cal" else {}
    learner = learner_of(key, initial_multiplier=5.0, **options)
    source = learner.source(priced(0.5))
    learner.step(source)
    for optimiser in (learner.critic_optimiser, learner.policy_optimiser, learner.cost_optimiser):
        optimiser.apply = lambda: None
    batch = source(1)
    batch["discount"] = torch.zeros_like(batch["discount"])
    constant(learner.critic, 0.0)
    learner.cost_critic.grad.fill_(7.0)
    with torch.no_grad():  # a critic that says: cost = 3 a
        for weight in learner.cost_critic.weights:
            weight.zero_()
        learner.cost_critic.weights[0][:, 1, 0], learner.cost_critic.weights[0][:, 1, 1] = 1.0, -1.0
        learner.cost_critic.weights[-2][:, 0], learner.cost_critic.weights[-2][:, 1] = 3.0, -3.0
        obs = batch["obs"]
        before = learner.policy.mode(obs)
    learner.update(batch)
    with torch.no_grad():
        learner.policy.flat.sub_(1e-3 * learner.policy.grad)
        assert (learner.policy.mode(obs).mean(1) < before.mean(1)).all()


def test_a_bound_above_the_mean_is_conservative_where_the_mean_is_not():
    """Every action costs 1/2 on average. A policy that looks for cheap actions finds where the critics err: their mean
    says less than 1/2 there, four deviations above it more. (Two are too few: the members err together.)"""
    k = [0.0] * 4 + [4.0] * 4
    options = {"gamma": 0.0, "k": k, "c": 0.0, "multiplier": "projected", "multiplier_lr": 0.0, "lr": 3e-3}
    options |= {"initial_multiplier": 20.0, "limit": 0.5, "learning_starts": 200, "act_every": 10**6, "hidden": (32,)}
    learner = learner_of("cal", tuple(range(8)), torch.float32, **options, batch_size=64)
    source = learner.source(priced(0.5, noise=True))
    Runner(learner, source).advance(300)
    obs = torch.linspace(-1, 1, 200).view(1, -1, 1).expand(8, -1, -1)
    noise = Streams(range(8)).normal("judge", (200, 1))
    with torch.no_grad():
        action, _ = learner.policy.sample(obs, noise)
        excess = learner.cost(obs, action).mean(1) - 0.5
    assert excess[:4].mean() < -0.02
    assert excess[4:].mean() > 0.02


# --- exact --------------------------------------------------------------------------------------------------------


def test_ppo_lag_finds_the_optimal_randomisation_and_its_multiplier():
    """Two routes: 1 with cost 1, or 0.4 for free. At a limit of 1/2 the LP takes each half of the time; lam is 0.6."""
    mdp = instances.instance("two_routes")()
    exact = solve_cmdp(mdp, budgets=[0.5], unit="discounted")
    task = Task(
        "two-routes",
        Spec(2, Discrete(2), {"cost": ()}),
        lambda n, seed=0, device="cpu": TabularEnv(mdp, n, cost=True, max_steps=2),
        mdp=mdp,
        max_steps=2,
        metadata={"cost": {"unit": "discounted", "limits": (0.5,)}, "discount": 0.5},
    )
    options = {"hidden": (), "normalize_reward": False, "multiplier": "pid", "multiplier_lr": 0.03, "lr": 1e-2}
    options |= {"proportional": 1.0, "derivative": 0.0, "horizon": 8, "num_envs": 128, "batch_size": 1024, "epochs": 1}
    learner = learner_of("ppo_lag", (0, 1, 2), spec=task.spec, **options)
    runner = Runner(learner, learner.source(task, normalize_obs=False))
    runner.advance(300)
    fast = learner.policy.log_probs(torch.eye(2, dtype=torch.float64).expand(3, -1, -1))[:, 0, 0].exp().detach()
    reward = fast + 0.4 * (1 - fast)
    assert float(exact.lower) == pytest.approx(0.7)
    assert (fast <= 0.5 + 0.02).all(), fast
    assert (reward >= 0.9 * exact.lower).all(), reward
    np.testing.assert_allclose(learner.multiplier().squeeze(1), exact.multipliers.expand(3), rtol=0.1)
