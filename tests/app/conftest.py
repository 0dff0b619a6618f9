"""Make the invented results folder available to the app's tests."""

import shutil
from pathlib import Path

import pytest
from results_folder import make_results


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder that no test changes."""
    folder = tmp_path_factory.mktemp("results")
    make_results(folder)
    return folder


@pytest.fixture
def shown(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the app show the unchanged results folder."""
    monkeypatch.setenv("FACEMAE_RESULTS", str(made))
    return made


@pytest.fixture
def own(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the app show a copy, to damage at will."""
    folder = tmp_path / "results"
    shutil.copytree(made, folder)
    monkeypatch.setenv("FACEMAE_RESULTS", str(folder))
    return folder
