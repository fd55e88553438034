"""Pure mathematics on tensors: divergences, objectives, MDPs, exact solvers, independent referees, claims."""
