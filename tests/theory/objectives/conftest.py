"""Every test of an objective checks the shapes in its signature."""

import pytest


@pytest.fixture(autouse=True)
def signatures(checked):
    """See `checked` in tests/conftest.py."""
