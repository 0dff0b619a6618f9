"""Contestants that take turns, each in a process of its own.

What one of them sets for its whole process (deterministic algorithms, threads, the allocator's cache) leaves
the others as they come, and a neighbour that takes the processor for a while hits all of them alike.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

LISTED = 12  # operations in a profile


@dataclass(frozen=True)
class Order:
    """What a contestant is to do next.

    Attributes:
        lead: Steps before the clock starts: they use up what was prepared while others had their turn.
        steps: Steps on the clock.
        profiled: Whether to say what the steps spend their time on.
    """

    lead: int
    steps: int
    profiled: bool = False


@dataclass(frozen=True)
class Turn:
    """What came of an order.

    Attributes:
        seconds: Of the steps on the clock.
        losses: Of all steps.
        profile: Share of the computing time by operation, the largest first, and on a GPU under "busy" the
            share of the time that it computed.
    """

    seconds: float
    losses: list[float]
    profile: dict[str, float]

    @property
    def loss(self) -> float:
        """Return the mean loss."""
        return statistics.fmean(self.losses)


class Baton:
    """A contestant's end: it calls `step_done` after every step, and goes on when that returns."""

    def __init__(self, connection: Connection, device: str, wall_clock: bool) -> None:
        self._connection, self._device, self._wall_clock = connection, device, wall_clock
        self._losses: list[Tensor] = []
        self._profile: profile | None = None

    def begin(self, network: torch.nn.Module) -> None:
        """Tell that the network is ready for its first step, and wait for the first turn."""
        self._connection.send(sum(weight.numel() for weight in network.parameters()))
        self._wait()

    def step_done(self, loss: Tensor) -> None:
        """Count a step; at the end of the turn, report and wait for the next."""
        self._losses.append(loss.detach())
        done = len(self._losses)
        if done == self._order.lead + self._order.steps:
            self._report()
            self._wait()
        elif done == self._order.lead:
            self._start()

    def _wait(self) -> None:
        try:
            self._order: Order = self._connection.recv()
        except EOFError:  # no more turns
            raise SystemExit from None
        self._losses = []
        if not self._order.lead:
            self._start()

    def _start(self) -> None:
        if self._order.profiled:
            kinds = [ProfilerActivity.CUDA] if self._device == "cuda" else []
            self._profile = profile(activities=[ProfilerActivity.CPU, *kinds])
            self._profile.__enter__()
        self._started = self._now()

    def _report(self) -> None:
        seconds = self._now() - self._started
        shares: dict[str, float] = {}
        if self._profile:
            self._profile.__exit__(None, None, None)
            shares, self._profile = _shares(self._profile, seconds), None
        self._connection.send(Turn(seconds, [float(loss) for loss in self._losses], shares))
        if self._device == "cuda":
            torch.cuda.empty_cache()  # the others need the room; `lead` steps take it again

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() if self._wall_clock else time.process_time()


def _shares(found: profile, seconds: float) -> dict[str, float]:
    on_gpu = [event for event in found.key_averages() if event.device_type == DeviceType.CUDA]
    times = {event.key: event.self_device_time_total for event in on_gpu}
    if not on_gpu:
        times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(times.values())
    largest = sorted(times, key=lambda key: -times[key])[:LISTED]
    shares = {key[:60]: round(times[key] / total, 3) for key in largest}
    return {"busy": round(total / 1e6 / seconds, 3), **shares} if on_gpu else shares


class Contestant:
    """The referee's end of a contestant.

    Attributes:
        parameters: Numbers in its network.
    """

    def __init__(self, play: Callable[[Baton], None], device: str, wall_clock: bool) -> None:
        """Start its process and wait until its network stands.

        Args:
            play: Trains without end; it can be pickled.
            device: "cpu" or "cuda".
            wall_clock: Count the time on the wall, or else that of the process on its processor.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_play, args=(play, other, device, wall_clock))
        self._process.start()
        other.close()
        self.parameters: int = self._receive()

    def turn(self, order: Order) -> Turn:
        """Let it carry out an order.

        Raises:
            OverflowError: the memory does not hold its batch.
            RuntimeError: a loss is not finite, or its process ended.
        """
        self._connection.send(order)
        done: Turn = self._receive()
        if not all(math.isfinite(loss) for loss in done.losses):
            raise RuntimeError(f"a loss is not finite: {done.losses}")
        return done

    def close(self) -> None:
        """End its process."""
        self._connection.close()
        self._process.join()

    def _receive(self) -> Any:
        try:
            told = self._connection.recv()
        except EOFError:
            raise RuntimeError("a contestant's process ended; its error stands above") from None
        if isinstance(told, OverflowError):
            raise told
        return told


def _play(play: Callable[[Baton], None], connection: Connection, device: str, wall_clock: bool) -> None:
    try:
        play(Baton(connection, device, wall_clock))
    except torch.OutOfMemoryError as error:
        connection.send(OverflowError(str(error).splitlines()[0]))


@contextlib.contextmanager
def contest(
    plays: dict[str, Callable[[Baton], None]], device: str, wall_clock: bool
) -> Iterator[dict[str, Contestant]]:
    """Start contestants by name; they end with the `with` block."""
    contestants: dict[str, Contestant] = {}
    try:
        for name, play in plays.items():
            contestants[name] = Contestant(play, device, wall_clock)
        yield contestants
    finally:
        for contestant in contestants.values():
            contestant.close()
