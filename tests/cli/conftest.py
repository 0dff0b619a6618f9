"""The commands as a user types them, in this process, with invented results and an empty gallery."""

import pytest
from recognition.conftest import crowd, finder, gallery, group, made, paths, photos, recogniser  # noqa: F401


@pytest.fixture
def facemae(monkeypatch, command_line, made, tmp_path):  # noqa: F811
    """Return a function that runs a command line: exit code, output, errors."""
    monkeypatch.setenv("FACEMAE_RESULTS", str(made))
    monkeypatch.setenv("FACEMAE_GALLERY", str(tmp_path / "kept" / "faces.sqlite"))
    monkeypatch.chdir(tmp_path)

    return command_line
