"""Demonstrations that are not a comparison of scores: see REPRODUCTIONS in `fenchel.cli.reproduce`."""

from __future__ import annotations

from typing import Any

import torch

TEMPERATURES, SEEDS, STEPS = (0.1, 0.3, 1.0), 20, 3000
VALUES = {
    "f-DVL chi2": {"divergence": "chi2"},
    "f-DVL tv": {"divergence": "tv", "lam": 0.8},
    "XQL": {"divergence": "kl"},
    "XQL as released": {"divergence": "kl", "variant": "official"},
}


def f_dvl_divergence(env: str = "hopper-medium-replay") -> dict[str, Any]:
    """How many replicas of f-DVL and of XQL lose their value: it is not finite, or its mean lies beyond every return.

    (Sikchi 2024, whose comparison says that XQL's exponentials diverge and that chi2 and tv do not.)
    """
    from fenchel.algorithms.offline.f_dvl import FDVL
    from fenchel.algorithms.runner import Runner
    from fenchel.envs import make

    torch.set_num_threads(1)
    task = make(env)
    seeds = [seed for _ in TEMPERATURES for seed in range(SEEDS)]
    temperature = [t for t in TEMPERATURES for _ in range(SEEDS)]
    diverged: dict[str, int] = {}
    for name, options in VALUES.items():
        sizes = {"hidden": (64, 64), "batch_size": 64, "temperature": temperature}
        learner = FDVL(task.spec, options | sizes, seeds)
        source = learner.source(task)
        Runner(learner, source).advance(STEPS)
        value = learner.value(source(0)["obs"]).mean(1)
        bound = float(task.dataset().reward.abs().max()) / (1 - learner.config.gamma)
        diverged[name] = int((~value.isfinite() | (value.abs() > bound)).sum())
    ours = max(count for name, count in diverged.items() if name.startswith("f-DVL"))
    theirs = max(count for name, count in diverged.items() if name.startswith("XQL"))
    return {
        "config": [f"env={env}, hidden 64x64, batch 64, temperature {list(TEMPERATURES)}, {STEPS} steps"],
        "seeds": f"0:{SEEDS} at each temperature",
        "expected": "some replicas of XQL diverge, none of f-DVL does",
        "measured": {f"{name}: diverged of {len(seeds)}": count for name, count in diverged.items()},
        "interval": None,
        "verdict": "reproduced" if theirs > 0 == ours else "not reproduced here",
    }
