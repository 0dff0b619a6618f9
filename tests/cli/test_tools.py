"""Commands beside the workflow."""

import os
import re

import pytest
from typer.testing import CliRunner

from facemae.__main__ import app
from facemae.cli.tools import show_verdict
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results


def test_the_app_opens_on_the_results_that_are_named(tmp_path, monkeypatch):
    started = {}
    monkeypatch.setattr(
        os, "execve", lambda _, command, environment: started.update(environment, run=command)
    )
    assert CliRunner().invoke(app, ["app", "--results", str(tmp_path)]).exit_code == 0
    assert started["FACEMAE_RESULTS"] == str(tmp_path)
    assert started["run"][1:4] == ["-m", "streamlit", "run"]


def test_an_app_without_results_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["app", "--results", str(tmp_path / "none")])
    assert "is no folder of results" in str(done.exception)


def test_the_time_of_a_job_is_told_before_it_starts(root, tmp_path, capfd):
    tiny = root / "config" / "tiny.yaml"
    done = CliRunner().invoke(app, ["estimate", "--config", str(root / "config.yaml"), "--config", str(tiny)])
    assert done.exit_code == 0
    assert re.search(r"8 trainings take about \d+ min on this machine \(cpu", done.output + done.stderr)


@pytest.mark.parametrize("content", ["{}", "[]", "{", "[" * 100_000])
def test_a_damaged_verdict_is_a_sentence(tmp_path, content):
    (tmp_path / "verdict.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"verdict\.json"):
        show_verdict(Results(tmp_path))
