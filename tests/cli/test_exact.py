"""The gap of a learner on tasks whose optimum is known, against enumeration of all deterministic policies."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import torch

from fenchel.algorithms import get_algorithm
from fenchel.cli.exact import annotate, annotate_budget
from fenchel.envs import make
from fenchel.envs.collect import collect
from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.tabular import TabularEnv
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve

EVERY = list(itertools.product(range(2), repeat=3))  # deterministic policies


def problem() -> TabularMDP:
    rng = Rng(0)
    return TabularMDP(rng.simplex(3, 2, 3), rng.uniform(3, 2), rng.simplex(3), 0.9)


def value(mdp: TabularMDP, actions: torch.Tensor) -> float:
    """By 3000 steps of the discounted chain."""
    states = torch.arange(3)
    kernel, reward = mdp.kernel[states, actions], mdp.r[states, actions]
    v = torch.zeros_like(reward)
    for _ in range(3000):
        v = reward + kernel @ v
    return float(mdp.mu0 @ v)


def learner(actions: torch.Tensor) -> SimpleNamespace:
    """Acts by the one-hot observation, in as many replicas as `actions` (R, S) has rows."""
    return SimpleNamespace(
        R=len(actions), device="cpu", spec=SimpleNamespace(obs_dim=3),
        act=lambda obs, deterministic: actions.gather(1, obs.argmax(-1)),
    )  # fmt: skip


def test_every_deterministic_policy_gets_its_place_in_the_range():
    mdp = problem()
    every = torch.tensor(EVERY)
    values = [value(mdp, actions) for actions in every]
    final = [{} for _ in every]
    found = annotate(mdp, learner(every), final)["exact"]
    best, worst = max(values), min(values)
    assert found["best"][0] - 1e-7 <= best <= found["best"][1] + 1e-7
    assert found["worst"][0] - 1e-7 <= worst <= found["worst"][1] + 1e-7
    for row, v in zip(final, values, strict=True):
        gap = (best - v) / (best - worst)
        assert abs(row["exact_value"] - v) < 1e-6
        assert row["gap"][0] - 1e-6 <= gap <= row["gap"][1] + 1e-6
        assert row["gap"][1] - row["gap"][0] < 1e-4
    assert min(row["gap"][0] for row in final) == 0
    assert max(row["gap"][1] for row in final) > 0.999


def test_the_methods_own_gap_is_that_of_the_policy_as_it_is():
    """At inverse temperature 0 the method is cloning: a uniform replica lacks what a clone has, a clone nothing."""
    mdp = problem()
    data = collect(TabularEnv(mdp, 20, max_steps=30), lambda obs: (obs[:, 0] > 0.5).long(), 600, check=False)
    iql = get_algorithm("iql")(Spec(3, Discrete(2)), {"hidden": (), "temperature": 0.0, "gamma": 0.9}, [0, 1])
    iql.policy.flat.zero_()
    with torch.no_grad():
        iql.policy.weights[0][1, :, 0], iql.policy.weights[0][1, 0, 0] = 50.0, -50.0
    final = [{}, {}]
    annotate(mdp, iql, final)
    assert not any("method_gap" in row for row in final)
    annotate(mdp, iql, final, data)
    values = [value(mdp, torch.tensor(actions)) for actions in EVERY]
    clone = value(mdp, torch.tensor([1, 0, 0]))
    idle = float(mdp.mu0 @ solve(mdp, "evaluation", policy=torch.full((3, 2), 0.5, dtype=torch.float64)).V)
    assert abs(final[0]["method_gap"] - (clone - idle) / (max(values) - min(values))) < 1e-5
    assert abs(final[1]["method_gap"]) < 1e-5


def test_tasks_without_a_model_and_actions_that_do_not_exist():
    mdp = problem()
    assert annotate(None, None, [{}]) == {}
    mask = torch.ones(3, 2, dtype=torch.bool)
    mask[0, 1] = False
    masked = TabularMDP(mdp.P, mdp.r, mdp.mu0, mdp.discount, mask)
    final = [{}, {}]
    annotate(masked, learner(torch.tensor([[0, 0, 0], [1, 0, 0]])), final)
    assert "gap" in final[0]
    assert final[1] == {}


class Law:
    """Stands in for a learner whose policy is known."""

    DETERMINISTIC, device = False, torch.device("cpu")

    def __init__(self, law: torch.Tensor, limits: list[float]):
        self.R, self.limits = len(law), limits
        self.spec = SimpleNamespace(obs_dim=law.shape[1])
        self.policy = SimpleNamespace(log_probs=lambda obs: torch.einsum("rns,rsa->rna", obs.double(), law).log())

    def normalise(self, obs):
        return obs

    def act(self, obs):
        return self.policy.log_probs(obs).argmax(-1)


def test_the_programs_own_policy_has_all_of_the_optimum_at_its_limit():
    task = make("conveyors")
    limits = list(task.metadata["cost"]["limits"])
    optima = [solve(task.mdp, "cmdp", budgets=[limit], unit="discounted") for limit in limits]
    final = [{} for _ in limits]
    learner = Law(torch.stack([optimum.policy for optimum in optima]), limits)
    annotate_budget(task, learner, final)
    for row, optimum, limit in zip(final, optima, limits, strict=True):
        assert abs(row["share_of_best"] - 1) < 1e-9
        assert abs(row["exact_cost"] - min(limit, optimum.extra["costs"][0])) < 1e-9
        assert row["exact_multiplier"] == optimum.multipliers[0]
    learner.DETERMINISTIC = True  # the mode of a mixture is another policy, which may break the limit
    annotate_budget(task, learner, final)
    assert abs(final[1]["exact_cost"] - limits[1]) > 0.1
    annotate_budget(make("fourrooms"), learner, final)
    unlimited = Law(torch.stack([optima[0].policy]), None)
    row = [{}]
    annotate_budget(task, unlimited, row)
    assert abs(row[0]["exact_best"] - float(optima[1].lower)) < 1e-12  # the middle limit
