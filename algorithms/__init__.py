"""Learners: one algorithm, one file, one row of ALGORITHMS."""

# key -> "module:Class"
ALGORITHMS: dict[str, str] = {}
