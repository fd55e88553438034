"""Multi-objective tabular tasks: mo-gymnasium's, step for step, with their exact MDP and front.

    deep-sea-treasure           convex values (Yang et al. 2019);   treasure, -1 per step
    deep-sea-treasure-concave   Vamplew et al. 2011
    resource-gathering          Barrett and Narayanan 2008;         -1 when killed, gold, gem
    fruit-tree                  Yang et al. 2019, task.depth 5-7;   six nutrients

`metadata`: objectives (K), objective_names, reference_point, discount, and front(), the exact front of returns from the
start, discounted by `discount`, (N, K) float64. That is the Pareto set of deterministic policies, and for resource
gathering the convex coverage set (at discount .99 policies that remember 19 steps reach nothing else: a test).

    <id>-mixed   the data set: half the episodes uniform, half by the best policy for one of the weights on a lattice,
                 each as likely, with every action replaced by a uniform one with probability 1/2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.tabular_tasks import Behaviour, Mixture, uniform
from fenchel.envs.task import Step, Task
from fenchel.errors import UserError
from fenchel.theory.fronts import check_reference, lattice
from fenchel.theory.instances import multi_objective as instances
from fenchel.theory.instances.build import Outcomes
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Streams
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_iteration
from fenchel.theory.solvers.coverage import scalarised

VERSION = 1
MIXED = "-mixed"
DIVISIONS = {2: 10, 3: 4, 6: 2}  # of the lattice of weights that the data sets are made with, by objectives


@dataclass(frozen=True)
class Problem:
    """outcomes(*arguments); front: the criterion of `solve` and its options."""

    outcomes: Callable[..., Outcomes]
    arguments: tuple
    names: tuple[str, ...]
    reference_point: tuple[float, ...]
    max_steps: int
    front: tuple[str, tuple[tuple[str, Any], ...]]


# Every treasure is within 19 steps, and a policy that takes longer loses in both objectives.
SEA = (("treasure", "time"), (0.0, -50.0), 100, ("pareto", (("horizon", 20),)))
GATHERING = (("death", "gold", "gem"), (-1.0, -1.0, -1.0), 100, ("coverage", ()))
TREE = (("protein", "carbs", "fats", "vitamins", "minerals", "water"), (0.0,) * 6, 10, ("pareto", ()))
PROBLEMS: dict[str, Problem] = {
    "deep-sea-treasure": Problem(instances.deep_sea_treasure_outcomes, ("convex",), *SEA),
    "deep-sea-treasure-concave": Problem(instances.deep_sea_treasure_outcomes, ("concave",), *SEA),
    "resource-gathering": Problem(instances.resource_gathering_outcomes, (), *GATHERING),
    "fruit-tree": Problem(instances.fruit_tree_outcomes, (6,), *TREE),
}


class OutcomeEnv:
    """n copies of a problem given by its outcomes; a BatchedEnv whose rewards are (n, K).

    A step pays what its own outcome pays (`TabularEnv` pays the mean over outcomes), and ends in a terminal state.
    Observations are one-hot states. `state` (n,) int64. A step of copy i is a function of its reset seed and age.
    """

    def __init__(self, outcomes: Outcomes, n: int, *, max_steps: int = 100, device: torch.device | str = "cpu"):
        self.n, self.max_steps, self.device = n, max_steps, torch.device(device)
        self.spec = Spec(outcomes.num_states, Discrete(outcomes.num_actions), objectives=outcomes.channels)
        self.start, self._actions = outcomes.start, outcomes.num_actions
        self._next, self._pays, self._ends, self._cumulative = (t.to(self.device) for t in _tables(outcomes))
        self._rows = torch.eye(outcomes.num_states, device=device)
        self.state = torch.full((n,), self.start, dtype=torch.int64, device=device)
        self.t = torch.zeros(n, dtype=torch.int64, device=device)
        self.seeds = torch.zeros(n, dtype=torch.int64, device=device)

    def reset(self, seeds: Tensor, mask: Tensor | None = None) -> Tensor:
        mask = torch.ones(self.n, dtype=torch.bool, device=self.device) if mask is None else mask
        self.seeds = torch.where(mask, seeds.to(self.device), self.seeds)
        self.state = self.state.masked_fill(mask, self.start)
        self.t = self.t.masked_fill(mask, 0)
        return self._rows.index_select(0, self.state)

    def step(self, action: Tensor) -> Step:
        row = self.state * self._actions + action.to(self.device)
        outcomes = self._cumulative.shape[1] + 1
        if outcomes > 1:
            u = Streams(self.seeds, self.device).uniform("outcome/step", (), self.t[:, None], torch.float64)
            row = row * outcomes + (self._cumulative.index_select(0, row) <= u[:, None]).sum(1)
        self.state, self.t = self._next.index_select(0, row), self.t + 1
        reward, terminal = self._pays.index_select(0, row), self._ends.index_select(0, row)
        timeout = ~terminal & (self.t >= self.max_steps)
        return Step(self._rows.index_select(0, self.state), reward, terminal, timeout, {})


def _tables(outcomes: Outcomes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every outcome of every pair, in rows (S A B): next state, reward (., K), whether it ends; and (S A, B - 1) the
    distribution function over a pair's outcomes."""
    S, A, K = outcomes.num_states, outcomes.num_actions, outcomes.channels or 1
    found: list[list] = [[] for _ in range(S * A)]
    for s, a, t, p, reward in outcomes.rows:
        found[s * A + a].append((t, p, reward))
    B = max(map(len, found))
    following = (torch.arange(S * A) // A)[:, None].repeat(1, B)  # a terminal state stays as it is
    pays, cumulative = torch.zeros(S * A, B, K), torch.full((S * A, B - 1), torch.inf, dtype=torch.float64)
    for pair, rows in enumerate(found):
        total = 0.0
        for j, (t, p, reward) in enumerate(rows):
            following[pair, j], pays[pair, j], total = t, torch.as_tensor(reward), total + p
            if j < len(rows) - 1:
                cumulative[pair, j] = total
    ends = torch.zeros(S, dtype=torch.bool)
    ends[list(outcomes.terminal)] = True
    following = following.flatten()
    return following, pays.flatten(0, 1), ends[following], cumulative


@cache
def _solved(id: str, arguments: tuple, gamma: float) -> tuple[Outcomes, TabularMDP, Callable[[], Tensor]]:
    problem = PROBLEMS[id]
    outcomes = problem.outcomes(*arguments)
    mdp = outcomes.mdp(gamma)
    criterion, options = problem.front
    front = cache(lambda: solve(mdp, criterion, **dict(options)).extra["vectors"])
    return outcomes, mdp, front


def task(id: str, *, gamma: float = 0.99, reference_point: Sequence[float] | None = None) -> Task:
    """gamma: the discount of the MDP and of the front. reference_point: of the hypervolume; below the whole front."""
    return _task(id, PROBLEMS[id].arguments, gamma, reference_point)


def tree_task(id: str, *, depth: int = 6, gamma: float = 0.99, reference_point: Sequence[float] | None = None) -> Task:
    """`fruit-tree`; depth 5, 6 or 7."""
    if depth not in instances.TREES:
        raise UserError(f"task.depth={depth} is not valid; valid are {', '.join(map(str, instances.TREES))}.")
    return _task(id, (depth,), gamma, reference_point)


def mixed_task(
    id: str,
    *,
    gamma: float = 0.99,
    reference_point: Sequence[float] | None = None,
    transitions: int = 20_000,
    data_seed: int = 0,
) -> Task:
    """`<id>-mixed`. transitions and data_seed describe the data set, and gamma too, since its policies depend on it."""
    name = id.removesuffix(MIXED)
    base = _task(name, PROBLEMS[name].arguments, gamma, reference_point)
    config = {"transitions": transitions, "data_seed": data_seed, "gamma": gamma}

    def build() -> OfflineDataset:
        n = max(1, min(200, transitions // base.max_steps))
        facts = {"max_steps": base.max_steps}
        behaviour = Behaviour(mixture(base.mdp), n, data_seed)
        return collect(base.make_vec(n), behaviour, transitions, seed=data_seed, meta=facts)

    return replace(base, id=id, dataset=lambda: build_once(id, VERSION, config, build))


def mixture(mdp: TabularMDP) -> Mixture:
    """The uniform policy with probability 1/2, else one that is best for some weights, half uniform itself."""
    weights = lattice(len(mdp.r), DIVISIONS[len(mdp.r)])
    _, actions, _ = policy_iteration(scalarised(mdp, weights))
    best = torch.nn.functional.one_hot(actions, mdp.num_actions).to(mdp.dtype)
    policies = torch.cat([uniform(mdp)[None], 0.5 * best + 0.5 * uniform(mdp)])
    share = torch.full((len(policies),), 0.5 / len(best), dtype=mdp.dtype)
    share[0] = 0.5
    return Mixture(share, policies)


def _task(id: str, arguments: tuple, gamma: float, reference_point: Sequence[float] | None) -> Task:
    if not 0 < gamma < 1:
        raise UserError(f"task.gamma={gamma:g} is out of range; valid is a number between 0 and 1, ends excluded.")
    problem = PROBLEMS[id]
    outcomes, mdp, front = _solved(id, arguments, gamma)
    chosen = problem.reference_point
    if reference_point is not None:
        chosen = tuple(check_reference(front(), reference_point, "task.reference_point").tolist())
    return Task(
        id,
        Spec(mdp.num_states, Discrete(mdp.num_actions)),
        lambda n, seed=0, device="cpu": OutcomeEnv(outcomes, n, max_steps=problem.max_steps, device=device),
        mdp=mdp,
        max_steps=problem.max_steps,
        metadata={
            "discount": gamma,
            "objectives": len(problem.names),
            "objective_names": problem.names,
            "reference_point": chosen,
            "front": front,
        },
    )
