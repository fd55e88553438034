"""Claims must see a wrong objective: each row changes one argument of one function, or the function, and a claim must
turn red."""

import pytest

import fenchel.theory.claims.action_selection as action_selection
import fenchel.theory.claims.f_divergence as f_divergence
import fenchel.theory.claims.implicit_values as implicit_values
import fenchel.theory.claims.value_functions as value_functions
from fenchel.cli.verify import tables
from fenchel.theory.claims.verify import resolve
from fenchel.theory.mdp import TabularMDP
from fenchel.theory.objectives import dual, preference

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
    (dual, "residual_dual", "temperature", 2, "dual_q.strong_duality"),
    (dual, "residual_dual", "temperature", 2, "dual_q.max_min"),
    (dual, "residual_dual", "temperature", 2, "dual_q.limits"),
    (dual, "residual_dual", 0, 1.1, "dual_q.atac"),
    (dual, "residual_dual", "temperature", 2, "dice.flow"),
    (dual, "residual_dual", 0, 1.1, "imitation.demodice"),
    (dual, "residual_dual", 0, 1.1, "imitation.smodice"),
    (dual, "residual_dual", 0, 1.1, "imitation.iq_learn"),
    (dual, "normalised_dual", 1, -1, "dice.optidice"),
    (dual, "donsker_varadhan", "temperature", 2, "dice.donsker_varadhan"),
    (dual, "donsker_varadhan", "temperature", 2, "imitation.lobsdice"),
    (dual, "odice_value", "lam", 0.9, "odice.true_gradient"),
    (dual, "odice_value", "lam", 0.9, "odice.semi_gradient"),
    (dual, "backward_residual", 2, 0.5, "odice.state_level"),
    (dual, "mixture_dual", "share", 0.9, "recoil.duality"),
    (dual, "mixture_dual", "share", 0.9, "recoil.match"),
    (dual, "mixture_dual", "share", 0.9, "recoil.goals"),
    (dual, "dual_v", "temperature", 2, "implicit_values.temperature"),
    (implicit_values, "gumbel", "temperature", 2, "implicit_values.released_xql"),
    (implicit_values, "gumbel", "temperature", 2, "implicit_values.tangent"),
    (implicit_values, "td", 0, 1.1, "implicit_values.calibrated"),
    (value_functions, "hl_gauss", "sigma", 1.05, "value_functions.histogram_bias"),
    (value_functions, "hl_gauss", "sigma", 2, "value_functions.end_bias"),
    (value_functions, "categorical_projection", 1, 0.9, "value_functions.projection"),
    (value_functions, "categorical", 0, 2, "value_functions.cross_entropy"),
    (action_selection, "cfpi_action", "radius", 2, "action_selection.closed_form"),
    (action_selection, "nearest_action", "scale", 0.5, "action_selection.neighbour"),
]
REPLACED = [
    # module, function, what it is replaced by, given the right one; claim
    (dual, "orthogonal", lambda right: lambda back, ahead: back, "odice.state_level"),
    (dual, "forward_residual", lambda right: lambda v, then, r, d: r + d * then - v, "odice.semi_gradient"),
    (dual, "mixture_dual", lambda right: lambda *args, floor, **rest: right(*args, **rest), "recoil.floor"),
    (dual, "mixture_dual", lambda right: lambda *args, floor, **rest: right(*args, **rest), "recoil.gap"),
    (dual, "residual_dual", lambda right: lambda e, nonneg=True, **rest: right(e, **rest), "dice.signed"),
    (dual, "dual_v", lambda right: lambda *v, variant, **rest: right(*v, **rest), "implicit_values.released_chi2"),
    (action_selection, "ascend", lambda right: lambda a, q, **rest: right(a, lambda x: -q(x), **rest),
     "action_selection.ascent"),
]  # fmt: skip


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


@pytest.mark.parametrize(("module", "function", "wrong", "claim"), REPLACED)
def test_a_claim_sees_the_replacement(module, function, wrong, claim, monkeypatch):
    right = getattr(module, function)
    assert resolve(TABLE[claim]).run(n=16).holds
    monkeypatch.setattr(module, function, wrong(right))
    assert not resolve(TABLE[claim]).run(n=16).holds


def test_a_claim_sees_a_wrong_discount(monkeypatch):
    claim = resolve(TABLE["policy_improvement.difference"])
    right = TabularMDP.policy_kernel
    assert claim.run(n=64).holds
    monkeypatch.setattr(TabularMDP, "policy_kernel", lambda mdp, policy: 1.01 * right(mdp, policy))
    assert not claim.run(n=64).holds
