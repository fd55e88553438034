"""Fenchel: reinforcement learning objectives, each written once and checked against an exact answer."""

import os as _os
from pathlib import Path as _Path

__version__ = "0.1.0"

# Without it MKL's matrix products depend on where in memory a matrix begins, so that the last bits of a replica would
# depend on how many stand beside it. Read at the first product, and free of charge.
_os.environ.setdefault("MKL_CBWR", "AUTO")

for _layer in ("theory", "envs", "algorithms", "llm"):
    if not (_Path(__file__).parent / _layer).is_dir():
        raise ImportError(
            f"fenchel/{_layer} is not a folder: this copy of the source lost its symbolic links (a zip download, or "
            "Windows without them). Clone with `git clone -c core.symlinks=true`, or install the wheel."
        )
