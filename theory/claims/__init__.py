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
    # B. policy-gradient estimators
    # C. token trees and deterministic MDPs
    # D. optimisation in MDPs
    # E. games and bandits
}
