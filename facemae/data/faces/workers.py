"""Alignment on all cores: shards are handed to worker processes, each with a detector of its own.

The faces do not depend on the number of workers: a shard is always the work of one thread, and which
photos are in it follows from the manifest alone.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from facemae.core.errors import StorageError
from facemae.core.progress import Progress, say
from facemae.data.alignment.align import Settings, align_photos
from facemae.data.faces import shards as store
from facemae.data.sources import manifest
from facemae.data.sources.manifest import Entry

if TYPE_CHECKING:
    from facemae.data.alignment.detect import FaceDetector

_PRELOAD = ["facenet_pytorch"]  # imported once, then shared by all workers
_AHEAD = 2  # shards waiting per worker


@dataclass(frozen=True)
class Plan:
    """What is to be aligned: the manifest `photos`, the folder for the `shards`, how, and on which device."""

    photos: Path
    shards: Path
    settings: Settings
    device: Literal["auto", "cpu", "cuda"]


Task = tuple[Path, list[Entry]]


def align_all(plan: Plan, workers: int) -> None:
    """Align every photo of the manifest that the shards do not hold yet, in up to `workers` processes.

    A StorageError where the disk is full, or a worker was killed.
    """
    store.forget_passing(plan.shards)
    missing = ~np.isin(manifest.keys(plan.photos), store.stored_keys(plan.shards))
    pending = int(missing.sum())
    done = len(missing) - pending
    if done:
        say("align", f"{done} of {len(missing)} photos are aligned already")
    if not pending:
        return
    progress = Progress("align", len(missing), "photos", done)
    entries = itertools.compress(manifest.read(plan.photos), missing)
    paths = (store.shard_path(plan.shards, number) for number in store.free_numbers(plan.shards))
    tasks = zip(paths, manifest.batched(entries, store.ROWS), strict=False)
    workers = min(workers, -(-pending // store.ROWS))
    if workers == 1:
        numbers, aligner = itertools.count(done + 1), _Aligner(plan)
        for task in tasks:
            aligner.run(task, lambda: progress.update(next(numbers)))
    else:
        _together(plan, tasks, progress, done, workers)


class _Aligner:
    """What a worker keeps between shards."""

    def __init__(self, plan: Plan) -> None:
        self._settings = plan.settings
        self._columns = store.schema(manifest.attributes_of(plan.photos))
        self._detector: FaceDetector | None = None
        if plan.settings.detector:  # else all photos are faces already
            from facemae.compute import device
            from facemae.data.alignment.detect import MtcnnDetector

            # One thread: the detector's last digits depend on it, and every result with them.
            compute = device.choose(plan.device, "float32", threads=1)
            self._detector = MtcnnDetector(str(compute.device), thorough=plan.settings.thorough)

    def run(self, task: Task, aligned: Callable[[], None]) -> None:
        """Make one shard, calling `aligned` after each photo."""
        path, entries = task
        outcomes = []
        for outcome in align_photos(entries, self._detector, self._settings):
            outcomes.append(outcome)
            aligned()
        store.write_shard(path, outcomes, self._columns)


def _together(plan: Plan, tasks: Iterator[Task], progress: Progress, done: int, workers: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD if plan.settings.detector else [])
    count = context.Value("q", done)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(plan, count))
    waiting: set[Future[None]] = set()
    try:
        with kill_explained("workers"):
            while True:
                room = _AHEAD * workers - len(waiting)
                waiting |= {pool.submit(_work, task) for task in itertools.islice(tasks, room)}
                if not waiting:
                    break
                finished, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                progress.update(count.value)
                for future in finished:
                    future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def kill_explained(what: str) -> Iterator[None]:
    """Turn the sudden end of a pool's process into a StorageError, which asks for fewer `what`."""
    try:
        yield
    except BrokenProcessPool as error:
        raise StorageError(
            f"A worker was killed, most likely because memory ran out; give fewer {what} and run the same "
            "command again, it goes on where it was."
        ) from error


_worker: dict[str, Any] = {}  # what this process keeps, if it is a worker


def _start(plan: Plan, count: Any) -> None:
    follow_parent()
    _worker.update(aligner=_Aligner(plan), count=count)


def follow_parent() -> None:
    """Leave it to the parent process when this one, its worker, ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everyone; the parent decides

    def leave_with_parent() -> None:  # a worker whose parent was killed would wait for work for ever
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _work(task: Task) -> None:
    count = _worker["count"]

    def count_one() -> None:
        with count.get_lock():
            count.value += 1

    _worker["aligner"].run(task, count_one)
