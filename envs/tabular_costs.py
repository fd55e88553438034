"""Constrained tabular tasks whose optimum is known at every limit: data from three kinds of behaviour, mixed.

    hazard-rooms-mixed  four rooms: the short way leads through a room where every step costs 1
    cmdp-garnet-mixed   30 states, 4 actions, rewards and costs uniform in [0, 1]
    conveyors-mixed     deterministic; conveyors lead into the hazards, so that the largest safe set is not what is free

An episode follows one of three policies, each with 40% uniform actions unless it is all uniform: *reckless*, the best
without a limit; *cautious*, the best when the price of costs is twice that of the tight limit; *random*. All pairs of
state and action that matter occur many times: the linear program of the data has nearly the optimum of the true one.

Budgets are discounted, as the linear program's are. Limits lie 20% (tight), 50% (middle) and 120% (loose, which does
not bind) of the way from the least cost of any policy to the cost of the reckless one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fenchel.envs.cache import build_once
from fenchel.envs.collect import collect
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.progress import progress
from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.tabular import TabularEnv, episode_return, gamma_of
from fenchel.envs.tabular_tasks import Behaviour, Mixture, uniform
from fenchel.envs.task import Task
from fenchel.theory import instances
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve

VERSION = 1
# environment -> (instance, its options, time limit)
PROBLEMS: dict[str, tuple[str, dict[str, Any], int]] = {
    "hazard-rooms": ("hazard_rooms", {"slip": 0.1, "gamma": 0.95, "goal": (8, 9)}, 100),
    "cmdp-garnet": ("constrained_garnet", {"num_states": 30, "num_actions": 4, "branching": 3, "gamma": 0.95}, 100),
    "conveyors": ("conveyors", {"gamma": 0.95}, 60),
}
SHARES = (0.2, 0.5, 1.2)  # where limits lie between the least cost and the reckless policy's
RANDOM = 0.4  # the share of uniform actions of reckless and cautious episodes


def problem(name: str) -> tuple[TabularMDP, int]:
    """The constrained MDP, r (2, S, A), of a key of PROBLEMS and its time limit."""
    constructor, options, max_steps = PROBLEMS[name]
    build = instances.instance(constructor)
    drawn = constructor == "constrained_garnet"
    return (build(Rng(0, name), 1, **options)[0] if drawn else build(**options)), max_steps


def best(mdp: TabularMDP, price: float) -> Tensor:
    """(S, A): the best policy when a cost of 1 is worth a reward of `price`."""
    return solve(replace_reward(mdp, mdp.r[0] - price * mdp.r[1]), "discounted").policy


def value(mdp: TabularMDP, channel: int, policy: Tensor) -> float:
    """Discounted, from the start."""
    return float((mdp.mu0 * solve(mdp.channel(channel), "evaluation", policy=policy).V).sum())


@lru_cache
def limits(name: str) -> tuple[float, ...]:
    """Tight, middle, loose; three significant digits."""
    mdp, _ = problem(name)
    least = -float((mdp.mu0 * solve(replace_reward(mdp, -mdp.r[1]), "discounted").V).sum())
    most = value(mdp, 1, best(mdp, 0.0))
    return tuple(float(f"{max(least, 0.0) + share * (most - least):.3g}") for share in SHARES)


def mixture(name: str, mdp: TabularMDP) -> Mixture:
    """Reckless, cautious and random episodes, equally likely."""
    price = solve(mdp, "cmdp", budgets=[limits(name)[0]], unit="discounted").multipliers[0]
    even = uniform(mdp)
    noisy = [(1 - RANDOM) * best(mdp, float(p)) + RANDOM * even for p in (0.0, 2 * price)]
    return Mixture(torch.full((3,), 1 / 3, dtype=mdp.dtype), torch.stack([*noisy, even]))


def env_task(id: str) -> Task:
    """A constrained tabular environment without data."""
    return _task(id, id)


def mixed_task(id: str, *, transitions: int = 100_000, data_seed: int = 0) -> Task:
    """`{hazard-rooms,cmdp-garnet,conveyors}-mixed`. transitions and data_seed describe the data set."""
    name = id.removesuffix("-mixed")
    task = _task(id, name)
    mdp, max_steps = task.mdp, task.max_steps
    assert mdp is not None
    config = {"transitions": transitions, "data_seed": data_seed}

    def build() -> OfflineDataset:
        n = max(1, min(500, transitions // max_steps))
        facts = {"reward_range": (float(mdp.r[0].min()), float(mdp.r[0].max())), "max_steps": max_steps}
        facts |= {"budget_kind": task.metadata["cost"]["unit"]}
        env = TabularEnv(mdp, n, max_steps=max_steps, cost=True)
        behaviour = Behaviour(mixture(name, mdp), n, data_seed)
        with progress(f"collecting {id}", transitions) as advance:
            return collect(env, behaviour, transitions, seed=data_seed, meta=facts, advance=advance)

    return replace(task, dataset=lambda: build_once(id, VERSION, config, build))


def _task(id: str, name: str) -> Task:
    """reference: exact undiscounted returns of the uniform policy and of the best one without a limit."""
    mdp, max_steps = problem(name)
    reward = mdp.channel(0)
    returns = [episode_return(reward, policy, max_steps) for policy in (uniform(mdp), best(mdp, 0.0))]
    return Task(
        id,
        Spec(mdp.num_states, Discrete(mdp.num_actions), {"cost": ()}),
        lambda n, seed=0, device="cpu": TabularEnv(mdp, n, max_steps=max_steps, cost=True, device=device),
        reference=(returns[0], returns[1]),
        mdp=mdp,
        max_steps=max_steps,
        metadata={"discount": gamma_of(mdp), "cost": {"unit": "discounted", "limits": limits(name)}},
    )
