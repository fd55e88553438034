"""Named problems. Random constructors take an `Rng` first (batches then take n) and the others keywords only.

`garnet`, `four_rooms`, ... can be imported from here; `INSTANCES` lists all of them, `instance(name)` finds one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from fenchel.errors import unknown

# name -> "module:function" below fenchel.theory.instances
INSTANCES: dict[str, str] = {
    "garnet": "generated:garnet",
    "dense": "generated:dense",
    "garnet_sparse": "generated:garnet_sparse",
    "ring": "generated:ring",
    "ring_sparse": "generated:ring_sparse",
    "tree": "generated:tree",
    "chain": "chains:chain",
    "combination_lock": "chains:combination_lock",
    "river_swim": "chains:river_swim",
    "delayed_choice": "chains:delayed_choice",
    "two_state": "chains:two_state",
    "four_rooms": "grids:four_rooms",
    "cliff": "grids:cliff",
    "stitching_maze": "grids:stitching_maze",
    "bandit": "counterexamples:bandit",
    "lottery": "counterexamples:lottery",
    "random_policy_trap": "counterexamples:random_policy_trap",
    "flow_breaks_tilt": "counterexamples:flow_breaks_tilt",
    "late_danger": "counterexamples:late_danger",
    "xor_task": "counterexamples:xor_task",
    "concave_front": "counterexamples:concave_front",
    "baird": "counterexamples:baird",
    "doubling": "counterexamples:doubling",
    "constrained_garnet": "constrained:constrained_garnet",
    "two_routes": "constrained:two_routes",
    "hazard_rooms": "constrained:hazard_rooms",
    "conveyors": "constrained:conveyors",
    "multi_objective_garnet": "multi_objective:multi_objective_garnet",
    "deep_sea_treasure": "multi_objective:deep_sea_treasure",
    "resource_gathering": "multi_objective:resource_gathering",
    "fruit_tree": "multi_objective:fruit_tree",
    "rock_paper_scissors": "matrix:rock_paper_scissors",
    "condorcet": "matrix:condorcet",
    "prisoners_dilemma": "matrix:prisoners_dilemma",
    "chicken": "matrix:chicken",
    "random_matrix_game": "matrix:random_matrix_game",
    "random_preference_game": "matrix:random_preference_game",
    "random_markov_game": "matrix:random_markov_game",
}


def instance(name: str) -> Callable[..., Any]:
    """The constructor of this name. Raises UserError for a name that is not in the table."""
    if name not in INSTANCES:
        raise unknown("instance", name, INSTANCES)
    module, function = INSTANCES[name].split(":")
    return getattr(import_module(f"{__name__}.{module}"), function)


def __getattr__(name: str) -> Callable[..., Any]:
    if name in INSTANCES:
        return instance(name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
