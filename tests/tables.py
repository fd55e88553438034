"""Learners on tables: one-hot states, linear networks, every transition in every batch."""

from __future__ import annotations

import numpy as np
import torch

from fenchel.algorithms import get_algorithm
from fenchel.envs.spec import Discrete, Spec


def one_hot(states: int) -> torch.Tensor:
    return torch.eye(states, dtype=torch.float64)


def batch(s, a, r, following, discount, states: int, **more) -> dict[str, torch.Tensor]:
    """One replica's batch of these rows. more: further columns of states, one-hot."""
    eye = one_hot(states)
    rows = {"obs": eye[s], "next_obs": eye[following], "action": torch.as_tensor(a), "reward": torch.as_tensor(r)}
    rows["discount"] = torch.as_tensor(np.broadcast_to(discount, len(s)).copy(), dtype=torch.float64)
    rows |= {name: eye[column] for name, column in more.items()}
    return {name: column.unsqueeze(0) for name, column in rows.items()}


def learn(key, rows, steps=400, actions=2, parts=(1.0, 0.1), **options):
    """One replica with linear networks, trained on the same rows at every step; smaller and smaller steps."""
    spec = Spec(rows["obs"].shape[-1], Discrete(actions))
    cls = get_algorithm(key)
    common = {"hidden": (), "layer_norm": False, "lr": 0.05, "tau": 0.1}
    options = {name: value for name, value in common.items() if hasattr(cls.Config, name)} | options
    learner = cls(spec, options, dtype=torch.float64)
    full = [list(optimiser.lr) for optimiser in learner.optimisers()]
    for part in parts:
        for optimiser, lrs in zip(learner.optimisers(), full, strict=True):
            optimiser.lr = [part * lr for lr in lrs]
            optimiser.freeze(set())
        for _ in range(steps // len(parts)):
            learner.update(rows)
    return learner


def values(learner, states):
    v = learner.value(one_hot(states).unsqueeze(0)).detach()[0]
    return (v if v.ndim == 1 else v.mean(0)).numpy()


def probabilities(learner, states):
    """(S, A)"""
    return learner.policy.log_probs(one_hot(states).unsqueeze(0)).detach().exp()[0].numpy()


def close(ours, exact):
    """Within 2 % of the range."""
    return np.abs(ours - exact).max() <= 0.02 * np.ptp(exact)
