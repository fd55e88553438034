"""Fenchel: reinforcement learning objectives, each written once and checked against an exact answer."""

from pathlib import Path as _Path

__version__ = "0.1.0"

for _layer in ("theory", "envs", "algorithms", "llm"):
    if not (_Path(__file__).parent / _layer).is_dir():
        raise ImportError(
            f"fenchel/{_layer} is not a folder: this copy of the source lost its symbolic links (a zip download, or "
            "Windows without them). Clone with `git clone -c core.symlinks=true`, or install the wheel."
        )
