"""Make the invented results folder available to the app's tests."""

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from driving import free_port
from results_folder import EVERYTHING, make_results, pack_models, photos_are_orls
from streamlit.components.v2 import manifest_scanner

from benchmarks.visitor import serving
from facemae.app.access import VARIABLE
from facemae.core import files, records
from facemae.models import shipped_models


@pytest.fixture(scope="session", autouse=True)
def _packages_looked_through_once() -> Iterator[None]:
    """Streamlit looks through every installed package when a page is opened, longer than it draws it."""
    with pytest.MonkeyPatch.context() as patch:
        name = "scan_component_manifests"
        patch.setattr(manifest_scanner, name, functools.cache(getattr(manifest_scanner, name)))
        yield


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder that no test changes."""
    folder = tmp_path_factory.mktemp("results")
    make_results(folder)
    photos_are_orls(folder)
    return folder


@pytest.fixture(scope="session")
def server(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of the app; it shows the unchanged results folder and has a gallery of its own."""
    gallery = tmp_path_factory.mktemp("served") / "faces.sqlite"
    environment = {"FACEMAE_RESULTS": str(made), "FACEMAE_GALLERY": str(gallery), VARIABLE: ""}
    with serving(environment, free_port()) as (address, _):
        yield address


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


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of models that come with the package: empty, so that a test knows what is offered."""
    monkeypatch.setattr(shipped_models, "FOLDER", tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.fixture(scope="session")
def packed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with face-mae and face-embedder that no test changes."""
    folder = tmp_path_factory.mktemp("packed")
    pack_models(made, folder)
    path = folder / "face-embedder" / "card.json"
    row = {"target_fmr": 0.001, "threshold": 0.5, "fmr": 0.001, "fnmr": 0.1, "note": ""}
    files.write_json(path, records.read_json(path) | {"thresholds": [row], "people": 2000})
    return folder


@pytest.fixture
def with_models(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the package come with them; pages that other tests have opened know none."""
    monkeypatch.setattr(shipped_models, "FOLDER", packed)
    st.cache_data.clear()
    yield
    st.cache_data.clear()
