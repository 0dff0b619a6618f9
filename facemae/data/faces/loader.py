"""Batches of faces on the compute device, read ahead of the training step.

The faces are kept in one of three places. A GPU holds them all where they fit; otherwise threads read them
from the decoded cache and copy them to the GPU while it computes. On a CPU they are read from the cache, as
far as the operating system keeps it in memory. Shapes: B batch, H side, N faces of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from facemae.compute.device import Compute
from facemae.core.progress import Progress
from facemae.data.faces.cache import OpenFaces

Home = Literal["gpu", "staged", "disk"]
GPU_SHARE = 0.8  # of the memory that is free and not reserved for the training
LOADED_AT_ONCE = 512  # faces on their way to the GPU
WHOLE = slice(None)

_Key = tuple[int, int | None, int | None, int | None]
_Read = tuple[Tensor, torch.cuda.Event | None]


def home_for(size: int, gpu_free: int | None) -> Home:
    """Return where `size` bytes of faces live, given the GPU's free bytes, or None without a GPU."""
    if gpu_free is None:
        return "disk"
    return "gpu" if size <= GPU_SHARE * gpu_free else "staged"


def _free_memory(compute: Compute, reserved: float) -> int | None:
    if not compute.on_gpu:
        return None
    return max(0, int(torch.cuda.mem_get_info(compute.device)[0] - reserved))


class Feed:
    """Batches of faces as a function of the step alone, in whatever order they are asked for.

    There is no state to save, so a training goes on exactly where it was, and nothing depends on the number
    of workers. To be used in a `with` statement, which ends the threads. `home` says where the faces live.
    """

    def __init__(
        self,
        faces: OpenFaces,
        ids_at: Callable[[int], Tensor],
        compute: Compute,
        workers: int,
        reserved: float = 0.0,
    ) -> None:
        """Make all N faces of a training ready; an IntegrityError where the cache is damaged.

        Args:
            faces: The faces.
            ids_at: Returns the ids (B,), from 0 to N - 1 and on the CPU, of a step's batch; any thread may
                call it, also for a step after the last.
            compute: Where batches are wanted.
            workers: Threads that read that many steps ahead; with 0 a batch is read when it is asked for.
            reserved: Bytes of a GPU's memory that the training takes besides.
        """
        self._faces, self._ids_at, self._workers = faces, ids_at, workers
        self.home = home_for(faces.size, _free_memory(compute, reserved))
        self._resident = self._load(compute.device) if self.home == "gpu" else None
        # Made by the thread that chose the GPU; a worker's own choice would be the first GPU.
        self._stream = torch.cuda.Stream(compute.device) if self.home == "staged" else None  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(workers, "feed") if workers and self.home != "gpu" else None
        self._ahead: dict[_Key, Future[_Read]] = {}

    def ids(self, step: int, part: slice = WHOLE) -> Tensor:
        """Return which of the faces a step's batch, or a part of it, holds, (B,) on the CPU."""
        return self._ids_at(step)[part]

    def names(self, step: int) -> list[str]:
        """Return the sample_id of each face of a step's batch."""
        return [self._faces.sample_ids[place] for place in self.ids(step).tolist()]

    def batch(self, step: int, part: slice = WHOLE) -> Tensor:
        """Return the faces (B, H, H, 3) uint8 of a step's batch, or of a part of it, on the device.

        The same part of the next steps is read ahead. An IntegrityError where the cache is damaged, whether
        it is met here or in a worker.
        """
        if self._resident is not None:
            return self._resident.index_select(0, self.ids(step, part).to(self._resident.device))
        ready = self._ahead.pop(_key(step, part), None)
        self._read_ahead(step, part)
        faces, copied = ready.result() if ready else self._read(step, part)
        if copied is not None:
            current = torch.cuda.current_stream(faces.device)
            current.wait_event(copied)
            faces.record_stream(current)  # their memory was given out to the other stream
        return faces

    def close(self) -> None:
        """End the threads; what they have read ahead is let go."""
        self._ahead.clear()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_ahead(self, step: int, part: slice) -> None:
        if self._pool is None:
            return
        last = step + self._workers
        for key in [key for key in self._ahead if not step <= key[0] <= last]:  # the caller went elsewhere
            self._ahead.pop(key).cancel()
        for later in range(step + 1, last + 1):
            if _key(later, part) not in self._ahead:
                self._ahead[_key(later, part)] = self._pool.submit(self._read, later, part)

    def _read(self, step: int, part: slice) -> _Read:
        ids = self.ids(step, part).numpy()
        if self._stream is None:
            return self._fill(ids, pinned=False), None
        with torch.cuda.device(self._stream.device), torch.cuda.stream(self._stream):
            # PyTorch gives pinned memory out again only when what is copied from it has arrived.
            there = self._fill(ids, pinned=True).to(self._stream.device, non_blocking=True)
            return there, self._stream.record_event()

    def _fill(self, ids: np.ndarray, pinned: bool) -> Tensor:
        faces = torch.empty((len(ids), *self._faces.file.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        self._faces.read(ids, faces.numpy())
        return faces

    def _load(self, device: torch.device) -> Tensor:
        count = len(self._faces.places)
        resident = torch.empty((count, *self._faces.file.shape[1:]), dtype=torch.uint8, device=device)
        progress = Progress("feed", count, "faces on the GPU")
        for start in range(0, count, LOADED_AT_ONCE):
            ids = np.arange(start, min(start + LOADED_AT_ONCE, count))
            resident[start : start + LOADED_AT_ONCE] = self._fill(ids, pinned=False)
            progress.update(start + len(ids))
        return resident


def _key(step: int, part: slice) -> _Key:
    return step, part.start, part.stop, part.step
