"""Where and in which precision to compute, and by which attention."""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from facemae.compute.distributed import local_rank
from facemae.core.errors import UsageError

# Dense bfloat16 products per second, from NVIDIA's data sheets, by a part of the device's name.
GPU_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
METERED_EVERY = 20  # steps on a GPU between looks at the power that it draws


@dataclass(frozen=True)
class Compute:
    """A device and the type that matrix products run in."""

    device: torch.device
    dtype: torch.dtype
    compiles: bool = False
    """Whether networks are compiled before they are trained."""

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.on_gpu else "cpu"
        return f"{name}, {self.precision}"

    @property
    def precision(self) -> str:
        """Return the name of the type, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def on_gpu(self) -> bool:
        """Tell whether this is a CUDA device."""
        return self.device.type == "cuda"

    def watts(self, step: int) -> list[float]:
        """Return what a GPU draws at every so many steps; nothing in between, or where NVML does not tell."""
        if not self.on_gpu or step % METERED_EVERY:
            return []
        try:
            return [torch.cuda.power_draw(self.device) / 1000]
        except Exception:  # NVML's errors have no class that is known without its package
            return []

    def autocast(self) -> torch.autocast:
        """Return the context in which to run a network."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def place(self, network: nn.Module) -> None:
        """Move a network here and give it the faster attention."""
        set_fused_attention(network, fused=self.on_gpu or self.dtype == torch.float32)
        network.to(self.device)
        for module in network.modules():
            if isinstance(module, AveragedModel):  # it looks at its counter, for which it would wait on a GPU
                module.n_averaged = module.n_averaged.cpu()

    def compiled(self, network: nn.Module, *, one_shape: bool) -> nn.Module:
        """Return the network as it is trained: compiled, sharing its weights, where that pays.

        `one_shape` says that all its batches have the same shapes; else every shape would be compiled again.
        """
        if not self.compiles:
            return network
        return torch.compile(network, dynamic=False if one_shape else None)  # type: ignore[return-value]

    def utilisation(self, flops: float) -> float:
        """Return the share of a listed GPU's matrix products per second that `flops` per second is (MFU).

        0 on any other device, whose speed is not known, and where `flops` is 0, unknown.
        """
        if not self.on_gpu or self.dtype != torch.bfloat16:
            return 0.0
        name = re.split("[ -]", torch.cuda.get_device_name(self.device))
        return next((flops / peak for part, peak in GPU_FLOPS.items() if part in name), 0.0)

    def memory_mb(self) -> int:
        """Return the most memory so far in MiB: of the GPU by tensors, else this process's."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated(self.device) // 2**20
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20

    def seconds(self) -> float:
        """Return a clock that counts what is paid for: GPU seconds, or this process's CPU seconds."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
            return time.monotonic()
        return time.process_time()


def choose(
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["auto", "float32", "bfloat16"],
    threads: int,
    compiles: Literal["auto", "on", "off"] = "off",
) -> Compute:
    """Return what the configuration asks for, and make PyTorch deterministic and use `threads` threads.

    A UsageError where `cuda` is asked for and no GPU can be used, as of `plain`.
    """
    on_gpu = _takes_gpu(device)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    # Else every new tensor is first filled with NaN, for a tenth of a step's time; none is read unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not on_gpu:
        _keep_freed_memory()
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(precision) or _native_dtype(on_gpu)
    place = torch.device("cuda", local_rank()) if on_gpu else torch.device("cpu")
    # On a CPU compiling gains nothing and takes a minute (docs/performance.md).
    return Compute(place, dtype, compiles == "on" or (compiles == "auto" and on_gpu))


def plain(device: Literal["auto", "cpu", "cuda"]) -> Compute:
    """Return a device for recognition in float32, and leave threads and memory of the process as they are.

    A server gives freed memory back to the system, and does not decide how a whole process computes.
    """
    return Compute(torch.device("cuda" if _takes_gpu(device) else "cpu"), torch.float32)


def _keep_freed_memory() -> None:
    """Let glibc keep a step's memory for the next: to fetch it page by page takes up to a tenth of a step."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _native_dtype(on_gpu: bool) -> torch.dtype:
    if on_gpu:
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Processors without these instructions emulate bfloat16, more slowly than they compute float32.
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _takes_gpu(device: Literal["auto", "cpu", "cuda"]) -> bool:
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise UsageError(f"device: cuda is asked for, but {_why_no_gpu()}; use device: auto or cpu.")
    return gpu and device != "cpu"


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return f"no GPU can be used ({str(error).splitlines()[0].rstrip('.')})"
    return "no GPU was found"


def joules(watts: list[float], seconds: float) -> float | None:
    """Return the energy of a training by the power drawn now and then; None where it was not measured."""
    return round(sum(watts) / len(watts) * seconds, 1) if watts else None


def set_fused_attention(network: nn.Module, fused: bool) -> None:
    """Choose between PyTorch's fused attention and matmul-softmax-matmul in every block.

    On a CPU in bfloat16 the fused kernel's backward pass is the bottleneck (measured at 40 % of a
    step); everywhere else it is the faster one. Both give the same result up to rounding.
    """
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # type: ignore[assignment]


@contextlib.contextmanager
def fused_attention(network: nn.Module) -> Iterator[None]:
    """Use PyTorch's fused attention in every block for a while: the faster one without a backward pass."""
    before = {module: module.fused_attn for module in network.modules() if hasattr(module, "fused_attn")}
    set_fused_attention(network, fused=True)
    try:
        yield
    finally:
        for module, fused in before.items():
            module.fused_attn = fused
