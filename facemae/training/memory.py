"""What a training step costs, in memory and arithmetic: measured on a few images before the run."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from facemae import config
from facemae.compute.device import Compute, set_fused_attention
from facemae.compute.distributed import ALONE, World
from facemae.core.errors import UsageError

FEW, MORE = 2, 4  # images: what grows from one to the other is what an image takes
BACKWARD = 2  # times the forward pass: one product for the gradient of each factor
# Bytes per weight: itself, its gradient and AdamW's two means in float32.
WEIGHT_BYTES = 16
MARGIN = 1.2  # on the estimate, for what is not kept for the backward pass
GIB = 2**30
SMALLER = "choose a smaller model, or a larger patch_size."
OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory")


@dataclass(frozen=True)
class Cost:
    """The cost of a training: `flops` per image, forward and backward, and memory in bytes.

    `image_bytes` is per image of a batch, for what the backward pass needs, `fixed_bytes` whatever the batch.
    """

    flops: float
    image_bytes: float
    fixed_bytes: float

    def bytes(self, images: int) -> float:
        """Return the memory that a part of `images` images takes."""
        return MARGIN * (self.fixed_bytes + images * self.image_bytes)


def measure(network: nn.Module, forward: Callable[[nn.Module, int], Any], compute: Compute) -> Cost:
    """Measure what `forward(network, images)` costs, on a copy of the network."""
    trial = copy.deepcopy(network)
    few, _ = _saved(trial, forward, FEW, compute)
    more, _ = _saved(trial, forward, MORE, compute)
    set_fused_attention(trial, fused=False)  # not every fused kernel's operations are counted
    _, flops = _saved(trial, forward, FEW, compute)
    per_image = max(0.0, (more - few) / (MORE - FEW))
    weights = sum(weight.numel() for weight in network.parameters())
    return Cost((1 + BACKWARD) * flops / FEW, per_image, WEIGHT_BYTES * weights + few - FEW * per_image)


def check(cost: Cost, training: config.Training, compute: Compute, label: str, world: World = ALONE) -> None:
    """Stop before a run that the memory cannot hold.

    Raises:
        UsageError: says how much is needed and free, and which setting to change.
    """
    images = training.batch_size // (training.grad_accumulation * world.size)
    if cost.bytes(images) > free_bytes(compute):
        raise UsageError(f"{label} {advice(cost, training, compute, world)}")


@contextlib.contextmanager
def explained(
    label: str, why: Callable[[], str] = lambda: f" before its first step; {SMALLER}"
) -> Iterator[None]:
    """Turn what PyTorch says when the memory does not do into a UsageError that ends with `why`.

    By default that not even the network fits, of which there is no estimate yet.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        raise UsageError(f"{label} ran out of memory{why()}") from error


def free_bytes(compute: Compute) -> float:
    """Return the memory that is free on the device: within this process's limit, if it has one."""
    if compute.on_gpu:
        return torch.cuda.mem_get_info(compute.device)[0] + torch.cuda.memory_reserved(compute.device)
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    return min(float(free), _cgroup_free())


def _cgroup_free() -> float:
    """Return what a container's limit leaves; the files that the kernel keeps and can let go are free."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        if limit == "max":
            return float("inf")
        stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        used = int((root / "memory.current").read_text()) - int(stat["inactive_file"])
        return int(limit) - used
    except (OSError, ValueError, LookupError):
        return float("inf")


def advice(cost: Cost, training: config.Training, compute: Compute, world: World = ALONE) -> str:
    """Return how much memory a training needs and what is free, and which setting to change."""
    free, share = free_bytes(compute), training.batch_size // world.size
    images = share // training.grad_accumulation
    fits = int((free / MARGIN - cost.fixed_bytes) // cost.image_bytes) if cost.image_bytes else images
    needs = f"needs about {cost.bytes(images) / GIB:.1f} GiB for {images} images at a time, and "
    needs += f"{free / GIB:.1f} GiB are free; "
    whole = getattr(training, "method", "mae") != "mae"  # which compares all of a batch with each other
    more = range(training.grad_accumulation + 1, 0 if whole else share // 2 + 1)  # two faces a part
    parts = next((count for count in more if share % count == 0 and share // count <= fits), None)
    if parts is None and fits >= 2:
        return needs + f"lower batch_size to {fits * training.grad_accumulation * world.size}."
    if parts is None:
        return needs + SMALLER
    return needs + f"raise grad_accumulation to {parts}, or lower batch_size."


def _saved(
    network: nn.Module, forward: Callable[[nn.Module, int], Any], images: int, compute: Compute
) -> tuple[float, float]:
    """Return the bytes that a forward pass keeps for the backward pass, and its operations."""
    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, counter, compute.autocast():
        result = forward(network, images)
    del result
    return float(sum(kept.values())), float(counter.get_total_flops())
