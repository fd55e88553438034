"""Tabular tasks whose optimum is known: environments without data, and three with data from a stated behaviour mix.

    fourrooms-mixed   half the episodes uniform, half optimal with 50% of the actions replaced by uniform ones
    garnet-mixed      half uniform, half softmax((Q* + normal noise) / 0.5)
    stitchmaze-mixed  no episode leads from the upper start to the good goal; only joining two halves does

In every data set one policy is drawn per episode. A task counts only if both behaviour cloning (the exact mixture
policy) and the uniform policy lose more than 10% of the objective's range over deterministic policies; `exact` in the
metadata holds all of these discounted values, and a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect, copy_streams
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.progress import progress
from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.tabular import TabularEnv, episode_return, gamma_of, visits
from fenchel.envs.task import Task
from fenchel.theory import instances
from fenchel.theory.instances import grids
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve

VERSION = 1
# environment -> (instance, its options, time limit)
PROBLEMS: dict[str, tuple[str, dict[str, Any], int]] = {
    "fourrooms": ("four_rooms", {"slip": 0.1, "gamma": 0.95}, 60),
    "garnet": ("garnet", {"num_states": 50, "num_actions": 4, "branching": 3, "gamma": 0.95}, 100),
    "stitchmaze": ("stitching_maze", {"gamma": 0.95}, 30),
    "chain": ("chain", {"length": 5, "gamma": 0.95}, 100),
    "combination-lock": ("combination_lock", {"length": 6, "gamma": 0.95}, 60),
    "river-swim": ("river_swim", {"gamma": 0.95}, 100),
}


@dataclass(frozen=True)
class Mixture:
    """policies (M, S, A), one of which is drawn per episode with probabilities weights (M,)."""

    weights: Tensor
    policies: Tensor

    def cloned(self, mdp: TabularMDP, max_steps: int) -> Tensor:
        """(S, A): what perfect behaviour cloning learns, the policies weighted by their visits; uniform elsewhere."""
        pairs = zip(self.weights, self.policies, strict=True)
        total = torch.stack([w * visits(mdp, policy, max_steps) for w, policy in pairs]).sum(0)
        seen = total.sum(-1, keepdim=True) > 0
        return torch.where(seen, total / total.sum(-1, keepdim=True), 1 / total.shape[-1])


class Behaviour:
    """Acts for n copies that each follow one policy of the mixture per episode, drawn when the episode begins."""

    def __init__(self, mixture: Mixture, n: int, seed: int):
        self.weights, self.policies = mixture.weights.cumsum(0), mixture.policies.cumsum(-1)
        self.streams, self.t = copy_streams(seed, n), 0
        self.which = torch.zeros(n, dtype=torch.int64)

    def begin(self, fresh: Tensor) -> None:
        self.which = torch.where(fresh, self._draw(self.weights, "behaviour/policy"), self.which)

    def __call__(self, obs: Tensor) -> Tensor:
        action = self._draw(self.policies[self.which, obs.argmax(-1)], "behaviour/action")
        self.t += 1
        return action

    def _draw(self, cumulative: Tensor, name: str) -> Tensor:
        u = self.streams.uniform(name, (), counter=self.t, dtype=torch.float64) * cumulative[..., -1]
        return (cumulative <= u[:, None]).sum(-1)


def problem(name: str) -> tuple[TabularMDP, int]:
    """The MDP of a key of PROBLEMS and its time limit."""
    constructor, options, max_steps = PROBLEMS[name]
    build = instances.instance(constructor)
    return (build(Rng(0, name), 1, **options)[0] if name == "garnet" else build(**options)), max_steps


def uniform(mdp: TabularMDP) -> Tensor:
    return torch.full(mdp.P.shape[:-1], 1 / mdp.num_actions, dtype=mdp.dtype)


def mixture(name: str, mdp: TabularMDP) -> Mixture:
    """The behaviour mix of a data set."""
    if name == "stitchmaze":
        return _halves(mdp)
    best = solve(mdp, "discounted")
    if name == "fourrooms":
        good = 0.5 * best.policy + 0.5 * uniform(mdp)
    else:
        noise = Rng(1, name).normal(mdp.num_states, mdp.num_actions)
        good = torch.softmax((best.Q + noise) / 0.5, -1)
    return Mixture(torch.tensor([0.5, 0.5], dtype=mdp.dtype), torch.stack([uniform(mdp), good]))


def _halves(mdp: TabularMDP) -> Mixture:
    """The stitching maze: the first policy leads the upper start to `g` and leaves the lower one standing, the second
    leads the lower start to `G` and leaves the upper one standing. In the corridor both take 20% random moves.
    """
    rows, (up, right, down, left) = grids.STITCHING_MAZE, range(4)
    states, middle = grids.cells(rows), len(rows) // 2
    junction = len(rows[0]) - 2
    policies = torch.zeros(2, mdp.num_states, mdp.num_actions, dtype=mdp.dtype)
    for which, goal in enumerate((down, up)):
        for (i, j), s in states.items():
            if j == junction:
                policies[which, s, goal] = 1.0
            elif i == middle:
                policies[which, s] = 0.05
                policies[which, s, right] = 0.85
            else:  # the start branches: leave the own one, stand before the wall in the other
                own = (i < middle) == (which == 0)
                policies[which, s, (down if i < middle else up) if own else left] = 1.0
    return Mixture(torch.tensor([0.5, 0.5], dtype=mdp.dtype), policies)


def exact(mdp: TabularMDP, policies: dict[str, Tensor]) -> dict[str, float]:
    """Discounted values from mu0 of the named policies, and "best" and "worst" of all policies."""
    values = {name: float((mdp.mu0 * solve(mdp, "evaluation", policy=p).V).sum()) for name, p in policies.items()}
    values["best"] = float((mdp.mu0 * solve(mdp, "discounted").V).sum())
    values["worst"] = -float((mdp.mu0 * solve(replace_reward(mdp, -mdp.r), "discounted").V).sum())
    return values


def env_task(id: str) -> Task:
    """A tabular environment without data."""
    mdp, max_steps = problem(id)
    return _task(id, mdp, max_steps, {"uniform": uniform(mdp)})


def mixed_task(id: str, *, transitions: int = 50_000, data_seed: int = 0) -> Task:
    """`{fourrooms,garnet,stitchmaze}-mixed`. transitions and data_seed describe the data set."""
    name = id.removesuffix("-mixed")
    mdp, max_steps = problem(name)
    mix = mixture(name, mdp)
    config = {"transitions": transitions, "data_seed": data_seed}

    def build() -> OfflineDataset:
        n = max(1, min(500, transitions // max_steps))
        facts = {"reward_range": (float(mdp.r.min()), float(mdp.r.max())), "max_steps": max_steps}
        env, behaviour = TabularEnv(mdp, n, max_steps=max_steps), Behaviour(mix, n, data_seed)
        with progress(f"collecting {id}", transitions) as advance:
            return collect(env, behaviour, transitions, seed=data_seed, meta=facts, advance=advance)

    task = _task(id, mdp, max_steps, {"uniform": uniform(mdp), "cloned": mix.cloned(mdp, max_steps)})
    return replace(task, dataset=lambda: build_once(id, VERSION, config, build))


def _task(id: str, mdp: TabularMDP, max_steps: int, policies: dict[str, Tensor]) -> Task:
    """reference: exact undiscounted returns of the uniform policy and of the discounted optimum."""
    best = solve(mdp, "discounted").policy
    return Task(
        id,
        Spec(mdp.num_states, Discrete(mdp.num_actions)),
        lambda n, seed=0, device="cpu": TabularEnv(mdp, n, max_steps=max_steps, device=device),
        reference=(episode_return(mdp, policies["uniform"], max_steps), episode_return(mdp, best, max_steps)),
        mdp=mdp,
        max_steps=max_steps,
        metadata={"discount": gamma_of(mdp), "exact": exact(mdp, policies)},
    )
