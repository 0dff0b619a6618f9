"""The commands as a user types them, in this process, with invented results and an empty gallery."""

import sys

import pytest
from recognition.conftest import finder, gallery, group, made, paths, photos, recogniser  # noqa: F401

from facemae import __main__ as cli


@pytest.fixture
def facemae(monkeypatch, capsys, made, tmp_path):  # noqa: F811
    """Return a function that runs a command line: exit code, output, errors."""
    monkeypatch.setenv("FACEMAE_RESULTS", str(made))
    monkeypatch.setenv("FACEMAE_GALLERY", str(tmp_path / "kept" / "faces.sqlite"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["facemae", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        found = capsys.readouterr()
        return ended.value.code or 0, found.out, found.err

    return run
