"""Text from outside (file names, cells of a table, values of JSON), made fit to be shown."""

from __future__ import annotations

import re

MAX_SHOWN = 120  # characters of a name or a cell inside a sentence
MAX_LINE = 1000  # characters of a whole message or progress line
# Control characters, line and paragraph separators, direction overrides, zero-width characters, and lone
# surrogates, which are bytes of a file name that are no UTF-8. Joiners stay: names in many scripts need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f\ufeff\ud800-\udfff]"
)


def shown(text: object, limit: int = MAX_SHOWN) -> str:
    r"""Return text that a terminal, a log or a page can show: escaped (\x1b) and at most `limit` characters.

    What is too long loses its middle, so that a sentence keeps its end, where the next step stands. Text that
    has been through here stays as it is.
    """
    whole = str(text)
    if len(whole) > 4 * limit:  # megabytes are cut before they are escaped
        whole = whole[: 2 * limit] + whole[-2 * limit :]
    plain = escaped(whole)
    if len(plain) <= limit and len(whole) == len(str(text)):
        return plain
    head = (limit - 3) // 2
    return f"{plain[:head]}...{plain[len(plain) - (limit - 3 - head) :]}"


def escaped(text: str) -> str:
    """Return text with every control character spelt out."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def percent(share: float) -> str:
    """Return a share in percent with two digits that count, such as 0.03% or 12%."""
    return f"{float(f'{100 * share:.2g}'):g}%"
