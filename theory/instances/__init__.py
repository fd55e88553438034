"""Named problems. Random constructors take an `Rng` and a batch size first and return batches; the others take
keywords only and return one problem. `INSTANCES` lists all of them.
"""

from fenchel.theory.instances.chains import chain, combination_lock, delayed_choice, river_swim, two_state
from fenchel.theory.instances.generated import dense, garnet, garnet_sparse, ring, ring_sparse, tree
from fenchel.theory.instances.grids import cliff, four_rooms, grid, stitching_maze

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
}

__all__ = [
    "INSTANCES",
    "chain",
    "cliff",
    "combination_lock",
    "delayed_choice",
    "dense",
    "four_rooms",
    "garnet",
    "garnet_sparse",
    "grid",
    "ring",
    "ring_sparse",
    "river_swim",
    "stitching_maze",
    "tree",
    "two_state",
]
