"""Constrained learners on tables against the linear program over occupancies, by HiGHS in NumPy.

One-hot states, linear networks, every transition in every batch. The program knows nothing of `theory`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tables import batch

from fenchel.algorithms import get_algorithm
from fenchel.envs.spec import Discrete, Spec

STATES, ACTIONS, GAMMA = 3, 2, 0.6
REWARD = np.array([[1.0, 0.1], [0.3, 2.0], [0.2, 0.4]])
COST = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]])
NEXT = np.array([[1, 2], [2, 0], [0, 1]])
COUNT = np.array([[3, 1], [2, 2], [1, 3]])  # rows of the data per (s, a)
START = np.array([0, 0, 1])
LIMITS = (0.2, 0.6, 1.2)  # discounted; without a limit the best policy costs more


def flow():
    """(S, S * A) and (S,): the occupancies d >= 0 with A d = b."""
    s, a = (x.ravel() for x in np.indices((STATES, ACTIONS)))
    return np.eye(STATES)[s].T - GAMMA * np.eye(STATES)[NEXT[s, a]].T, np.bincount(START, minlength=STATES) / len(START)


@cache
def program(limit):
    """Value and multiplier of max <d, r> with <d, c> <= limit."""
    a, b = flow()
    found = linprog(-REWARD.ravel(), COST.ravel()[None], [limit], a, b, method="highs")
    return -found.fun, -found.ineqlin.marginals[0]


def outcome(pi):
    """Exact discounted reward and cost of a policy (S, A)."""
    follow = np.einsum("sa,sat->st", pi, np.eye(STATES)[NEXT])
    visits = np.linalg.solve(np.eye(STATES) - GAMMA * follow.T, flow()[1])
    d = visits[:, None] * pi
    return (d * REWARD).sum(), (d * COST).sum()


def rows():
    s, a = (x.ravel() for x in np.indices((STATES, ACTIONS)))
    s, a = np.repeat(s, COUNT.ravel()), np.repeat(a, COUNT.ravel())
    found = batch(s, a, REWARD[s, a], NEXT[s, a], GAMMA, STATES, start_obs=np.tile(START, len(s) // len(START)))
    return found | {"cost": torch.as_tensor(COST[s, a]).unsqueeze(0)}


def learn(key, steps=1200, limits=LIMITS, **options):
    """One replica per limit, all on the same rows; step sizes fall."""
    limited = {"limit": list(limits), "unit": "discounted"} if limits else {}
    common = {"hidden": (), "gamma": GAMMA, "lr": 0.05, "lr_schedule": "cosine", "lr_steps": steps}
    seeds = [0] * max(1, len(limits))
    learner = get_algorithm(key)(
        Spec(STATES, Discrete(ACTIONS)), common | limited | options, seeds, dtype=torch.float64
    )
    data = {name: column.expand(len(seeds), *column.shape[1:]) for name, column in rows().items()}
    for _ in range(steps):
        losses = learner.update(data)
    return learner, losses


def policies(learner):
    """(R, S, A)"""
    obs = torch.eye(STATES, dtype=torch.float64).expand(learner.R, -1, -1)
    if hasattr(learner.policy, "log_probs"):
        return learner.policy.log_probs(obs).detach().exp().numpy()
    return np.eye(ACTIONS)[learner.policy.mode(obs).numpy()]


LAGRANGIAN = {
    "f_dvl_lag": {"steps": 2500, "temperature": 0.018, "tau": 1.0, "lr": 0.02, "multiplier_lr": 0.008}
    | {"initial_multiplier": 1.5},
    "coptidice": {"steps": 1200, "temperature": 0.02, "radius": None, "multiplier_lr": 0.3, "initial_multiplier": 0.0},
}


@pytest.mark.parametrize("key", LAGRANGIAN)
def test_reward_cost_and_multiplier_are_the_programs(key):
    learner, losses = learn(key, **LAGRANGIAN[key])
    most = outcome(np.eye(ACTIONS)[COST.argmax(1)])[1]
    for i, (limit, pi) in enumerate(zip(LIMITS, policies(learner), strict=True)):
        (value, lam), (reward, cost) = program(limit), outcome(pi)
        assert lam > 0
        assert cost <= limit + 0.02 * most, (limit, cost)
        assert reward >= 0.9 * value, (limit, reward, value)
        assert losses["multiplier"][i].item() == pytest.approx(lam, rel=0.1), limit
        scale = 1 - GAMMA if key == "coptidice" else 1
        assert losses["cost"][i].item() == pytest.approx(scale * limit, rel=0.15)  # in the unit of the objective


def test_a_loose_limit_leaves_the_best_policy_and_no_multiplier():
    learner, losses = learn("coptidice", limits=(5.0,), **LAGRANGIAN["coptidice"] | {"steps": 800})
    assert losses["multiplier"].item() == 0
    assert outcome(policies(learner)[0])[0] >= 0.98 * program(5.0)[0]


def test_a_bound_on_the_cost_makes_coptidice_cautious():
    """The larger the ball around the data, the less is spent of one limit."""
    options = {"temperature": 0.3, "multiplier_lr": 0.05, "initial_multiplier": 1.0, "bound_lr": 0.05}
    learner, losses = learn("coptidice", 600, (0.6,) * 3, radius=[0.001, 0.01, 0.05], **options)
    spent = [outcome(pi)[1] for pi in policies(learner)]
    assert 0.6 > spent[0] > spent[1] > spent[2] > 0.5, spent
    np.testing.assert_allclose(losses["cost_bound"], 0.24, atol=0.005)
    assert (losses["cost_bound"] >= losses["cost"]).all()


def test_fisor_pays_nothing_and_earns_what_can_be_earned_then():
    learner, _ = learn("fisor", 600, (), tau=0.3, ema=0.1)
    reward, cost = outcome(policies(learner)[0])
    assert cost < 0.01
    assert reward >= 0.98 * program(0.0)[0]


def test_fisor_reaches_the_fixed_point_of_its_feasibility():
    """Q_h = (1 - gamma) h + gamma max(h, V_h(s')), V_h the expectile that leans to the least; NumPy."""
    h = np.where(COST > 0, 2.0, -1.0)
    v = np.zeros(STATES)
    for _ in range(60):
        q = (1 - GAMMA) * h + GAMMA * np.maximum(h, v[NEXT])
        for s in range(STATES):
            for _ in range(50):  # the weighted mean whose weights are its own
                weight = COUNT[s] * np.where(q[s] < v[s], 0.8, 0.2)
                v[s] = weight @ q[s] / weight.sum()
    learner, _ = learn("fisor", 800, (), tau=0.3, violation=2.0, reach_expectile=0.8)
    obs = torch.eye(STATES, dtype=torch.float64).unsqueeze(0)
    np.testing.assert_allclose(learner.reach_value(obs)[0].detach(), v, atol=0.03)
    np.testing.assert_allclose(learner.reach_target.table(obs)[0].mean(0).detach(), q, atol=0.03)


def test_cpq_keeps_the_limit_and_earns_more_where_it_is_loose():
    learner, _ = learn("cpq", 600, tau=0.3)
    found = [outcome(pi) for pi in policies(learner)]
    assert all(cost <= limit for limit, (_, cost) in zip(LIMITS, found, strict=True))
    assert found[0][0] >= 0.98 * program(0.0)[0]
    assert found[2][0] > found[0][0] + 0.2
