"""What a limit is worth: the optimum and its multiplier as functions of the limit, and the curve's exact corners.

    v(b) = max_pi J_r(pi)  s.t.  J_c(pi) <= b  =  min_{lam >= 0} max_pi J_r(pi) - lam (J_c(pi) - b)

v is concave, non-decreasing and piecewise linear; its slope is the multiplier. Its corners are the costs and returns of
deterministic policies, and between two corners the optimum is a mixture of theirs (Altman 1999).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fenchel.errors import UserError
from fenchel.theory.mdp import TabularMDP, replace_reward
from fenchel.theory.solvers.bellman import occupancy, one_hot, policy_iteration
from fenchel.theory.solvers.cmdp import solve_cmdp


@dataclass(frozen=True)
class DualCurve:
    """At `limits` (n,), discounted: values (n,), -inf where no policy meets the limit; multipliers (n,), inf there.

    least: the smallest cost of any policy; free: the smallest limit that does not bind.
    """

    limits: Tensor
    values: Tensor
    multipliers: Tensor
    least: float
    free: float


def dual_curve(mdp: TabularMDP, limits: Float[Tensor, " n"]) -> DualCurve:
    """One objective, one cost: r (2, S, A). Every point is a solution of `solve_cmdp` with its certificate."""
    corners = dual_corners(mdp)
    least, free = float(corners[0, 0]), float(corners[-1, 0])
    limits = torch.as_tensor(limits, dtype=mdp.dtype)
    met = limits >= least - 1e-9 * (1 + abs(least))
    values, prices = torch.full_like(limits, -torch.inf), torch.full_like(limits, torch.inf)
    count = int(met.sum())
    if count:
        batch = mdp.map(lambda t: t.expand(count, *t.shape))
        found = solve_cmdp(batch, budgets=limits[met, None], unit="discounted")
        values[met], prices[met] = found.lower, found.multipliers[:, 0]
    return DualCurve(limits, values, prices, least, free)


def dual_corners(mdp: TabularMDP, most: int = 1000) -> Float[Tensor, "n 2"]:
    """(cost, return) of the corners in order of cost: the cheapest policy (the best of those) to the best one.

    Between two known corners the multiplier is their slope; a policy that beats both at that price is a new corner, and
    if there is none the piece is straight. `most`: how many corners before giving up (UserError).
    """
    if mdp.batch_shape or mdp.num_channels != 2:
        raise UserError(f"a dual curve takes one constrained MDP, r (2, S, A), not r of shape {tuple(mdp.r.shape)}.")

    def point(reward: float, price: float) -> tuple[float, float]:
        """(cost, return) of a best policy for reward * r - price * c."""
        _, actions, _ = policy_iteration(replace_reward(mdp, reward * mdp.r[0] - price * mdp.r[1]))
        d = occupancy(mdp, one_hot(actions, mdp.num_actions, mdp.dtype))
        gained, cost = torch.einsum("ksa,sa->k", mdp.r, d).tolist()
        return cost, gained

    low, high = point(0.0, 1.0), point(1.0, 0.0)
    found, open_pieces = {low, high}, [(low, high)]
    while open_pieces and len(found) < most:
        (c0, r0), (c1, r1) = open_pieces.pop()
        if c1 - c0 <= 1e-9 * (1 + abs(c1)):
            continue
        price = max(0.0, (r1 - r0) / (c1 - c0))
        cost, gained = point(1.0, price)
        if gained - price * cost > r0 - price * c0 + 1e-10 * (1 + abs(r0) + price * abs(c0)):
            found.add((cost, gained))
            open_pieces += [((c0, r0), (cost, gained)), ((cost, gained), (c1, r1))]
    if open_pieces:
        raise UserError(f"the dual curve has more than {most} corners; ask for more, or for points by dual_curve.")
    return _hull(sorted(found), mdp)


def _hull(points: list[tuple[float, float]], mdp: TabularMDP) -> Tensor:
    """Points with a slope above 0 to the next, falling from piece to piece: the cheapest that are best, and no more."""
    hull: list[tuple[float, float]] = []
    for c, r in points:
        while hull and r >= hull[-1][1] and (
            c - hull[-1][0] <= 1e-9 * (1 + abs(c))
            or (len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (c, r)) + 1e-12)
        ):  # fmt: skip
            hull.pop()
        if not hull or r > hull[-1][1]:
            hull.append((c, r))
    return torch.tensor(hull, dtype=mdp.dtype)


def _slope(a: tuple[float, float], b: tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
