"""Gold reward against KL: what recipes make of preferences, beside the best that any policy can do at the same KL.

The task can be enumerated and has a gold reward r that no rule explains. Two answers of the warm start are compared by
Bradley and Terry's law, P(y beats y') = sigmoid(r(y) - r(y')): once per pair for the offline recipes, on fresh answers
for the game. Both numbers are exact sums over all answers to all training prompts.

Referee: at a given mean KL no policy earns more than pi_b(y | x) ~ ref(y | x) exp(r(x, y) / b), which traces the
frontier as b goes from infinity to 0; in NumPy, from the warm start's probabilities and the rewards alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from fenchel.algorithms.studies import Row, Study
from fenchel.llm.evaluation import table
from fenchel.llm.tasks import make
from fenchel.llm.tasks.task import TokenTask
from fenchel.llm.training import TokenLearner, get_learner

SEEDS, STEPS = 5, 200
TASK = {"id": "llm/sort", "enumerable": True, "reward": "gold"}
MODEL = {"width": 32, "layers": 2, "sft_steps": 30, "sft_noise": 0.0}
TRAINING = {"lr": 1e-3, "lr_schedule": "linear", "verdicts": "bradley_terry"}
PAIRS = {"prompts": 64, "pair_answers": 1024}  # 8 prompts with 512 pairs each
GAME = {"prompts": 8, "answers": 16}
STRENGTHS = np.geomspace(100, 0.01, 200)  # of the frontier's KL


@dataclass(frozen=True)
class Case:
    """A recipe, and the values of the option that says how far it goes."""

    name: str
    algo: str
    option: str
    values: tuple[float, ...]
    fixed: dict[str, Any]


CASES = (
    Case("DPO", "dpo", "beta", (0.1, 0.3, 1.0, 3.0), PAIRS),
    Case("IPO", "ipo", "tau", (0.03, 0.1, 0.3, 1.0), PAIRS),
    Case("SimPO", "simpo", "beta", (0.5, 1.0, 2.0, 5.0), PAIRS | {"margin": 0.5}),
    Case("f-DPO, Jensen-Shannon", "f_dpo", "beta", (0.1, 0.3, 1.0, 3.0), PAIRS | {"divergence": "js"}),
    Case("Nash-MP", "nash_mp", "beta", (0.03, 0.1, 0.3, 1.0), GAME),
)


def frontier(log_ref: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(KL, reward), both rising, of pi_b for b in STRENGTHS; log_ref and reward (X, Y), means over prompts."""
    points = [(0.0, float((np.exp(log_ref) * reward).sum(1).mean()))]
    for b in STRENGTHS:
        tilted = log_ref + reward / b
        log_pi = tilted - logsumexp(tilted, axis=1, keepdims=True)
        points.append(values_of(log_pi, log_ref, reward))
    kl, best = np.array(points).T
    return kl, best


def values_of(log_pi: np.ndarray, log_ref: np.ndarray, reward: np.ndarray) -> tuple[float, float]:
    """KL and reward of one policy (X, Y)."""
    pi = np.exp(log_pi)
    return float((pi * (log_pi - log_ref)).sum(1).mean()), float((pi * reward).sum(1).mean())


@torch.no_grad()
def laws(learner: TokenLearner, task: TokenTask) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (R, X, Y) of every answer to every training prompt, and the warm start's (X, Y)."""
    prompts = task.problems("train").prompts
    own, first = (
        task.tree.sequence_log_probs(table(policy, task, prompts)).numpy()
        for policy in (learner.policy, learner.first_policy())
    )
    return own, first[0]


def case_row(case: Case, seeds: int = SEEDS, steps: int = STEPS) -> Iterator[Row]:
    """Train replicas of all values at once; one row per value."""
    task = make(**TASK)
    values = [value for value in case.values for _ in range(seeds)]
    options = MODEL | TRAINING | case.fixed | {case.option: values}
    learner = get_learner(case.algo)(task.spec, options, list(range(seeds)) * len(case.values))
    learner.schedule(steps)
    source, started = learner.source(task), time.process_time()
    for _ in range(steps):
        learner.step(source)
    seconds = time.process_time() - started
    log_pi, log_ref = laws(learner, task)
    reward = task.problems("train").earned.numpy()
    kl, best = frontier(log_ref, reward)
    found = np.array([values_of(one, log_ref, reward) for one in log_pi]).reshape(len(case.values), seeds, 2)
    for value, points in zip(case.values, found, strict=True):
        most = np.interp(points[:, 0], kl, best)
        yield {
            "recipe": case.name, "option": f"{case.option}={value:g}",
            "KL": points[:, 0].tolist(), "gold reward": points[:, 1].tolist(),
            "most at this KL": float(most.mean()),
            "share of the gain %": (100 * (points[:, 1] - best[0]) / (most - best[0])).tolist(),
            "CPU s": seconds / len(case.values),
        }  # fmt: skip


def rows() -> Iterator[Row]:
    for case in CASES:
        yield from case_row(case)
    yield from exact_rows()


def exact_rows(count: int = 12) -> Iterator[Row]:
    """The warm start, and points of the frontier."""
    task = make(**TASK)
    learner = get_learner("dpo")(task.spec, MODEL, [0])
    learner.bind(task)
    _, log_ref = laws(learner, task)
    kl, best = frontier(log_ref, task.problems("train").earned.numpy())
    for i in np.linspace(0, len(kl) - 1, count).round().astype(int):
        name = f"b={STRENGTHS[i - 1]:.3g}" if i else "the warm start"
        yield {"recipe": "exact optimum", "option": name, "KL": float(kl[i]), "gold reward": float(best[i])}


INTRO = """\
What five recipes make of preferences by Bradley and Terry's law of a gold reward, beside the most that any policy earns
at the same KL (`exact optimum`, ref exp(r / b)). The task is `llm/sort` with `task.enumerable=true task.reward=gold`:
8 prompts, 781 answers to each; rewards have variance 1 over all answers. The policy is a transformer of width 32 with
two layers, begun at a warm start of 30 updates; 200 updates of step size 0.001, falling linearly; five replicas. The
first four recipes see up to 4,096 labelled pairs of the warm start's answers, 64 in an update; Nash-MP compares 128
fresh answers in an update. KL and gold reward are exact, on the prompts that were trained on; `share of the gain` is
what was gained over the warm start, of the most that could be gained at this KL."""

STUDY = Study("Preferences: gold reward against KL", INTRO, rows, figure=("recipe", "KL", "gold reward"))
