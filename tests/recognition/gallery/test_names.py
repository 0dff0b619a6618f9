import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.core.errors import UsageError
from facemae.recognition.gallery import names


@pytest.mark.parametrize("name", [
    "Ada Lovelace", "<script>alert(1)</script>", "[x](javascript:1)", "$\\KaTeX$ :material/home:",
    "👩‍👩‍👧‍👦", "محمد", "שרה \u200f", "李小龙", "O'Neil; DROP TABLE", "x" * 100, "\u0301\u0301a",
])  # fmt: skip
def test_what_people_are_called_is_kept(name):
    assert names.fit(name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("name", [
    "a\nb", "a\rb", "a\tb", "a\0b", "a\x7fb", "a\x9fb", "a\u2028b", "a\u2029b", "\ud800", "a\udfff",
    "Ann\u200b", "A\xadnn", "\ufeffAnn", "An\u2060n",
    *(f"a{mark}b" for mark in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"),
])  # fmt: skip
def test_what_deceives_is_refused_without_being_repeated(name):
    with pytest.raises(UsageError, match="line break") as refused:
        names.fit(name)
    assert name not in str(refused.value)


@pytest.mark.parametrize("name", ["", "   ", "\u00a0", "\u200d", "\u200b \u200e"])
def test_what_cannot_be_seen_is_no_name(name):
    with pytest.raises(UsageError, match="empty"):
        names.fit(name)


@pytest.mark.parametrize("length", [101, 10_000, 1_000_000])
def test_a_long_name_is_refused_in_few_words(length):
    with pytest.raises(UsageError, match=f"{length} characters and at most 100") as refused:
        names.fit("x" * length)
    assert len(str(refused.value)) < 100


def test_the_limit_counts_composed_characters():
    assert names.fit("e\u0301" * 100) == "é" * 100
    with pytest.raises(UsageError, match="101"):
        names.fit("e\u0301" * 101)


@given(st.text())
def test_a_fit_name_stays_as_it_is_and_any_text_can_be_shown(text):
    shown = names.shown(text)
    assert len(shown) <= 43
    assert len(shown.splitlines()) == 1
    shown.encode()
    try:
        fit = names.fit(text)
    except UsageError:
        return
    assert names.fit(fit) == fit
    assert 1 <= len(fit) <= 100
    fit.encode()


def test_a_long_name_is_shown_cut():
    assert names.shown("a" * 41) == '"' + "a" * 18 + "..." + "a" * 19 + '"'
    assert names.shown("a" * 40) == '"' + "a" * 40 + '"'
    assert names.shown("a\nb\u202ec") == '"a\\nb\\u202ec"'
