"""Units of budgets: conversions in fractions, exact; what they mean, by summing; DSRL's scores."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.budgets import UNITS, convert, normalized_cost, normalized_reward

GAMMA, T = Fraction(9, 10), 7
PAIRS = list(itertools.product(UNITS, UNITS))


def amount(unit: str, ends: bool) -> Fraction:
    """What one per step adds up to, term by term; without an end, the closed form of the series."""
    discounted = sum(GAMMA**t for t in range(T)) if ends else 1 / (1 - GAMMA)
    return {"average": Fraction(1), "episode": sum(Fraction(1) for _ in range(T)), "discounted": discounted,
            "normalised": (1 - GAMMA) * discounted}[unit]  # fmt: skip


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("unit", "to"), PAIRS)
def test_a_constant_cost_has_the_same_rate_in_every_unit_exactly(unit, to, ends):
    rate = Fraction(3, 11)
    found = convert(rate * amount(unit, ends), unit, to, gamma=GAMMA, horizon=T, ends=ends)
    assert found == rate * amount(to, ends)
    assert convert(found, to, unit, gamma=GAMMA, horizon=T, ends=ends) == rate * amount(unit, ends)


@pytest.mark.parametrize(("unit", "to"), PAIRS)
def test_tensors_convert_as_numbers_do(unit, to):
    limits = torch.tensor([[0.0], [10.0], [25.0]], dtype=torch.float64)
    found = convert(limits, unit, to, gamma=0.99, horizon=300)
    assert found.flatten().tolist() == [convert(x, unit, to, gamma=0.99, horizon=300) for x in (0.0, 10.0, 25.0)]


def test_cal_and_coptidice_thresholds_of_ten_per_three_hundred_steps():
    """CAL's rule gives 3.17; a normalised occupancy must be held to 10 / 300 and not to that."""
    gamma, horizon = 0.99, 300
    cal = 10 * (1 - gamma**horizon) / ((1 - gamma) * horizon)
    assert convert(10.0, "episode", "discounted", gamma=gamma, horizon=horizon, ends=True) == pytest.approx(
        cal, rel=1e-12
    )
    assert cal == pytest.approx(3.17, abs=0.01)
    assert convert(10.0, "episode", "normalised", gamma=gamma, horizon=horizon) == pytest.approx(10 / 300, rel=1e-12)


@pytest.mark.parametrize(
    ("unit", "to", "options", "message"),
    [
        ("steps", "episode", {}, "unit=steps is unknown; valid are average, discounted, episode, normalised."),
        ("episode", "total", {}, "to=total is unknown; valid are average, discounted, episode, normalised."),
        ("episode", "average", {}, "a limit in unit=episode becomes unit=average with a horizon of 1 step or more, "
         "not horizon=None."),
        ("episode", "discounted", {"horizon": 5, "gamma": 1.0}, "a limit in unit=episode becomes unit=discounted with "
         "a gamma from 0 to below 1, not gamma=1.0."),
        ("discounted", "normalised", {"horizon": 5}, "a limit in unit=discounted becomes unit=normalised with a gamma "
         "from 0 to below 1, not gamma=None."),
        ("average", "discounted", {"gamma": 0.9, "ends": True}, "a limit in unit=average becomes unit=discounted with "
         "a horizon of 1 step or more, not horizon=None."),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(unit, to, options, message):
    with pytest.raises(UserError) as error:
        convert(1.0, unit, to, **options)
    assert str(error.value) == message


def test_scores_are_those_of_dsrl():
    assert normalized_cost(15.0, 10.0) == 1.5
    assert normalized_cost(4.0, 0.0) == 5.0  # eps = 1 only where the limit is 0
    assert normalized_cost(torch.tensor([0.0, 5.0, 4.0]), torch.tensor([10.0, 10.0, 0.0])).tolist() == [0.0, 0.5, 5.0]
    assert normalized_reward(30.0, 10.0, 50.0) == 0.5
