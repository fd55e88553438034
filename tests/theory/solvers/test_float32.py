"""float32 problems give float32 answers within an error budget of the float64 ones."""

import pytest
import torch

from fenchel.theory.mdp import TabularMDP
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import solve

RNG = Rng(0)
MDP = TabularMDP(RNG.simplex(2, 4, 2, 4), RNG.uniform(2, 2, 4, 2), RNG.simplex(2, 4), 0.9)
GAME = RNG.normal(3, 3, 3)
TARGET = torch.tensor([False, True, False, False])
CASES = [
    (GAME, "zero_sum", {}),
    (torch.stack([GAME, -GAME], 1), "qre", {"temperature": 0.3}),
    (MDP, "cmdp", {"budgets": [5.0], "unit": "discounted", "method": "lagrangian"}),
    (MDP, "cmdp", {"budgets": [5.0], "unit": "discounted", "method": "lp"}),
    (MDP[0], "coverage", {}),
    (MDP.channel(0), "robust", {"ambiguity": "l1", "radius": 0.2}),
    (MDP.channel(0), "robust", {"ambiguity": "kl", "radius": 0.2}),
    (MDP.channel(0), "robust", {"ambiguity": "chi2", "radius": 0.2}),
    (MDP, "reach_avoid", {"target": TARGET, "avoid": TARGET.roll(1)}),
    (MDP[0], "goal_distance", {}),
    (MDP[0].channel(0), "cvar", {"level": 0.3, "horizon": 3}),
    (MDP[0].channel(0), "entropic", {"risk": 1.0, "horizon": 3}),
]


@pytest.mark.parametrize(
    ("problem", "criterion", "options"), CASES, ids=[f"{c}-{i}" for i, (_, c, _) in enumerate(CASES)]
)
def test_float32_stays_within_its_budget(problem, criterion, options):
    exact = solve(problem, criterion, **options)
    rough = solve(problem.to(dtype=torch.float32), criterion, tol=1e-3, **options)
    assert rough.V.dtype == torch.float32
    assert rough.certificate.worst < 1e-4
    # 64 units of rounding at the scale of V, amplified by at most 1 / (1 - 0.9)
    budget = 640 * torch.finfo(torch.float32).eps * (1 + float(exact.V.abs().max()))
    assert torch.allclose(rough.V.double(), exact.V, atol=budget, rtol=0)
