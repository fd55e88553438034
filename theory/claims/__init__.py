"""The claims of `theory`: a literal table, so that listing them imports nothing."""

# "group.name": "module:ATTRIBUTE", the module inside this package. One row is one paper's statement.
CLAIMS: dict[str, str] = {
    # A. KL-regularised and sequence-level objectives
    "kl_regularised.variational": "kl_regularised:VARIATIONAL",
    # B. policy-gradient estimators
    # C. token trees and deterministic MDPs
    # D. optimisation in MDPs
    # E. games and bandits
}
