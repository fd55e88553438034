"""Settings of every test: few threads, reproducible examples, GPU tests skipped loudly."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import config as shapes
from jaxtyping import install_import_hook

# The shapes and types in the signatures of objectives can be checked at every call. Their own tests do, by the fixture
# `checked`; claims and learners let axes of length one broadcast, which a signature of equal shapes would refuse.
install_import_hook(["fenchel.theory.objectives", "fenchel.theory.divergences"], "beartype.beartype")
shapes.update("jaxtyping_disable", True)

PROFILES = {"dev": 30, "ci": 50, "nightly": 1000}
for name, examples in PROFILES.items():
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        derandomize=name == "ci",
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
torch.set_num_threads(1)


@pytest.fixture
def checked(request: pytest.FixtureRequest):
    """Signatures are checked, but for tests marked `unchecked`: these pass a wrong type to read our own message."""
    shapes.update("jaxtyping_disable", request.node.get_closest_marker("unchecked") is not None)
    yield
    shapes.update("jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def denormals():
    """A learner flushes denormal numbers in the whole process; other tests, and hypothesis, want them back."""
    yield
    torch.set_flush_denormal(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: NOT TESTED here"))


def pytest_terminal_summary(terminalreporter) -> None:
    """Name what was not tested for want of a package or a device, so that a skip is not silent."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"NOT TESTED ({count}): {reason}")
