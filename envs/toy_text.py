"""Gymnasium's toy-text environments as exact MDPs: FrozenLake, Taxi, CliffWalking, and others with a table `P`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fenchel.envs.spec import Discrete, Spec
from fenchel.envs.tabular import TabularEnv, episode_return
from fenchel.envs.task import Task
from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import solve

IDS = {"frozen-lake": "FrozenLake-v1", "taxi": "Taxi-v4", "cliff-walking": "CliffWalking-v1"}
Table = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]


def from_table(table: Table, start: Sequence[float], gamma: float) -> TabularMDP:
    """table[s][a] = [(probability, successor, reward, ends), ...]; start (S,). float64.

    Rows of one successor add up; the discount (S, A, S) is gamma times the share of them that goes on.
    """
    S, A = len(table), len(table[0])
    P = torch.zeros(S, A, S, dtype=torch.float64)
    on, r = torch.zeros_like(P), torch.zeros(S, A, dtype=torch.float64)
    for s in range(S):
        for a in range(A):
            for p, t, reward, ends in table[s][a]:
                P[s, a, t] += p
                on[s, a, t] += p * (not ends)
                r[s, a] += p * reward
    discount = torch.where(P > 0, gamma * on / P.clamp(min=torch.finfo(P.dtype).tiny), 0.0)
    return TabularMDP(P, r, torch.as_tensor(start, dtype=torch.float64), discount)


def toy_text_mdp(env: Any, gamma: float = 0.99) -> TabularMDP:
    """The MDP of a gymnasium environment with attributes `P` and `initial_state_distrib`; wrappers are looked through.

    Raises UserError for an environment without them.
    """
    inner = env.unwrapped
    if not hasattr(inner, "P") or not hasattr(inner, "initial_state_distrib"):
        raise UserError(f"env={env} has no transition table P; valid are FrozenLake, Taxi and CliffWalking.")
    return from_table(inner.P, inner.initial_state_distrib, gamma)


def task(id: str, *, gamma: float = 0.99, max_steps: int = 200) -> Task:
    """`frozen-lake`, `taxi`, `cliff-walking`: a batched environment and its exact MDP, without data."""
    import gymnasium

    mdp = toy_text_mdp(gymnasium.make(IDS[id]), gamma)
    best = solve(mdp, "discounted").policy
    random = torch.full_like(mdp.r, 1 / mdp.num_actions)
    return Task(
        id,
        Spec(mdp.num_states, Discrete(mdp.num_actions)),
        lambda n, seed=0, device="cpu": TabularEnv(mdp, n, max_steps=max_steps, device=device),
        reference=(episode_return(mdp, random, max_steps), episode_return(mdp, best, max_steps)),
        mdp=mdp,
        max_steps=max_steps,
        metadata={"discount": gamma},
    )
