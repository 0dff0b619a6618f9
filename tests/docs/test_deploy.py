"""The units of docs/deploy.md: what systemd says of them, and that their commands are the program's."""

import configparser
import re
import shutil
import subprocess
import textwrap

import pytest
import typer
from typer.testing import CliRunner

from facemae.__main__ import app
from facemae.recognition.settings import VARIABLE

UNITS = ("facemae.service", "facemae-purge.service", "facemae-purge.timer")


@pytest.fixture
def units(root):
    """Return the text of every unit by its file's name: the block of code after the name."""
    text = (root / "docs" / "deploy.md").read_text("utf-8")
    found = {}
    for name in UNITS:
        after = text[text.index(f"/etc/systemd/system/{name}`") :]
        found[name] = textwrap.dedent(re.search(r"\n\n((?:    .*\n|\n)+)", after)[1])
    return found


def parsed(text):
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(text)
    return unit


def test_the_timer_purges_the_gallery_of_the_app(units):
    app_unit, purge, timer = (parsed(units[name]) for name in UNITS)
    assert purge["Service"]["Environment"] == app_unit["Service"]["Environment"]
    assert purge["Service"]["Environment"].startswith(f"{VARIABLE}=")
    for same in ("User", "WorkingDirectory", "StateDirectory", "StateDirectoryMode"):
        assert purge["Service"][same] == app_unit["Service"][same]
    assert purge["Service"]["Type"] == "oneshot"
    assert timer["Timer"]["OnCalendar"]
    assert timer["Install"]["WantedBy"] == "timers.target"
    program, *command = purge["Service"]["ExecStart"].split()
    assert program == "/srv/facemae/.venv/bin/facemae"
    assert isinstance(app, typer.Typer)
    asked = CliRunner().invoke(app, [*command, "--help"])
    assert asked.exit_code == 0
    assert "Delete those whose time is over" in asked.output


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_takes_the_units(units, tmp_path):
    for name, text in units.items():
        # The program and its folder are on the server only.
        text = text.replace("/srv/facemae/.venv/bin/", "/bin/true #").replace("/srv/facemae", "/")
        (tmp_path / name).write_text(text)
    asked = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in units)],
        capture_output=True,
        text=True,
    )
    complaints = [line for line in asked.stderr.splitlines() if "facemae" in line and "not found" not in line]
    assert (asked.returncode, complaints) == (0, [])
