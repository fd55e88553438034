"""What constrained learners share: multipliers that rise and fall, and limits in the unit of each objective."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fenchel.algorithms import constraints, get_algorithm
from fenchel.algorithms.constraints import Multiplier
from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.task import Task
from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Streams

BY_MULTIPLIER = ("f_dvl_lag", "coptidice")


def owner(seeds=(0,), **config):
    """As much of a learner as constraints see."""
    config = SimpleNamespace(**({"limit": None, "unit": None, "gamma": 0.99} | config))
    rng = Streams(seeds)
    return SimpleNamespace(config=config, R=len(seeds), rng=rng, device=rng.device, dtype=torch.float64)


def task(limits=(2.0, 8.0, 40.0), unit="episode", **options):
    facts = {"cost": {"unit": unit, "limits": limits}} if limits else {}
    return Task("paid", Spec(2, Discrete(2), {"cost": ()}), None, metadata=facts, **({"max_steps": 100} | options))


# --- multipliers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "first"), [("projected", 0.5), ("log", 0.5), ("pid", 0.0)])
def test_a_multiplier_rises_over_the_budget_and_falls_below(kind, first):
    multiplier = Multiplier(owner((0, 1)), kind, lr=0.05, initial=first, proportional=0.1)
    for _ in range(10):
        multiplier.step(torch.tensor([2.0, 0.0]), 1.0)
    high, low = multiplier().flatten().tolist()
    assert high > first
    assert low < first or low == 0 == first
    for _ in range(200):
        multiplier.step(torch.tensor([-9.0, -9.0]), 1.0)
    assert (multiplier() >= 0).all()
    assert multiplier().max() < 0.03


def test_projected_steps_and_their_ends():
    multiplier = Multiplier(owner((0, 1)), lr=[0.1, 0.2], initial=1.0, ceiling=1.4)
    multiplier.step(torch.tensor([3.0, 2.0]), torch.tensor([[1.0], [1.0]]))
    assert multiplier().flatten().tolist() == pytest.approx([1.2, 1.2])
    multiplier.step(torch.tensor([9.0, -9.0]), 1.0)
    assert multiplier().flatten().tolist() == pytest.approx([1.4, 0.0])


def test_log_multiplier_solves_its_problem():
    """min x^2 subject to x >= 1: lam = 2."""
    multiplier = Multiplier(owner(), "log", lr=0.05, initial=0.1)
    for _ in range(600):
        x = multiplier() / 2
        multiplier.step(-x, -1.0)
    assert multiplier().item() == pytest.approx(2, abs=1e-3)


def test_pid_is_projected_ascent_without_its_other_gains():
    pid, plain = Multiplier(owner(), "pid", lr=0.1), Multiplier(owner(), lr=0.1)
    for cost in (3.0, 2.5, 0.0, 4.0):
        for multiplier in (pid, plain):
            multiplier.step(torch.tensor([cost]), 1.0)
    torch.testing.assert_close(pid(), plain())
    eager = Multiplier(owner(), "pid", lr=0.1, proportional=1.0, derivative=2.0)
    eager.step(torch.tensor([3.0]), 1.0)
    assert eager().item() == pytest.approx(1.0 * 2 + 0.1 * 2 + 2.0 * 3)


def test_a_frozen_multiplier_stands_still():
    for kind in ("projected", "log", "pid"):
        multiplier = Multiplier(owner((0, 1)), kind, lr=0.1, initial=0.5 if kind == "log" else 0.0)
        multiplier.freeze({0})
        before = multiplier()
        multiplier.step(torch.tensor([5.0, 5.0]), 1.0)
        assert (multiplier() != before).flatten().tolist() == [False, True]


@pytest.mark.parametrize(("kind", "what"), [("log", "valid is above 0"), ("newton", "multiplier=newton")])
def test_multipliers_that_make_no_sense_are_refused(kind, what):
    with pytest.raises(UserError, match=what):
        Multiplier(owner(), kind, lr=0.1)


@pytest.mark.parametrize("key", BY_MULTIPLIER)
def test_all_cost_raises_the_multiplier_and_no_cost_lowers_it(key, make, tasks):
    """Data in which every step costs 1, and the same data in which none does; the limit is a tenth of all steps."""
    data, found = tasks["discrete"].dataset(), []
    for cost in (1.0, 0.0):
        paid = replace(data, extras={"cost": torch.full((len(data),), cost)})
        options = {"limit": 0.1, "unit": "normalised", "initial_multiplier": 0.5, "lr": 0.01, "hidden": (16,)}
        learner = make(key, "discrete", gamma=0.5, **options)
        source = learner.sampler(paid)
        for _ in range(150):
            losses = learner.step(source)
        found.append(losses["multiplier"].item())
    assert found[0] > 0.5 > found[1]


@pytest.mark.parametrize("key", [*BY_MULTIPLIER, "cpq"])
def test_the_multiplier_is_logged_and_saved(key, make, advance, tmp_path):
    learner = make(key, "discrete", limit=0.0)
    logged = advance(learner, "discrete", 5)["multiplier"]
    own = learner.alpha if key == "cpq" else learner.multiplier
    assert logged.item() == own().item()
    learner.save(tmp_path / "learner")
    loaded = get_algorithm(key).load(tmp_path / "learner")
    assert (loaded.alpha if key == "cpq" else loaded.multiplier)().item() == logged.item()


# --- limits ---------------------------------------------------------------------------------------------------------


def test_limits_reach_each_objective_in_its_own_unit():
    """8 per episode of 100 steps is 0.08 per step: 8 discounted at 0.99, 0.08 normalised."""
    limits, budget = constraints.bind(owner(), task(), "discounted")
    assert limits == [8.0]
    assert budget.item() == pytest.approx(8.0, rel=1e-12)
    for key, exact in (("cpq", 8.0), ("f_dvl_lag", 8.0), ("coptidice", 0.08)):
        learner = get_algorithm(key)(task().spec, {"hidden": (3,)}, dtype=torch.float64)
        learner.bind(task())
        held = learner.budget.frozen() if key == "cpq" else learner.h.budget
        assert held.item() == pytest.approx(exact, rel=1e-12), key
        assert learner.limits == [8.0]


@pytest.mark.parametrize(
    ("unit", "limit", "normalised"), [("discounted", 3.0, 0.3), ("normalised", 0.3, 0.3), ("average", 0.3, 0.3)]
)
def test_a_given_limit_may_be_in_another_unit_than_the_tasks(unit, limit, normalised):
    limits, budget = constraints.bind(owner(limit=limit, unit=unit, gamma=0.9), task(), "normalised")
    assert limits == pytest.approx([30.0], rel=1e-12)  # per episode of 100, in which evaluation counts
    assert budget.item() == pytest.approx(normalised, rel=1e-12)


def test_replicas_have_limits_and_discounts_of_their_own():
    limits, budget = constraints.bind(owner((0, 1), limit=[1.0, 2.0], gamma=[0.9, 0.5]), task(), "discounted")
    assert limits == [1.0, 2.0]
    np.testing.assert_allclose(budget.flatten(), [0.01 / 0.1, 0.02 / 0.5])


def test_a_budget_is_known_without_a_task_where_no_clock_is_needed():
    assert constraints.budget(owner(limit=3.0, unit="discounted"), "normalised").item() == pytest.approx(0.03)
    assert math.isnan(constraints.budget(owner(limit=3.0, unit="episode"), "discounted").item())
    assert math.isnan(constraints.budget(owner(), "discounted").item())


@pytest.mark.parametrize("key", [*BY_MULTIPLIER, "cpq"])
def test_a_learner_that_does_not_know_its_limit_is_not_fitted(key, make, tasks):
    data = tasks["discrete"].dataset()
    with pytest.raises(UserError, match="does not know its limit; bind it to a task, or give limit and unit"):
        make(key, "discrete").fit(data, 2)
    losses = make(key, "discrete", limit=1.0, unit="discounted").fit(data, 2)
    assert all(np.isfinite(value).all() for value in losses.values())


def chain_task():
    """One state, two actions that cost 1 and 3 for ever."""
    mdp = TabularMDP(
        torch.ones(1, 2, 1, dtype=torch.float64),
        torch.tensor([[[1.0, 2.0]], [[1.0, 3.0]]], dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
        0.9,
    )
    return replace(task((5.0, 15.0, 25.0), "discounted"), mdp=mdp)


def test_a_limit_that_no_policy_meets_is_refused_with_its_certificate():
    with pytest.raises(UserError, match=r"limit=5 .*discounted, cannot be met: .* exceeds .* by 5\."):
        constraints.bind(owner(limit=5.0, gamma=0.9), chain_task(), "discounted")
    assert constraints.bind(owner(gamma=0.9), chain_task(), "discounted")[0] == [15.0]


def test_limits_that_do_not_fit_are_refused(tasks):
    costless = Task("free", Spec(2, Discrete(2)), None)
    with pytest.raises(UserError, match="needs costs, and env=free has none"):
        constraints.bind(owner(), costless, "discounted")
    with pytest.raises(UserError, match="env=paid declares no limit of its costs"):
        constraints.bind(owner(), task(None), "discounted")
    with pytest.raises(UserError, match=r"limit=25 does not fit unit=normalised: a step costs at most"):
        constraints.bind(owner(limit=25.0, unit="normalised"), tasks["discrete"], "discounted")
