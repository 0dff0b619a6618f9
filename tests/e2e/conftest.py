"""Make the invented results folder available to the browser."""

from pathlib import Path

import pytest
from results_folder import make_results


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder to show."""
    folder = tmp_path_factory.mktemp("results")
    make_results(folder)
    return folder
