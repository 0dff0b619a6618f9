"""Whatever lies in a folder, the command accounts for it: N inputs, N outcomes, no crash, little memory."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from hostile_images import build

MB = 1e6


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return folder, build(folder)


@pytest.fixture(scope="module")
def finished(hostile, tmp_path_factory):
    """The real command over the corpus, and what it printed and took."""
    folder, _ = hostile
    out = tmp_path_factory.mktemp("out")
    code = (
        "import resource, sys\nsys.argv[0] = 'facemae'\nfrom facemae.__main__ import main\n"
        "try: main()\nfinally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)"
    )
    command = [sys.executable, "-c", code, "data", "prepare", str(folder), "--out", str(out)]
    done = subprocess.run(
        [*command, "--max-skipped", "1", "--unlabelled"], capture_output=True, text=True, check=False
    )
    return done, out


def lines(out):
    return [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]


def test_every_input_has_exactly_one_coded_outcome(hostile, finished):
    folder, expected = hostile
    done, out = finished
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    told = lines(out)
    inputs = [name for name in os.listdir(os.fsencode(folder)) if not name.startswith(b".")]  # noqa: PTH208
    assert len(expected) >= 60
    assert len(told) == len({each["sample_id"] for each in told})
    assert len(told) >= len(inputs) - 1  # an empty folder is no input
    for each in told:
        assert each["code"] == "OK" or (each["reason"] and each["hint"])


def test_outcomes_are_the_decoders_where_it_refuses(hostile, finished):
    """A picture that the decoder refuses keeps the decoder's code; one that it reads may lack a face."""
    _, expected = hostile
    told = {each["sample_id"].removeprefix("unlabelled/"): each["code"] for each in lines(finished[1])}
    known = {name: code for name, code in expected.items() if name in told}
    known |= {"link.png": None, "dangling.png": "E_PERMISSION"}  # links are followed where a folder is listed
    assert len(known) > 50
    for name, code in known.items():
        allowed = {code} if code else {"OK", "NO_FACE", "LOW_SCORE", "NO_LANDMARKS"}
        assert told[name] in allowed, name


def test_the_summary_is_short_and_names_the_report(finished):
    done, out = finished
    summary = [line for line in done.stderr.splitlines() if line.startswith("[align]")]
    by_code = [line for line in summary if ": " in line]
    assert len(by_code) <= 10
    assert str(out / "report.jsonl") in summary[-1]
    counts = Counter(each["code"] for each in lines(out))
    assert f"[align] OK: {counts['OK']}" in " ".join(summary)


def test_no_terminal_escape_reaches_the_screen(finished):
    done, _ = finished
    assert not set("\x1b\x07") & set(done.stdout + done.stderr)
    assert "\\x1b[2J" in done.stderr  # a name that holds one was shown


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # which is as it should be
def test_running_again_gives_the_same_report(hostile, finished, tmp_path, command_line):
    """Bytes of report and index are equal, wherever they are made."""
    folder, _ = hostile
    _, out = finished
    before = (out / "report.jsonl").read_bytes()
    options = ["--out", tmp_path / "o", "--max-skipped", "1", "--unlabelled"]
    assert command_line("data", "prepare", folder, *options)[0] == 0
    assert (tmp_path / "o" / "report.jsonl").read_bytes() == before


def test_decoding_adds_little_to_what_the_networks_take(finished):
    """PyTorch and the detector alone fill some 760 MB of address space, mostly pages of its libraries."""
    done, _ = finished
    peak = int(done.stdout.splitlines()[-1]) * 1024
    baseline = subprocess.run(
        [sys.executable, "-c", BASELINE], capture_output=True, text=True, check=True
    ).stdout
    assert peak - int(baseline) * 1024 < 600 * MB


BASELINE = """
import resource
import facemae.stages.data
from facemae.data.alignment.detect import MtcnnDetector
MtcnnDetector()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
