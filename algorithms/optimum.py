"""Learned policies of constrained tabular tasks against the linear program at their own limit.

A policy is taken as evaluation runs it: the law of its actions, or its mode where DETERMINISTIC says so. Return and
cost are exact, discounted, in the true MDP; the optimum and its multiplier are those of `solve_cmdp`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms.learner import Learner
from fenchel.envs.task import Task
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.bellman import policy_value


def applies(task: Task) -> bool:
    """Whether the task is a constrained MDP that is known, with a discounted budget."""
    mdp = task.mdp
    known = mdp is not None and not mdp.batch_shape and mdp.num_channels == 2
    return known and task.metadata.get("cost", {}).get("unit") == "discounted"


@torch.no_grad()
def laws(learner: Learner, mdp: TabularMDP) -> Tensor:
    """(R, S, A) float64: the probabilities of actions in each state, whose observation is the one-hot state."""
    states = torch.eye(mdp.num_states, device=learner.device).expand(learner.R, -1, -1)
    if learner.DETERMINISTIC or not hasattr(learner.policy, "log_probs"):
        law = torch.nn.functional.one_hot(learner.act(states), mdp.num_actions).double()
    else:
        law = learner.policy.log_probs(learner.normalise(states)).double().exp()
    law = law.cpu()
    return law / law.sum(-1, keepdim=True)


def judged(task: Task, learner: Any, limits: list[float]) -> list[dict[str, float]]:
    """Per replica: exact_value and exact_cost of its policy, exact_best and exact_multiplier of the program at its
    limit, and share_of_best, exact_value / exact_best.

    limits (R,): in the task's unit, as `learner.limits` is. A replica whose policy is not finite has an empty entry.
    """
    assert task.mdp is not None
    mdp = task.mdp.to(device="cpu", dtype=torch.float64)
    found: list[dict[str, float]] = []
    optima = {limit: solve(mdp, "cmdp", budgets=[limit], unit="discounted") for limit in dict.fromkeys(limits)}
    for law, limit in zip(laws(learner, mdp), limits, strict=True):
        if not bool(law.isfinite().all()):
            found.append({})
            continue
        value, cost = (mdp.mu0 @ policy_value(mdp, law).T).tolist()
        best = float(optima[limit].lower)
        row = {"exact_value": value, "exact_cost": cost, "exact_best": best, "share_of_best": value / best}
        found.append(row | {"exact_multiplier": float(optima[limit].multipliers[0])})
    return found
