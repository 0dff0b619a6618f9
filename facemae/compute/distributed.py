"""Several processes on one training, as `torchrun` starts them: each computes a part of every batch.

Gradients are averaged over the processes, so that the weights stay equal everywhere and come out as those
of one process with the whole batch, up to the rounding of a sum.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from facemae.core.errors import UsageError

PATIENCE = timedelta(minutes=30)  # for the slowest process: the first one alone writes checkpoints


@dataclass(frozen=True)
class World:
    """The processes that share a training, and this one's place among them."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this process is the one that writes and reports."""
        return self.rank == 0

    def parts(self, batch: int, accumulate: int) -> list[slice]:
        """Return this process's parts of a step's batch; a UsageError where the batch has no equal parts."""
        count = self.size * accumulate
        if batch % count:
            raise UsageError(
                f"batch_size {batch} does not divide into {self.size} processes times {accumulate} parts; "
                f"choose a multiple of {count}."
            )
        length = batch // count
        mine = range(self.rank * accumulate, (self.rank + 1) * accumulate)
        return [slice(place * length, (place + 1) * length) for place in mine]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in place and in one message per type."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([tensor.flatten() for tensor in group])
            dist.all_reduce(flat)
            flat /= self.size
            parts = torch.split(flat, [tensor.numel() for tensor in group])
            for tensor, part in zip(group, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def first_ones(self, values: dict[str, float]) -> dict[str, float]:
        """Return the first process's values, so that all decide alike."""
        if self.size == 1:
            return values
        message = [values]
        dist.broadcast_object_list(message, src=0)
        return message[0]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Tell whether the flag is set in any of the processes."""
        if self.size == 1:
            return flag
        value = torch.tensor([flag], dtype=torch.int32, device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


def local_rank() -> int:
    """Return which of this machine's GPUs is this process's: torchrun says it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun has started; without it this process is alone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=PATIENCE, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
