"""Commands beside the workflow."""

import json
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


@pytest.fixture
def here(small, tmp_path, monkeypatch):
    """Return a function that stands in a folder with a small configuration."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        (tmp_path / "config.yaml").write_text(json.dumps(small(**changes).model_dump()))
        return tmp_path

    return write


@pytest.mark.parametrize(("command", "told"), [
    ("estimate", r"\[estimate\] 5 trainings take about \d+ min"), ("plan", r"5 runs"),
    ("where", r"no verdict in mine"),
])  # fmt: skip
def test_the_configuration_of_this_folder_is_taken_where_none_is_named(here, command_line, command, told):
    here(results="mine", seeds=[7])
    code, *output = command_line(command)
    assert re.search(told, "".join(output)), output
    (here() / "config.yaml").unlink()
    code, *output = command_line(command)
    assert code == 2
    assert "config.yaml: there is no such file" in "".join(output)


@pytest.mark.parametrize("command", ["estimate", "plan"])
def test_weights_that_no_run_can_start_from_are_told_before_anything_is_timed(here, command_line, command):
    here(runs={"odd": {"model": {"width": 48}, "pretrain": None, "finetune": {"init": "face-mae"}}})
    code, out, told = command_line(command)
    assert (code, out) == (4, "")
    assert re.search(
        r"runs\.odd\.finetune\.init: .* is of another architecture: width 192 instead of 48", told
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"runs": {"taught": {"finetune": {"teacher": "face-tinyy"}}}},
            r"runs\.taught\.finetune\.teacher: There is no recogniser face-tinyy; known are dlib",
        ),
        ({"baselines": ["inception"]}, "baselines: The recogniser inception needs facenet-pytorch's weights"),
    ],
)
def test_a_recogniser_that_is_missing_is_told_before_anything_is_timed(
    here, command_line, monkeypatch, changes, told
):
    monkeypatch.delenv("FACEMAE_INCEPTION", raising=False)
    here(**changes)
    code, out, said = command_line("estimate")
    assert (code, out) == (2, "")
    assert re.search(told, said)


@pytest.mark.parametrize("content", ["{}", "[]", "{", "[" * 100_000])
def test_a_damaged_verdict_is_a_sentence(tmp_path, content):
    (tmp_path / "verdict.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"verdict\.json"):
        show_verdict(Results(tmp_path))
