"""What a person may be called: any script, emoji and markup, kept literally, but nothing that deceives."""

from __future__ import annotations

import unicodedata

from facemae.core import text
from facemae.core.errors import UsageError

LONGEST = 100  # characters, after normalisation
_SHOWN = 40  # characters of a name that a message repeats
# What turns the reading direction of all that follows, and so makes a line say what it does not.
_BIDI = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
# What is never seen and joins nothing, so that two names would look alike: soft hyphen, zero-width space and
# kin, byte order mark. Joiners and marks of direction stay: names in many scripts need them.
_UNSEEN = frozenset(map(chr, (0xAD, 0x200B, *range(0x2060, 0x2065), 0xFEFF)))
# Control characters, lone halves of surrogate pairs, line and paragraph separators.
_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
_INVISIBLE = frozenset({"Cf", "Zs", "Mn", "Me"})


def fit(name: str) -> str:
    """Return the name as it is stored: NFC (Unicode Standard Annex 15), without spaces at its ends.

    A UsageError, which does not repeat it, tells where it is empty, too long, or deceives.
    """
    plain = normalised(name)
    if len(plain) > LONGEST:
        raise UsageError(
            f"The name has {len(plain)} characters and at most {LONGEST} are allowed; shorten it."
        )
    if all(unicodedata.category(each) in _INVISIBLE for each in plain):
        raise UsageError(f"The name is empty; type one of 1 to {LONGEST} characters.")
    if any(each in _BIDI | _UNSEEN or unicodedata.category(each) in _REFUSED for each in plain):
        raise UsageError(
            "The name holds a line break, a control character or a mark that nobody sees or that turns the "
            "reading direction; type it again without."
        )
    return plain


def is_fit(name: str) -> bool:
    """Return whether a name could be stored as it is."""
    try:
        return fit(name) == name
    except UsageError:
        return False


def normalised(name: str) -> str:
    """Return the name in the form in which names are compared: NFC, without spaces at its ends."""
    # A name that is far too long is not worth normalising, which may make it longer still.
    return unicodedata.normalize("NFC", name).strip() if len(name) <= 10 * LONGEST else name


def shown(name: str) -> str:
    """Return a name for a message: one line, quoted, cut where it is long."""
    return f'"{text.shown(name, _SHOWN)}"'
