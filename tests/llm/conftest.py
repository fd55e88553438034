"""A data folder of its own for the session: warm starts are built there once, and touch nobody's."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def data_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FENCHEL_DATA", str(tmp_path_factory.mktemp("data")))
        yield
