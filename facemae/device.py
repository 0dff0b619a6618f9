"""Where and in which precision to compute."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from facemae.errors import UsageError
from facemae.models.encoder import set_fused_attention


@dataclass(frozen=True)
class Compute:
    """A device and the type that matrix products run in."""

    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.on_gpu else "cpu"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"

    @property
    def on_gpu(self) -> bool:
        """Tell whether this is a CUDA device."""
        return self.device.type == "cuda"

    def autocast(self) -> torch.autocast:
        """Return the context in which to run a network."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def place(self, network: nn.Module) -> None:
        """Move a network here and give it the faster attention (models/encoder.py)."""
        set_fused_attention(network, fused=self.on_gpu or self.dtype == torch.float32)
        network.to(self.device)

    def seconds(self) -> float:
        """Return a clock that counts what is paid for: GPU seconds, or this process's CPU seconds."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
            return time.monotonic()
        return time.process_time()


def choose(
    device: Literal["auto", "cpu", "cuda"], precision: Literal["auto", "float32", "bfloat16"], threads: int
) -> Compute:
    """Return what the configuration asks for, and make PyTorch deterministic and use `threads` threads.

    Raises:
        UsageError: `cuda` is asked for and no GPU can be used.
    """
    gpu = torch.cuda.is_available()
    if device == "cuda" and not gpu:
        raise UsageError(f"device: cuda is asked for, but {_why_no_gpu()}; use device: auto or cpu.")
    on_gpu = gpu and device != "cpu"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    # Else every new tensor is first filled with NaN, for a tenth of a step's time; none is read unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(precision) or _native_dtype(on_gpu)
    return Compute(torch.device("cuda" if on_gpu else "cpu"), dtype)


def _native_dtype(on_gpu: bool) -> torch.dtype:
    if on_gpu:
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Processors without these instructions emulate bfloat16, more slowly than they compute float32.
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _why_no_gpu() -> str:
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return f"no GPU can be used ({str(error).splitlines()[0].rstrip('.')})"
    return "no GPU was found"
