"""Progress lines come early, say what is left, and survive a reader that has gone."""

import itertools
import subprocess
import sys

import pytest

from facemae import progress


@pytest.fixture
def clock(monkeypatch):
    """Make time pass one second per look at the clock."""
    seconds = itertools.count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))


def test_the_first_line_comes_within_two_seconds_and_tells_the_time_left(clock, capsys):
    shown = progress.Progress("align", 100, "photos")
    shown.update(10)
    assert capsys.readouterr().err == "[align] 10/100 photos  eta 00:09\n"


def test_the_time_left_counts_only_what_this_process_did(clock, capsys):
    shown = progress.Progress("pretrain", 100, "steps", done=50)
    shown.update(60, "loss 0.5")
    assert capsys.readouterr().err == "[pretrain] 60/100 steps  loss 0.5  eta 00:04\n"


def test_lines_are_rare_and_the_last_is_always_shown(clock, capsys):
    list(progress.track(range(30), 30, "embed", "batches"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 15
    assert lines[-1].startswith("[embed] 30/30 batches  took")


def test_a_closed_pipe_does_not_stop_the_work():
    code = (
        "import sys\nfrom facemae.progress import say\n"
        "sys.stdin.read()\n"
        "for _ in range(10000): say('x', 'y' * 100)\n"
        "open(sys.argv[1], 'w').write('done')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "/dev/stdout"], stdin=-1, stdout=-1, stderr=-1, text=True
    )
    process.stderr.close()
    process.stdin.close()
    assert process.stdout.read() == "done"
    process.wait()
