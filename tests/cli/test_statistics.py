"""Interquartile mean and stratified bootstrap, against scipy and against what their definitions say."""

from __future__ import annotations

import numpy as np
from scipy.stats import bootstrap, trim_mean

from fenchel.cli.statistics import interval, iqm, mean


def test_iqm_is_the_trimmed_mean_and_ignores_outliers():
    scores = np.random.default_rng(0).normal(size=(4, 11))
    for row in scores:
        assert np.isclose(iqm(row), trim_mean(row, 0.25))
    assert iqm(np.array([0.0, 1, 1, 1e9])) == 1


def test_interval_agrees_with_scipy():
    runs = np.random.default_rng(1).normal(size=12)
    expected = bootstrap((runs,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0))
    found = interval([runs], n=20_000)
    assert np.allclose(found, expected.confidence_interval, atol=0.02)


def test_interval_is_stratified():
    """Two tasks with equal runs each: resampling within tasks has no spread, resampling over all of them would."""
    assert interval([np.zeros(5), np.full(5, 100.0)], mean) == (50.0, 50.0)


def test_interval_of_one_run_is_unknown():
    assert np.isnan(interval([np.array([3.0])])).all()
