"""Text from outside reaches a terminal, a log or a page escaped and short."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.core.errors import UsageError
from facemae.core.progress import say
from facemae.core.text import MAX_LINE, percent, shown

ATTACKS = ["\x1b[2Jgone", "\x9b31m", "a\nb", "a\rb", "a\x00b", "\u202egpj.exe", "\u2028", "\udcff", "\x07"]


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_reaches_a_terminal_as_a_command(text, capsys):
    for told in (shown(text), str(UsageError(f"{text}: it is unknown."))):
        assert told.isprintable()
        assert "\\" in told
    say(text, text)
    line = capsys.readouterr().err
    assert line.endswith("\n")
    assert line[:-1].isprintable()


@pytest.mark.parametrize("text", ["Zoë Kowalska-Łęcka", "中文/照片 1.jpg", "back\\slash", "न्‍य"])
def test_plain_names_stay_as_they_are(text):
    assert shown(text) == text


def test_a_message_of_megabytes_keeps_its_beginning_and_its_next_step():
    error = str(UsageError(f"people.csv: {'x' * 10_000_000} is no person; correct the cell."))
    assert error.startswith("people.csv: xxx")
    assert error.endswith("correct the cell.")
    assert len(error) <= MAX_LINE


def test_a_progress_line_of_megabytes_is_cut(capsys):
    say("align", "y" * 5_000_000)
    assert len(capsys.readouterr().err) <= MAX_LINE + 20


@given(st.text(st.characters(), max_size=300), st.integers(8, 200))
def test_what_is_shown_is_short_printable_and_stays(text, limit):
    once = shown(text, limit)
    assert len(once) <= limit
    assert once.encode("utf-8").decode("utf-8") == once
    assert shown(once, limit) == once


@pytest.mark.parametrize(
    ("share", "said"), [(0.0003, "0.03%"), (0.0104, "1%"), (0.255, "26%"), (1.0, "100%"), (0.0, "0%")]
)
def test_a_share_keeps_two_digits_that_count(share, said):
    assert percent(share) == said
