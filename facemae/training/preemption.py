"""Stop signals: the first one asks for a stop at the next safe moment, a second one ends the process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from facemae.core.errors import FaceMAEError, PreemptedError


class Stop:
    """Whether a signal asked for the work to stop, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """Tell whether a stop is asked for."""
        return self.signal is not None

    def error(self, label: str, step: int) -> FaceMAEError:
        """Return what ends a training that was stopped after `step` and saved."""
        error = PreemptedError(
            f"{label} stopped at step {step} and was saved; run the same command to go on."
        )
        if self.signal == signal.SIGINT:
            error.exit_code = 130
        return error


@contextlib.contextmanager
def stop_signal(*, told_twice: bool = False) -> Iterator[Stop]:
    """Turn the first stop signal into a request; a second one ends the process at once.

    With `told_twice` it changes nothing, as under torchrun, which passes on what its processes have been sent
    too.
    """
    stop = Stop()
    watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def request(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        if not told_twice:
            for each in watched:
                signal.signal(each, before[each])

    before = {each: signal.getsignal(each) for each in watched}
    for each in watched:
        signal.signal(each, request)
    try:
        yield stop
    finally:
        for each in watched:
            signal.signal(each, before[each])
