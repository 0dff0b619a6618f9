"""The day that decides who is kept, by a clock that may be wrong.

A clock that is far ahead would delete everybody. So the gallery holds the newest day that it has seen: where
the clock is more than `JUMP` days off it, nobody is deleted or enrolled until somebody has said that it is
right. A clock that is a little behind prolongs nothing: then the newest day counts. Who is removed, and how,
stands in `store.py` (`purge`, `remove`) and `database.py`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import NamedTuple

from facemae.core.errors import IntegrityError
from facemae.recognition.gallery.schema import DAMAGED

JUMP = 31  # days that a gallery may lie unused before somebody is asked
# The day is stored times a prime: no bit of the product can flip without leaving a remainder.
_PRIME = 1_000_003


class ClockWarning(UserWarning):
    """The clock has jumped, and nobody is deleted before somebody has said that it is right."""


def now() -> datetime:
    """Return the time in UTC, as the database holds it: without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def today() -> date:
    """Return the clock's day in UTC."""
    return now().date()


def stored(day: date) -> int:
    """Return a day as a number that shows whether one of its bits has flipped."""
    return day.toordinal() * _PRIME


def _read(number: int) -> date:
    day, rest = divmod(number, _PRIME)
    if rest or not 0 < day <= date.max.toordinal():
        raise IntegrityError(DAMAGED)
    return date.fromordinal(day)


class Clock(NamedTuple):
    """What day it is for a gallery, and why nobody is deleted and what to do; None: the clock is plausible.

    People who are kept until an earlier day are not shown.
    """

    day: date
    warning: str | None


def clock(number: int) -> Clock:
    """Return what day it is, by the clock and by the newest day seen, as `stored` gave it; 0: none yet."""
    says = today()
    seen = _read(number) if number else says
    if abs((says - seen).days) <= JUMP:
        return Clock(max(says, seen), None)
    return Clock(
        says,
        f"This machine's clock says {says} and the gallery was last used on {seen}, so nobody is deleted; if "
        "the clock is right, say so: facemae gallery purge --yes; else set it.",
    )
