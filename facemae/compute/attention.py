"""Switching timm's fused attention on and off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


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
