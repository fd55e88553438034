"""Faults planted in the solvers must be seen: by the referee, by the bounds, or by the independent checker."""

from __future__ import annotations

import pytest
import torch

from fenchel.errors import UserError
from fenchel.theory.instances.generated import garnet
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.referees import enumeration
from fenchel.theory.rng import Rng
from fenchel.theory.solvers import bellman, discounted, occupancy_dual, regularised, solve
from fenchel.theory.solvers.certificates import check

BASE = garnet(Rng(0), 1, 4, 3)[0]
MDP = TabularMDP(BASE.P, BASE.r, BASE.mu0, 0.5 + 0.4 * Rng(1).uniform(4, 3))
EXPECT, BOUNDS, FOLLOW = bellman.Backup.expect, bellman.bounds, occupancy_dual._follow


def wrong_factor(V, Q, w, actions=None):
    right = BOUNDS(V, Q, w, actions)
    return bellman.Bounds(right.lower + 0.01, right.upper, right.actions)


MUTATIONS = {  # name: (object, attribute, mutant)
    "sign": (bellman.Backup, "expect", lambda self, V: -EXPECT(self, V)),
    "discount": (bellman.Backup, "expect", lambda self, V: self.discount * EXPECT(self, V)),
    "no discount": (bellman.Backup, "expect", lambda self, V: EXPECT(self, V) / self.discount * 0.9),
    "factor": (discounted, "bounds", wrong_factor),
    "soft sign": (regularised, "_bounds", lambda V, backup, most, least, own: (backup - 1e-3, backup - 1e-3)),
    "normalisation": (occupancy_dual, "_follow", lambda flat, pi: 0.5 * FOLLOW(flat, pi)),
}


def suite() -> bool:
    """The core of the agreement tests: True when nothing is found wrong."""
    best = torch.as_tensor(enumeration.discounted_values(MDP).max(0))
    for method in ("vi", "pi"):
        answer = solve(MDP, "discounted", method, limit=500)
        if not check(MDP, "discounted", answer).holds or not torch.allclose(answer.V, best, atol=1e-6):
            return False
    for criterion, options in (("soft", {"alpha": 0.5}), ("occupancy_dual", {"alpha": 0.5})):
        if not check(MDP, criterion, solve(MDP, criterion, **options), **options).holds:
            return False
    return True


def test_the_suite_is_green_without_mutations():
    assert suite()


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_caught(name, monkeypatch):
    monkeypatch.setattr(*MUTATIONS[name])
    try:
        green = suite()
    except UserError:  # a solver that sees that its own bounds do not close
        green = False
    assert not green
