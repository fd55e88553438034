"""How far a learner's greedy policy is from the optimum of a task whose MDP is known.

`gap` is a fraction of the objective's range over deterministic policies, (J* - J) / (J* - min J), as an interval: both
ends come from the solvers' two-sided bounds, so that 0 lies inside exactly where the policy may be optimal.

`method_gap` is how much the learned policy, as it is and not greedy, lacks of the one that the method's own population
equations have on this data set (`fenchel.algorithms.referees`), as the same fraction and with its sign: it says whether
the learner has converged to what its options ask for, whether or not that is any good.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fenchel.algorithms import optimum
from fenchel.algorithms.evaluation import middle_limit
from fenchel.algorithms.referees import examine, returns
from fenchel.envs.dataset import OfflineDataset
from fenchel.envs.task import Task
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.solvers import solve


def annotate(
    mdp: TabularMDP | None, learner: Any, final: list[dict[str, Any]], data: OfflineDataset | None = None
) -> dict[str, Any]:
    """Adds `exact_value` and `gap` to each replica's row, and `method_gap` where its options have an exact answer on
    `data`; returns what the summary says of the problem itself."""
    if mdp is None or mdp.batch_shape or mdp.num_channels or learner.spec.obs_dim != mdp.num_states:
        return {}
    mdp = mdp.to(device="cpu", dtype=torch.float64)
    best = bounds(mdp, solve(mdp, "discounted"))
    worst = tuple(-x for x in reversed(bounds(mdp, solve(replace_reward(mdp, -mdp.r), "discounted"))))
    narrow, wide = best[0] - worst[1], best[1] - worst[0]
    for row, policy in zip(final, policies(learner, mdp), strict=True):
        if "exact_value" in row:
            continue  # an evaluator's, of its target policy under its own discount
        if not mdp.mask.gather(-1, policy.argmax(-1, keepdim=True)).all():
            continue  # it chose an action that does not exist, which has no value
        value = bounds(mdp, solve(mdp, "evaluation", policy=policy))
        row["exact_value"] = sum(value) / 2
        if narrow > 0:
            row["gap"] = [max(0.0, best[0] - value[1]) / wide, max(0.0, best[1] - value[0]) / narrow]
    found = examine(learner, data) if data is not None and narrow > 0 and mdp.action_mask is None else None
    if found:
        learned = returns(mdp, found.policy)
        for row, exact, value in zip(final, found.exact, learned, strict=True):
            if exact:
                row["method_gap"] = float(2 * (returns(mdp, exact.policy) - value) / (narrow + wide))
    return {"exact": {"best": list(best), "worst": list(worst)}}


def annotate_budget(task: Task, learner: Any, final: list[dict[str, Any]]) -> None:
    """On a constrained task whose MDP is known, adds to each replica's row what `algorithms.optimum.judged` finds."""
    if not optimum.applies(task) or learner.spec.obs_dim != task.mdp.num_states:
        return
    limits = getattr(learner, "limits", None) or [middle_limit(task)] * learner.R
    for row, found in zip(final, optimum.judged(task, learner, limits), strict=True):
        row |= found


def bounds(mdp: TabularMDP, solution: Any) -> tuple[float, float]:
    """(lower, upper) of the value from the start distribution."""
    return float((mdp.mu0 * solution.lower).sum()), float((mdp.mu0 * solution.upper).sum())


def policies(learner: Any, mdp: TabularMDP) -> Tensor:
    """(R, S, A) one-hot: the greedy action in every state, whose observation is the one-hot state."""
    states = torch.eye(mdp.num_states, device=learner.device).expand(learner.R, -1, -1)
    actions = learner.act(states, deterministic=True).cpu()
    return torch.nn.functional.one_hot(actions, mdp.num_actions).to(mdp.dtype)
