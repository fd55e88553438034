"""Statistics of scores over seeds and tasks: interquartile mean and stratified bootstrap intervals.

Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice". Scores are a list with one array of runs per
task; the bootstrap resamples runs within each task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fenchel.theory.rng import Rng


def iqm(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the last axis (a quarter, rounded down, is cut on either side)."""
    n = scores.shape[-1]
    cut = n // 4
    return np.sort(scores, axis=-1)[..., cut : n - cut].mean(-1)


def mean(scores: np.ndarray) -> np.ndarray:
    return scores.mean(-1)


def interval(
    tasks: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray], np.ndarray] = mean,
    level: float = 0.95,
    n: int = 2000,
) -> tuple[float, float]:
    """The percentile interval of `statistic` over all runs of all tasks; NaN with fewer than two runs in every task."""
    if max(len(runs) for runs in tasks) < 2:
        return float("nan"), float("nan")
    rng = Rng(0, "bootstrap")
    drawn = [runs[rng.integers(len(runs), n, len(runs)).numpy()] for runs in tasks]
    low, high = np.quantile(statistic(np.concatenate(drawn, axis=-1)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
