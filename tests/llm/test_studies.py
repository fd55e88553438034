"""The preference study: its frontier bounds every policy, and its rows are what the policies do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from fenchel.llm.studies import STUDIES, get_study, preferences


def normal(z: np.ndarray) -> np.ndarray:
    return z - logsumexp(z, axis=-1, keepdims=True)


def test_no_policy_earns_more_than_the_frontier_at_its_kl():
    rng = np.random.default_rng(0)
    log_ref, reward = normal(rng.normal(size=(3, 20))), rng.normal(size=(3, 20))
    kl, best = preferences.frontier(log_ref, reward)
    assert (np.diff(kl) > 0).all()
    assert (np.diff(best) > 0).all()
    assert (np.diff(np.diff(best) / np.diff(kl)) < 1e-9).all()  # concave
    assert kl[0] == 0
    for size in (0.1, 1.0, 3.0):
        for _ in range(200):
            tilted = log_ref + size * (rng.normal(size=reward.shape) + rng.uniform(0, 3) * reward)
            spent, earned = preferences.values_of(normal(tilted), log_ref, reward)
            assert earned <= np.interp(spent, kl, best) + 1e-3


def test_the_rows_of_a_case_lie_below_the_frontier():
    case = preferences.Case("DPO", "dpo", "beta", (0.1, 1.0), {"prompts": 32, "pair_answers": 64})
    rows = list(preferences.case_row(case, seeds=2, steps=25))
    assert [row["option"] for row in rows] == ["beta=0.1", "beta=1"]
    assert all(len(row["KL"]) == 2 for row in rows)
    for row in rows:
        assert max(row["gold reward"]) <= row["most at this KL"] + 0.05
    assert np.mean(rows[0]["KL"]) > np.mean(rows[1]["KL"]) > 0
    assert all(np.mean(row["share of the gain %"]) > 10 for row in rows)


def test_the_frontier_is_drawn_from_the_warm_start_on():
    first, *others = preferences.exact_rows(4)
    assert (first["option"], first["KL"]) == ("the warm start", 0.0)
    assert [row["gold reward"] for row in others] == sorted(row["gold reward"] for row in others)


@pytest.mark.parametrize("key", STUDIES)
def test_every_study_says_what_it_compares(key):
    assert get_study(key).title
    assert get_study(key).intro
