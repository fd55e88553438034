"""Imitation: few demonstrations beside other people's data, told apart by a column `expert` (1 and 0).

    {fourrooms,pendulum,hopper,halfcheetah,walker2d}-imitation
        expert_episodes demonstrations, then `offline` data: "random", "medium", "medium-replay" (robots), or "none";
        expert_fraction of those rows are further episodes of the expert, not marked as such
    stitchmaze-uncovered
        demonstrations lead from the middle of the corridor to the good goal; the offline rows, random walks from the
        two starts, stop where the demonstrations begin, so that they hold no state of theirs and only touch the first

The expert is the optimal policy of a tabular task, the controller with little noise, the best snapshot of a robot.
Rewards are there for evaluation; imitation learners do not read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fenchel.envs import mujoco, pendulum
from fenchel.envs import tabular_tasks as tabular
from fenchel.envs.cache import build_once
from fenchel.envs.collect import Policy, collect
from fenchel.envs.dataset import COLUMNS, OfflineDataset
from fenchel.envs.gym import D4RL_REFERENCE, GymEnv, quiet_mujoco, task_of
from fenchel.envs.spec import Spec
from fenchel.envs.tabular import TabularEnv
from fenchel.envs.task import BatchedEnv, Step, Task
from fenchel.errors import UserError, unknown
from fenchel.theory.instances import grids
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Streams
from fenchel.theory.solvers import solve

VERSION = 1
NONE = "none"
MIDDLE = 4  # column of the stitching maze's corridor where demonstrations begin and offline episodes stop


@dataclass(frozen=True)
class Source:
    """Who can be recorded: env(n), and kinds[kind] = (policy(n, seed), largest number of copies, groups).

    Copies stand in so many equal groups. facts: of the data, for their audit. depends: what else determines the data.
    """

    task: Task
    env: Callable[[int], BatchedEnv]
    kinds: dict[str, tuple[Callable[[int, int], Policy], int, int]]
    facts: dict[str, Any]
    depends: dict[str, Any] = field(default_factory=dict)

    def record(self, kind: str, rows: int, seed: int) -> OfflineDataset:
        policy, most, groups = self.kinds[kind]
        n = groups * max(1, min(most, rows // self.task.max_steps) // groups)
        return collect(self.env(n), policy(n, seed), rows, seed=seed, meta=self.facts, check=False)

    def episodes(self, count: int, seed: int) -> OfflineDataset:
        """Whole episodes of the expert, one of each of `count` copies."""
        steps, policy = self.task.max_steps, self.kinds["expert"][0]
        data = collect(self.env(count), policy(count, seed), count * steps, seed=seed, meta=self.facts, check=False)
        first = torch.isin(data.episode_starts, torch.arange(count) * steps)
        spans = zip(data.episode_starts[first].tolist(), data.episode_ends[first].tolist(), strict=True)
        return rows_of(data, torch.cat([torch.arange(*span) for span in spans]))


def task(
    id: str,
    *,
    expert_episodes: int = 1,
    offline: str = "random",
    expert_fraction: float = 0.1,
    transitions: int = 50_000,
    data_seed: int = 0,
) -> Task:
    """`{fourrooms,pendulum,hopper,halfcheetah,walker2d}-imitation`: expert_episodes demonstrations and `transitions`
    rows of offline data, of which a share of expert_fraction is the expert's own; data_seed draws both."""
    source = SOURCES[id.removesuffix("-imitation")](id)
    kinds = [*(kind for kind in source.kinds if kind != "expert"), NONE]
    if offline not in kinds:
        raise unknown("task.offline", offline, kinds)
    if not 0 <= expert_fraction <= 1:
        raise UserError(f"task.expert_fraction={expert_fraction} is not valid; it lies between 0 and 1.")
    config = source.depends | {
        "transitions": transitions,
        "data_seed": data_seed,
        "offline": offline,
        "expert_episodes": _positive(expert_episodes),
        "expert_fraction": expert_fraction,
    }

    def build() -> OfflineDataset:
        good = 0 if offline == NONE else round(expert_fraction * transitions)
        other = 0 if offline == NONE else transitions - good
        parts = [source.record("expert", good, _seed(data_seed, "unmarked"))] if good else []
        parts += [source.record(offline, other, _seed(data_seed, "offline"))] if other else []
        return join(source.episodes(expert_episodes, _seed(data_seed, "expert")), parts)

    return replace(source.task, dataset=lambda: build_once(id, VERSION, config, build))


def uncovered_task(id: str, *, expert_episodes: int = 1, transitions: int = 20_000, data_seed: int = 0) -> Task:
    """`stitchmaze-uncovered`: expert_episodes demonstrations, which are all alike, and `transitions` offline rows."""
    source = _tabular(id)
    mdp = source.task.mdp
    assert mdp is not None
    where = grids.cells(grids.STITCHING_MAZE)
    begin = where[len(grids.STITCHING_MAZE) // 2, MIDDLE]
    beyond = torch.zeros(mdp.num_states, dtype=torch.bool)
    beyond[[s for (_, column), s in where.items() if column >= MIDDLE]] = True
    shown = replace(mdp, mu0=torch.nn.functional.one_hot(torch.tensor(begin), mdp.num_states).to(mdp.mu0))
    max_steps = source.task.max_steps
    expert = replace(source, env=lambda n: TabularEnv(shown, n, max_steps=max_steps))
    others = replace(source, env=lambda n: Fenced(mdp, n, max_steps, beyond))
    config = {"transitions": transitions, "data_seed": data_seed, "expert_episodes": _positive(expert_episodes)}

    def build() -> OfflineDataset:
        offline = others.record("random", transitions, _seed(data_seed, "offline"))
        return join(expert.episodes(expert_episodes, _seed(data_seed, "expert")), [offline])

    return replace(source.task, dataset=lambda: build_once(id, VERSION, config, build))


class Fenced(TabularEnv):
    """Stops watching where an episode enters one of the states `beyond` (S,)."""

    def __init__(self, mdp: TabularMDP, n: int, max_steps: int, beyond: Tensor):
        super().__init__(mdp, n, max_steps=max_steps)
        self.beyond = beyond

    def step(self, action: Tensor) -> Step:
        step = super().step(action)
        return step._replace(timeout=~step.terminal & (step.timeout | self.beyond[self.state]))


def join(expert: OfflineDataset, others: list[OfflineDataset]) -> OfflineDataset:
    """Demonstrations first, with the column that marks them."""
    parts = [expert, *others]
    columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in COLUMNS}
    mark = torch.zeros(len(columns["obs"]))
    mark[: len(expert)] = 1
    return OfflineDataset.from_arrays(**columns, extras={"expert": mark}, meta=expert.meta)


def rows_of(data: OfflineDataset, rows: Tensor) -> OfflineDataset:
    """These rows, which must be whole episodes."""
    return OfflineDataset(**{name: getattr(data, name)[rows] for name in COLUMNS}, meta=data.meta)


def _seed(data_seed: int, role: str) -> int:
    """Who is recorded in which role has a seed of its own."""
    return int(Streams([data_seed]).integers(f"imitation/{role}", 2**31)[0])


def _positive(episodes: int) -> int:
    if episodes < 1:
        raise UserError(f"task.expert_episodes={episodes} is not valid; it is at least 1.")
    return episodes


def _marked(task: Task, id: str) -> Task:
    return replace(task, id=id, spec=Spec(task.spec.obs_dim, task.spec.action, {"expert": ()}))


def _tabular(id: str) -> Source:
    """medium: the optimal action half of the time, else a uniform one."""
    task = tabular.env_task(id.partition("-")[0])
    mdp = task.mdp
    assert mdp is not None
    best, uniform = solve(mdp, "discounted").policy, tabular.uniform(mdp)

    def follow(policy: Tensor, n: int, seed: int) -> Policy:
        return tabular.Behaviour(tabular.Mixture(torch.ones(1, dtype=mdp.dtype), policy[None]), n, seed)

    policies = {"expert": best, "random": uniform, "medium": 0.5 * best + 0.5 * uniform}
    return Source(
        _marked(task, id),
        lambda n: TabularEnv(mdp, n, max_steps=task.max_steps),
        {kind: (partial(follow, policy), 500, 1) for kind, policy in policies.items()},
        {"reward_range": (float(mdp.r.min()), float(mdp.r.max())), "max_steps": task.max_steps},
    )


def _pendulum(id: str) -> Source:
    """medium: the controller with noise as large as half of the greatest torque."""

    def follow(noise: float, n: int, seed: int) -> Policy:
        return pendulum.Controller(torch.full((n,), noise), seed)

    noise = {"expert": 0.1, "random": float("inf"), "medium": 1.0}
    return Source(
        _marked(pendulum.env_task(id), id),
        lambda n: pendulum.Pendulum(n),
        {kind: (partial(follow, size), 500, 1) for kind, size in noise.items()},
        {"reward_range": (pendulum.LOWEST, 0.0), "max_steps": pendulum.MAX_STEPS},
    )


def _robot(id: str) -> Source:
    robot = id.partition("-")[0]
    one = partial(mujoco.make_one, robot)
    quiet_mujoco()
    base = _marked(task_of(id, one, reference=D4RL_REFERENCE[robot], max_steps=1000), id)
    dim = len(base.spec.action.low)

    def follow(kind: str, n: int, seed: int) -> Policy:
        return mujoco.Actor(robot, mujoco.members(robot, kind), n, seed)

    kinds = {
        kind: (partial(follow, kind), mujoco.COPIES, len(mujoco.members(robot, kind)))
        for kind in ("expert", "medium", "medium-replay")
    }
    kinds["random"] = (lambda n, seed: mujoco.RandomActor(dim, n, seed), mujoco.COPIES, 1)
    depends = {"actors": mujoco.actors_hash(robot)}
    return Source(base, lambda n: GymEnv(one, n, id), kinds, {"max_steps": 1000}, depends)


SOURCES: dict[str, Callable[[str], Source]] = {
    "fourrooms": _tabular,
    "pendulum": _pendulum,
    "hopper": _robot,
    "halfcheetah": _robot,
    "walker2d": _robot,
}
