"""`scripts/bench.py online`: PPO and SAC against stable-baselines3 on one core, with equal tasks and hyper-parameters.

Returns are means over seeds and EPISODES deterministic episodes. Time is the CPU time of acting and learning together,
per update and seed. Ours trains its seeds as replicas, the peer one after another; "one seed" is ours without that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fenchel.algorithms import evaluation, get_algorithm
from fenchel.algorithms.training import TrainConfig, train
from fenchel.envs import make
from fenchel.errors import UserError

SEEDS, EPISODES = (0, 1, 2), 20


@dataclass(frozen=True)
class Case:
    """`updates` and `env_steps` follow from each other; `options` are ours, translated below for the peer."""

    algo: str
    env: str
    env_steps: int
    updates: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        size = f", batch {self.options['batch_size']}" if self.algo == "sac" else ""
        return f"{self.algo} {self.env}{size}, {self.env_steps:,} steps"


PPO = {"num_envs": 8, "epochs": 10, "batch_size": 64, "clip_grad": 0.5}
SAC = {"lr": 1e-3, "learning_starts": 1_000, "buffer_size": 50_000}
CASES = {
    "sac": Case("sac", "Pendulum-v1", 8_000, 7_000, SAC | {"hidden": (64, 64), "batch_size": 64}),
    "sac full size": Case("sac", "Pendulum-v1", 1_500, 500, SAC | {"hidden": (256, 256), "batch_size": 256}),
    "ppo": Case("ppo", "Pendulum-v1", 102_400, 16_000, PPO | {"gamma": 0.9, "lr": 1e-3, "horizon": 128}),
    "hopper": Case("ppo", "Hopper-v5", 153_600, 24_000, PPO | {"horizon": 256}),
}


def rows() -> Iterator[dict[str, Any]]:
    for case in CASES.values():
        yield from compare(case)


def compare(case: Case) -> Iterator[dict[str, Any]]:
    returns, cpu = ours(case, SEEDS, case.updates)
    _, alone = ours(case, SEEDS[:1], case.updates // 4)
    theirs = [peer(case, seed) for seed in SEEDS]
    peer_returns, peer_cpu = [list(column) for column in zip(*theirs, strict=True)]
    about = {"peer": version(), "returns": returns, "peer_returns": peer_returns}
    yield row(f"{case.name}: return", np.mean(returns), "return", np.mean(peer_returns), None, **about)
    mean = float(np.mean(peer_cpu))
    yield row(f"{case.name}: {len(SEEDS)} seeds", cpu, "CPU ms/update", mean, mean / cpu, peer=version())
    yield row(f"{case.name}: one seed", alone, "CPU ms/update", mean, mean / alone, peer=version())


def row(case: str, ours: Any, unit: str, peer_value: Any, ratio: float | None, **more: Any) -> dict[str, Any]:
    return {"case": case, "ours": float(ours), "unit": unit, "peer_value": float(peer_value), "ratio": ratio, **more}


def version() -> str:
    return f"stable-baselines3 {stable_baselines3().__version__}"


def stable_baselines3() -> Any:
    try:
        import stable_baselines3
    except ModuleNotFoundError:
        raise UserError("bench online needs stable-baselines3: pip install 'fenchel[data]'.") from None
    return stable_baselines3


def ours(case: Case, seeds: tuple[int, ...], updates: int) -> tuple[list[float], float]:
    """Mean return of each seed, CPU milliseconds per update and seed."""
    task = make(f"gym:{case.env}")
    learner = get_algorithm(case.algo)(task.spec, case.options, list(seeds))
    start = time.process_time()
    train(task, learner, TrainConfig(steps=updates, eval_episodes=0, final_episodes=0, log_every=updates))
    cpu = time.process_time() - start
    returns = evaluation.evaluate(learner, task, EPISODES, step=-1)["returns"].mean(1)
    return returns.tolist(), 1e3 * cpu / updates / len(seeds)


def peer(case: Case, seed: int) -> tuple[float, float]:
    """The same of stable-baselines3."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)
    model, env = (peer_sac if case.algo == "sac" else peer_ppo)(case, seed)
    start = time.process_time()
    model.learn(case.env_steps)
    cpu = time.process_time() - start
    trial = make_vec_env(case.env, wrapper_class=unit_actions, seed=seed + 1000)
    if case.algo == "ppo":
        trial = normalised(trial, case, training=False, norm_reward=False)
        trial.obs_rms = env.obs_rms
    mean, _ = evaluate_policy(model, trial, EPISODES, deterministic=True)
    return float(mean), 1e3 * cpu / case.updates


def unit_actions(env: Any) -> Any:
    """Actions in [-1, 1], as ours are; else the peer's PPO would begin with deviation 1 in the task's own units."""
    from gymnasium.wrappers import RescaleAction

    return RescaleAction(env, np.float32(-1), np.float32(1))


def normalised(env: Any, case: Case, **options: Any) -> Any:
    from stable_baselines3.common.vec_env import VecNormalize

    return VecNormalize(env, gamma=case.options.get("gamma", 0.99), **options)


def peer_sac(case: Case, seed: int) -> tuple[Any, Any]:
    from stable_baselines3.common.env_util import make_vec_env

    given = case.options
    env = make_vec_env(case.env, wrapper_class=unit_actions, seed=seed)
    options = {
        "learning_rate": given["lr"],
        "learning_starts": given["learning_starts"],
        "batch_size": given["batch_size"],
    }
    options |= {"buffer_size": given["buffer_size"], "gamma": 0.99, "tau": 0.005, "seed": seed, "device": "cpu"}
    return stable_baselines3().SAC("MlpPolicy", env, policy_kwargs={"net_arch": [*given["hidden"]]}, **options), env


def peer_ppo(case: Case, seed: int) -> tuple[Any, Any]:
    """vf_coef: its value loss lacks our factor 1/2, and ours weighs 1/2."""
    from stable_baselines3.common.env_util import make_vec_env

    given = case.options
    env = make_vec_env(case.env, n_envs=given["num_envs"], wrapper_class=unit_actions, seed=seed)
    env = normalised(env, case)
    options = {"n_steps": given["horizon"], "batch_size": given["batch_size"], "n_epochs": given["epochs"]}
    options |= {"learning_rate": given.get("lr", 3e-4), "gamma": given.get("gamma", 0.99), "gae_lambda": 0.95}
    options |= {"max_grad_norm": given["clip_grad"], "vf_coef": 0.25, "seed": seed, "device": "cpu"}
    return stable_baselines3().PPO("MlpPolicy", env, **options), env
