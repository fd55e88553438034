"""Claims must see a wrong objective: each row multiplies one argument of one function, and a claim must turn red."""

import pytest

import fenchel.theory.claims.f_divergence as f_divergence
from fenchel.cli.verify import tables
from fenchel.theory.claims.verify import resolve
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.objectives import preference

TABLE = tables()
MUTANTS = [
    # module, function, argument, factor, claim
    (preference, "dpo", "beta", -1, "preference.dpo"),
    (preference, "dpo", "beta", 2, "reference_policy.strength"),
    (preference, "ipo", "tau", 0.5, "preference.ipo"),
    (preference, "simpo", "margin", -1, "preference.simpo"),
    (preference, "robust_dpo", "flip_rate", 0.5, "preference.flipped"),
    (preference, "modpo", 2, -1, "preference.modpo"),
    (preference, "modpo", "weight", 0.5, "preference.modpo"),
    (preference, "h_dpo", "alpha", 0.5, "preference.h_dpo"),
    (preference, "exo", "policy_beta", 2, "preference.exo"),
    (preference, "rpo", "eta", -1, "robust_preference.adversary"),
    (preference, "rpo", "eta", 2, "robust_preference.adversary"),
    (preference, "rebel", "eta", 2, "regression.natural_step"),
    (preference, "bradley_terry", "margin", -1, "reference_policy.refined"),
    (preference, "f_dpo", "beta", -1, "preference.f_dpo"),
    (f_divergence, "f_policy_gradient", 0, -1, "f_divergence.f_dpg"),
    (f_divergence, "f_policy_gradient", 1, 2, "f_divergence.f_dpg"),
]


@pytest.mark.parametrize(("module", "function", "argument", "factor", "claim"), MUTANTS)
def test_a_claim_sees_the_mutant(module, function, argument, factor, claim, monkeypatch):
    right = getattr(module, function)

    def wrong(*args, **options):
        if isinstance(argument, str):
            return right(*args, **options | {argument: factor * options[argument]})
        return right(*args[:argument], factor * args[argument], *args[argument + 1 :], **options)

    assert resolve(TABLE[claim]).run(n=16).holds
    monkeypatch.setattr(module, function, wrong)
    assert not resolve(TABLE[claim]).run(n=16).holds


def test_a_claim_sees_a_wrong_discount(monkeypatch):
    claim = resolve(TABLE["policy_improvement.difference"])
    right = TabularMDP.policy_kernel
    assert claim.run(n=64).holds
    monkeypatch.setattr(TabularMDP, "policy_kernel", lambda mdp, policy: 1.01 * right(mdp, policy))
    assert not claim.run(n=64).holds
