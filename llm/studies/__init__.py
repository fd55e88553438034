"""Studies of token policies: see `fenchel.algorithms.studies`."""

from __future__ import annotations

from fenchel.algorithms.studies import Study, fetch

# key -> "module:attribute" below fenchel.llm.studies
STUDIES: dict[str, str] = {
    "preferences": "preferences:STUDY",
}


def get_study(key: str) -> Study:
    """Raises UserError for a key that stands in no row."""
    return fetch(key, STUDIES, __name__)
