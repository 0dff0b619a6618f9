"""Progress lines come early, say what is left, and survive a reader that has gone."""

import itertools
import subprocess
import sys

import pytest

from facemae.core import progress


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


def test_the_last_line_is_shown_once_however_often_it_is_told(clock, capsys):
    shown = progress.Progress("cache", 10, "faces")
    for done in (3, 10, 10, 10, 10):
        shown.update(done)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["[cache] 3/10 faces", "[cache] 10/10 faces"]


def test_what_was_done_before_needs_no_line(clock, capsys):
    shown = progress.Progress("cache", 10, "faces", done=10)
    for _ in range(3):
        shown.update(10)
    assert capsys.readouterr().err == ""


def test_without_a_total_the_count_and_the_time_are_shown(clock, capsys):
    list(progress.track(iter(range(20)), None, "fetch", "photos"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[fetch] 1 photos  took 00:01"
    assert 2 < len(lines) < 10
    assert not any("eta" in line or "/" in line or "None" in line for line in lines)


def test_more_than_expected_is_no_time_before_the_end(clock, capsys):
    list(progress.track(range(12), 6, "fetch", "photos"))
    lines = capsys.readouterr().err.splitlines()
    assert "[fetch] 6/6 photos  took" in " ".join(lines)
    assert "/6 photos  took" in lines[-1]
    assert "-" not in "".join(lines)


def test_nothing_to_do_says_nothing(clock, capsys):
    assert list(progress.track([], 0, "embed", "batches")) == []
    assert capsys.readouterr().err == ""


def test_no_rate_is_known_before_anything_is_done(clock, capsys):
    progress.Progress("align", 10, "photos").update(0)
    assert capsys.readouterr().err == "[align] 0/10 photos  eta ?\n"


def test_a_closed_pipe_does_not_stop_the_work():
    code = (
        "import sys\nfrom facemae.core.progress import say\n"
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


def test_where_errors_are_not_shown_nothing_goes_into_the_output(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    progress.say("run", "on")
    assert capsys.readouterr().out == ""
