"""The part of the study `exact` in a Box: actors and critics on a linear-quadratic regulator, against closed forms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fenchel import envs
from fenchel.algorithms import get_algorithm
from fenchel.algorithms.runner import Runner
from fenchel.algorithms.studies import Row
from fenchel.envs import lqr
from fenchel.theory.referees.quadratic import Gain, Quadratic, pulled, soft

NETWORK = {"hidden": (64, 64), "batch_size": 128, "lr": 1e-3, "lr_schedule": "cosine", "tau": 0.02}
QUIET = {"policy_noise": 0.0}  # noise on target actions would add its own curvature to the answer
STARTS = np.stack(np.meshgrid(*[np.linspace(-1, 1, 15)] * 2), -1).reshape(-1, 2)
HORIZON = 120  # 0.9^120 is 3e-6
ROWS = 2000  # of the data, at which critics are compared


@dataclass(frozen=True)
class Control:
    """answer(problem, states of the data (N, 2), options) -> Gain."""

    name: str
    algo: str
    options: dict[str, Any]
    answer: Callable[[Quadratic, np.ndarray, dict[str, Any]], Gain]
    steps: int = 5000


def _td3_bc(problem: Quadratic, states: np.ndarray, options: dict[str, Any]) -> Gain:
    return pulled(problem, np.array(lqr.BEHAVIOUR), lqr.NOISE**2 / 3, states, scale=options["alpha"])


def _rebrac(problem: Quadratic, states: np.ndarray, options: dict[str, Any]) -> Gain:
    penalties = {name: options[name] for name in ("policy_penalty", "critic_penalty")}
    return pulled(problem, np.array(lqr.BEHAVIOUR), lqr.NOISE**2 / 3, states, **penalties)


def _soft(problem: Quadratic, states: np.ndarray, options: dict[str, Any]) -> Gain:
    return soft(problem, -1.0)


CONTROL = (
    Control("TD3+BC, one step", "td3_bc", {"alpha": 2.5, "gamma": 0.0, **QUIET}, _td3_bc),
    Control("TD3+BC", "td3_bc", {"alpha": 2.5, "gamma": 0.9, **QUIET}, _td3_bc),
    Control("TD3+BC", "td3_bc", {"alpha": 10.0, "gamma": 0.9, **QUIET}, _td3_bc),
    Control("ReBRAC", "rebrac", {"policy_penalty": 0.1, "critic_penalty": 1.0, "gamma": 0.9, **QUIET}, _rebrac),
    Control("SAC-N", "edac", {"members": 5, "diversity": 0.0, "gamma": 0.9}, _soft),
    Control("SAC", "sac", {"gamma": 0.9}, _soft, 10_000),
)


def regulator(gamma: float) -> Quadratic:
    return Quadratic(*(np.array(matrix) for matrix in (lqr.A, lqr.B, lqr.Q, lqr.R)), gamma)


def control_row(case: Control, seeds: list[int], steps: int | None = None) -> Row:
    """Train R replicas and compare the actor's return and the critic's values with the closed form."""
    cls, steps = get_algorithm(case.algo), steps or case.steps
    task = envs.make("lqr" if cls.ONLINE else "lqr-mixed")
    learner = cls(task.spec, NETWORK | case.options, seeds)
    learner.schedule(steps)
    started = time.process_time()
    Runner(learner, learner.source(task, normalize_obs=False)).advance(steps)
    seconds = time.process_time() - started
    data = envs.make("lqr-mixed").dataset()
    states, actions = data.obs.double().numpy(), data.action.double().numpy()
    problem = regulator(case.options["gamma"])
    exact = case.answer(problem, states, case.options)
    rows = torch.cat([data.obs[:ROWS], data.action[:ROWS]], -1).to(learner.device).expand(learner.R, -1, -1)
    with torch.no_grad():
        q = learner.critic({"obs_action": rows}).mean(1).double().cpu().numpy()
    true = problem.values(exact.W, exact.constant, states[:ROWS], actions[:ROWS])
    error = 100 * np.abs(q - true) / np.ptp(true)
    chosen = learner.act(rows[..., : states.shape[1]]).squeeze(-1).double().cpu().numpy()
    astray = 100 * np.abs(chosen - (states[:ROWS] @ exact.K.T)[:, 0].clip(-1, 1)) / 2
    best = linear_return(problem, exact.K)
    gap = 100 * (best - learned_returns(learner, problem)) / spread(problem)
    return {
        "task": task.id, "learner": case.name, "options": " ".join(f"{k}={v:g}" for k, v in case.options.items()),
        "network": "64x64", "steps": steps, "V mean %": error.mean(1).tolist(), "V max %": error.max(1).tolist(),
        "w mean %": astray.mean(1).tolist(), "w max %": astray.max(1).tolist(),
        "J": best, "gap max Q %": gap.tolist(), "largest gap %": float(np.abs(gap).max()), "CPU s": seconds,
    }  # fmt: skip


def linear_return(problem: Quadratic, K: np.ndarray) -> float:
    """Mean discounted return of a = K s over STARTS."""
    return -float(np.einsum("ni,ij,nj->n", STARTS, problem.cost(K), STARTS).mean())


def spread(problem: Quadratic) -> float:
    """The optimum's return less that of uniform actions, whose variance is 1/3."""
    idle = np.zeros_like(problem.B.T)
    noise = np.trace(problem.curvature(problem.cost(idle))) / 3 / (1 - problem.gamma)
    return linear_return(problem, problem.optimum()) - linear_return(problem, idle) + noise


def learned_returns(learner: Any, problem: Quadratic) -> np.ndarray:
    """(R,): the same mean for each replica's mode, by running it."""
    A, B, Q, R = (torch.from_numpy(matrix).to(learner.dtype) for matrix in (problem.A, problem.B, problem.Q, problem.R))
    s, total = torch.from_numpy(STARTS).to(learner.dtype).expand(learner.R, -1, -1), 0.0
    for t in range(HORIZON if problem.gamma else 1):
        a = learner.act(s.to(learner.device)).cpu()
        total = total - problem.gamma**t * (((s @ Q) * s).sum(-1) + ((a @ R) * a).sum(-1))
        s = s @ A.T + a @ B.T
    return total.mean(1).double().numpy()
