"""Progress lines with the time left, readable on a terminal, in a log and from several jobs at once."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from facemae.core.text import MAX_LINE, shown

T = TypeVar("T")

FIRST_SECONDS = 0.5
EVERY_SECONDS = 3.0


class Progress:
    """Print a line `[label] done/total ... eta` now, every few seconds, and at the end.

    A line is printed per interval rather than a bar redrawn, since jobs share one terminal.
    """

    def __init__(self, label: str, total: int | None, unit: str, done: int = 0) -> None:
        """Count `unit`s from `done` to `total`; without a total there is no time left to show."""
        self._label, self._total, self._unit = label, total, unit
        self._first = self._done = done
        self._started = time.monotonic()
        self._next = self._started + FIRST_SECONDS

    def update(self, done: int, note: str = "") -> None:
        """Record that `done` of the total are done; print if it is time."""
        finishes = done == self._total and self._done != done
        self._done = done
        now = time.monotonic()
        if finishes or (now >= self._next and done != self._total):
            self._next = now + EVERY_SECONDS
            say(self._label, self._line(now, note))

    def _line(self, now: float, note: str) -> str:
        elapsed = now - self._started
        rate = (self._done - self._first) / elapsed if elapsed > 0 else 0.0
        share = f"{self._done}{f'/{self._total}' if self._total is not None else ''} {self._unit}"
        when = f"took {tqdm.format_interval(elapsed)}"
        if self._total is not None and self._done < self._total:
            when = f"eta {tqdm.format_interval((self._total - self._done) / rate)}" if rate else "eta ?"
        return "  ".join(part for part in (share, note, when) if part)


def say(label: str, text: str) -> None:
    """Print one line to the standard error stream, flushed; what it quotes is escaped and short."""
    if sys.stderr is None:  # closed from the start; `print` would take the output instead, perhaps amid JSON
        return
    # Whoever read the progress may be gone, as when a terminal is closed; the work goes on.
    with contextlib.suppress(BrokenPipeError):
        print(shown(f"[{label}] {text}", MAX_LINE), file=sys.stderr, flush=True)


def track(items: Iterable[T], total: int | None, label: str, unit: str) -> Iterator[T]:
    """Yield `items`, printing progress."""
    progress = Progress(label, total, unit)
    for done, item in enumerate(items, start=1):
        yield item
        progress.update(done)
