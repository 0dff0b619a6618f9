"""Make the invented results folder available to the app's tests."""

import shutil
from pathlib import Path

import pytest
from results_folder import EVERYTHING, make_results, photos_are_orls


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder that no test changes."""
    folder = tmp_path_factory.mktemp("results")
    make_results(folder)
    photos_are_orls(folder)
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


@pytest.fixture(scope="session")
def made_with_everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder with every protocol, cheap controls and a rival, that no test changes."""
    folder = tmp_path_factory.mktemp("everything")
    make_results(folder, **EVERYTHING)
    return folder


@pytest.fixture
def everything(made_with_everything: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the app show it."""
    monkeypatch.setenv("FACEMAE_RESULTS", str(made_with_everything))
    return made_with_everything


@pytest.fixture(autouse=True)
def _own_gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep everybody whom a test enrols apart, also from people enrolled on this machine."""
    monkeypatch.setenv("FACEMAE_GALLERY", str(tmp_path / "gallery" / "faces.sqlite"))
