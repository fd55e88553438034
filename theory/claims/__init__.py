"""The claims of `theory`: a literal table, so that listing them imports nothing."""

# "group.name": "module:ATTRIBUTE", the module inside this package. One row is one paper's statement.
CLAIMS: dict[str, str] = {
    # A. KL-regularised and sequence-level objectives
    "kl_regularised.variational": "kl_regularised:VARIATIONAL",
    "kl_regularised.pythagoras": "kl_regularised:PYTHAGORAS",
    "kl_regularised.minimal_change": "kl_regularised:MINIMAL_CHANGE",
    "kl_regularised.entropy_controlled": "kl_regularised:ENTROPY_CONTROLLED",
    "kl_regularised.feasible": "kl_regularised:FEASIBLE",
    "kl_regularised.suboptimality": "kl_regularised:SUBOPTIMALITY",
    "kl_regularised.rejection_chain": "kl_regularised:REJECTION_CHAIN",
    "kl_regularised.soup": "kl_regularised:SOUP",
    "regression.optimal_advantage": "regression:OPTIMAL_ADVANTAGE",
    "regression.value_bias": "regression:VALUE_BIAS",
    "regression.group_variance": "regression:GROUP_VARIANCE",
    "regression.contrastive": "regression:CONTRASTIVE",
    "regression.natural_step": "regression:NATURAL_STEP",
    "regression.same_direction": "regression:SAME_DIRECTION",
    "regression.least_squares": "regression:LEAST_SQUARES",
    "regression.unnormalised": "regression:UNNORMALISED",
    "verifiable.variance_bound": "verifiable:VARIANCE_BOUND",
    "verifiable.improvement": "verifiable:IMPROVEMENT",
    "verifiable.peak": "verifiable:PEAK",
    "verifiable.hard_negatives": "verifiable:HARD_NEGATIVES",
    "verifiable.positive_weights": "verifiable:POSITIVE_WEIGHTS",
    "best_of_n.law": "best_of_n:LAW",
    "best_of_n.kl_bound": "best_of_n:KL_BOUND",
    "best_of_n.estimator": "best_of_n:ESTIMATOR",
    "best_of_n.asymptotics": "best_of_n:ASYMPTOTICS",
    "f_divergence.f_dpg": "f_divergence:F_DPG",
    "f_divergence.f_dpo": "f_divergence:F_DPO",
    "f_divergence.chi2_drops": "f_divergence:CHI2_DROPS",
    "f_divergence.floor": "f_divergence:FLOOR",
    "f_divergence.generator": "f_divergence:GENERATOR",
    "preference.dpo": "preference:DPO",
    "preference.ipo": "preference:IPO",
    "preference.bounded_margin": "preference:BOUNDED_MARGIN",
    "preference.flipped": "preference:FLIPPED",
    "preference.h_dpo": "preference:H_DPO",
    "preference.modpo": "preference:MODPO",
    "preference.simpo": "preference:SIMPO",
    "preference.exo": "preference:EXO",
    "preference.f_dpo": "preference:F_DPO",
    # B. policy-gradient estimators
    # C. token trees and deterministic MDPs
    # D. optimisation in MDPs
    # E. games and bandits
}
