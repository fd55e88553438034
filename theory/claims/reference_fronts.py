"""Exact fronts of the tabular problems of mo-gymnasium at discount .99, and their hypervolumes.

The fronts come from `solve`. The checks find them again without it: where transitions are deterministic, by walking to
every end; in resource gathering each point by an action sequence rolled out through the transition probabilities, and
the bound for all policies by value iteration at every vertex of the fronts' surface of best utilities. The twins hold
what mo-gymnasium 1.3.2 returns from `pareto_front`, where that is another set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fenchel.theory import fronts, instances
from fenchel.theory.claims.claim import Claim, ClaimReport, Problem, Problems, Twin
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.solvers import solve
from fenchel.theory.solvers.coverage_checks import surface_vertices

# moves of each point of resource gathering's front: the gem, the gold, both; none meets an enemy
ROUTES = ("RRUUUDDDLL", "UULUURLDDRDD", "UULUURLDDRRRUDDDLL")
LETTERS = "UDLR"
# hypervolumes at the discount of the claim, above the reference point
SEA_VOLUMES = {
    ("convex", 0.99): 854.850350034993, ("concave", 0.99): 3688.377090014615,
    ("convex", 0.9): 356.75619043500006, ("concave", 0.9): 801.8427348781287,
}  # fmt: skip
GATHERING_VOLUME, TREE_VOLUME = 3.519408729014649, 9302.378173357605


def _problem(mdp: TabularMDP, points: Tensor, volume: float, reference: tuple[float, ...]) -> Problem:
    known = torch.tensor([volume, *reference], dtype=torch.float64)
    return dict(mdp=mdp.map(lambda t: t[None]), points=points[None], known=known[None])


def sea(front: str, gamma: float = 0.99, shipped: bool = False) -> Problems:
    """shipped: all treasures, as the released list has them at every discount."""

    def problems(rng, n):
        mdp = instances.deep_sea_treasure(front, gamma)
        points = walked(mdp) if shipped else solve(mdp, "pareto", horizon=20).extra["vectors"]
        return _problem(mdp, points, SEA_VOLUMES[front, gamma], (0.0, -50.0))

    return problems


def gathering(shipped: bool = False) -> Problems:
    def problems(rng, n):
        mdp = instances.resource_gathering(gamma=0.99)
        points = released_gathering(0.99) if shipped else solve(mdp, "coverage").extra["vectors"]
        return _problem(mdp, points, GATHERING_VOLUME, (-1.0,) * 3)

    return problems


def tree(exponent: int = 5) -> Problems:
    """exponent: of the discount that a leaf gets; depth 6 is reached by six steps, the sixth of which pays."""

    def problems(rng, n):
        mdp = instances.fruit_tree(6, 0.99)
        points = solve(mdp, "pareto").extra["vectors"] * 0.99 ** (exponent - 5)
        return _problem(mdp, points, TREE_VOLUME, (0.0,) * 6)

    return problems


def released_gathering(gamma: float) -> Tensor:
    """The nondominated ones of the six returns that mo-gymnasium 1.3.2 lists (its exponents are one too large, and the
    route to both resources that meets no enemy is not among them)."""
    death, both, gold, gem = torch.tensor([[-1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1]]).double()
    g = gamma
    listed = [
        gem * g**10,
        0.81 * both * g**12 + 0.1 * death * g**7 + 0.09 * death * g**9,
        0.81 * gold * g**8 + 0.1 * death * g**3 + 0.09 * death * g**5,
        0.9 * both * g**14 + 0.1 * death * g**7,
        gold * g**12,
        0.9 * gold * g**10 + 0.1 * death * g**7,
    ]
    points = torch.stack(listed)
    return points[fronts.nondominated(points)]


def walked(mdp: TabularMDP) -> Tensor:
    """(N, K): return of the shortest way to each end, transitions being deterministic.

    A longer way to the same end loses in every objective of these problems, and so does never ending.
    """
    follows = mdp.P.argmax(-1)
    ends = (mdp.kernel.sum(-1) == 0).all(-1)
    start = int(mdp.mu0.argmax())
    seen, layer, found, factor = {start}, {start: mdp.r.new_zeros(len(mdp.r))}, [], 1.0
    gamma = float(mdp.discount.max())
    while layer:
        following: dict[int, Tensor] = {}
        for s, total in layer.items():
            for a in range(mdp.num_actions):
                t = int(follows[s, a])
                if t in seen:
                    continue
                seen.add(t)
                value = total + factor * mdp.r[:, s, a]
                if ends[t]:
                    found.append(value)
                else:
                    following[t] = value
        layer, factor = following, factor * gamma
    return torch.stack(found)


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Hausdorff distance of two sets of points."""
    distance = (a[:, None] - b[None]).abs().amax(-1)
    return torch.maximum(distance.amin(0).max(), distance.amin(1).max())


def _off_volume(p: Problem) -> Tensor:
    volume, reference = p["known"][0, 0], p["known"][0, 1:]
    return (fronts.hypervolume(p["points"][0], reference) - volume).abs()


def _by_walking(p: Problem) -> ClaimReport:
    every = walked(p["mdp"][0])
    distance = apart(p["points"][0], every[fronts.nondominated(every)])
    return ClaimReport(torch.maximum(distance, _off_volume(p))[None], 1e-6)


def rolled_out(mdp: TabularMDP, route: str) -> Tensor:
    """(K,): expected return of an action sequence, step by step through P."""
    x, total = mdp.mu0, mdp.r.new_zeros(len(mdp.r))
    for letter in route:
        a = LETTERS.index(letter)
        total = total + mdp.r[:, :, a] @ x
        x = x @ mdp.kernel[:, a]
    return total


def _by_rollouts(p: Problem, sweeps: int = 100) -> ClaimReport:
    mdp, points = p["mdp"][0], p["points"][0]
    weights = surface_vertices(points)
    r, V = torch.einsum("mk,ksa->msa", weights, mdp.r), points.new_zeros(len(weights), mdp.num_states)
    for _ in range(sweeps):
        previous, V = V, (r + torch.einsum("sat,mt->msa", mdp.kernel, V)).amax(-1)
    missed = (V @ mdp.mu0 - (points @ weights.T).amax(0)).max()
    routes = torch.stack([rolled_out(mdp, route) for route in ROUTES])
    residuals = torch.stack([apart(points, routes), missed, (V - previous).abs().max(), _off_volume(p)])
    return ClaimReport(residuals.max()[None], 1e-6)


SEA_CONVEX = Claim(
    paper=6,
    kind="identity",
    statement="the front of deep sea treasure (convex, discount .99) is its ten treasures, each by a shortest way; "
    "hypervolume 854.8504 above (0, -50)",
    problems=sea("convex"),
    check=_by_walking,
    twin=Twin("the discount .99 (at .9 the released list of ten holds seven dominated ones)", sea("convex", 0.9, True)),
    source="derived",
    n=1,
)

SEA_CONCAVE = Claim(
    paper=6,
    kind="identity",
    statement="the front of deep sea treasure (concave, discount .99) is its ten treasures; hypervolume 3688.3771 "
    "above (0, -50)",
    problems=sea("concave"),
    check=_by_walking,
    twin=Twin("the discount .99 (at .9 the released list of ten holds a dominated one)", sea("concave", 0.9, True)),
    source="derived",
    n=1,
)

GATHERING = Claim(
    paper=6,
    kind="identity",
    statement="the coverage set of resource gathering (discount .99) is (0, 0, .99^9), (0, .99^17, .99^17) and "
    "(0, .99^11, 0), by three routes that meet no enemy; hypervolume 3.5194 above (-1, -1, -1)",
    problems=gathering(),
    check=_by_rollouts,
    twin=Twin("the route to both resources and one step (the released list, 3.3451)", gathering(shipped=True)),
    source="derived",
    n=1,
)

TREE = Claim(
    paper=6,
    kind="identity",
    statement="the front of the fruit tree (depth 6, discount .99) is .99^5 times its 64 leaves; hypervolume 9302.3782 "
    "above 0",
    problems=tree(),
    check=_by_walking,
    twin=Twin("the exponent (6 instead of 5)", tree(6)),
    source="derived",
    n=1,
)
