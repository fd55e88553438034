"""Budgets of a cost in four units, and DSRL's scores of reward and cost.

A cost of c per step, for ever, or for T steps where the episode really `ends` after them, amounts to

    average      c                                            long-run cost per step
    episode      c T                                          undiscounted sum of an episode of T steps
    discounted   c / (1 - g),  c (1 - g^T) / (1 - g) if it ends    E sum_t g^t c_t
    normalised   (1 - g) times discounted                     the discounted mean cost per step

`convert` goes from one to another. Two pairs are mere changes of scale, whatever the cost: discounted with normalised,
and episode with average where every episode has T steps. Any other pair is exact for a constant expected cost per step
and an approximation otherwise: one cost early in an episode weighs more in `discounted` than one late.

A time-out is not an end: a learner whose value goes on beyond it has ends=False, for which the limit of T steps counts
as a rate. CAL's rule for Safety-Gym, d = L (1 - g^T) / ((1 - g) T), is episode -> discounted with ends=True.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

from fenchel.errors import UserError, unknown

UNITS = ("discounted", "normalised", "episode", "average")
Number = TypeVar("Number", float, Tensor)  # any type with + - * / and whole powers, such as Fraction


def convert(
    limit: Number,
    unit: str,
    to: str,
    *,
    gamma: float | None = None,
    horizon: int | None = None,
    ends: bool = False,
) -> Number:
    """`limit`, given in `unit`, in the unit `to`. gamma: the discount of the discounted units; horizon: T of the
    episode, needed where the pair of units reads them. Raises UserError for an unknown unit and for a number that the
    pair needs and that is missing or out of range.
    """
    for name, value in (("unit", unit), ("to", to)):
        if value not in UNITS:
            raise unknown(name, value, UNITS)
    if unit == to:
        return limit
    if {unit, to} == {"discounted", "normalised"}:
        share = 1 - _need("gamma", gamma, unit, to)
        return limit * share if to == "normalised" else limit / share
    return limit / _per_rate(unit, unit, to, gamma, horizon, ends) * _per_rate(to, unit, to, gamma, horizon, ends)


def _per_rate(name: str, unit: str, to: str, gamma: float | None, horizon: int | None, ends: bool) -> float:
    """What a cost of one per step amounts to in the unit `name`."""
    if name == "average":
        return 1
    if name == "episode":
        return _need("horizon", horizon, unit, to)
    gamma = _need("gamma", gamma, unit, to)
    total = 1 - gamma ** _need("horizon", horizon, unit, to) if ends else 1
    return total if name == "normalised" else total / (1 - gamma)


def _need(name: str, value: float | None, unit: str, to: str) -> float:
    """The number, which must be there and in its range."""
    if value is not None and (0 <= value < 1 if name == "gamma" else value >= 1):
        return value
    what = "a gamma from 0 to below 1" if name == "gamma" else "a horizon of 1 step or more"
    raise UserError(f"a limit in unit={unit} becomes unit={to} with {what}, not {name}={value}.")


def normalized_cost(cost: Number, limit: Number) -> Number:
    """DSRL's (C + eps) / (limit + eps), eps = 1 where the limit is 0 and 0 elsewhere: safe is at most 1."""
    eps = (limit == 0) * 1 if not isinstance(limit, Tensor) else (limit == 0).to(limit.dtype)
    return (cost + eps) / (limit + eps)


def normalized_reward(ret: Number, low: Number, high: Number) -> Number:
    """DSRL's (R - low) / (high - low), low and high the least and greatest return of the task's data."""
    return (ret - low) / (high - low)
