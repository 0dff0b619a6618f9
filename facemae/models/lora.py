"""Low-rank changes of a vision Transformer's attention, trained in place of its weights.

Shapes: B batch, N tokens, D width, R rank.
"""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class LowRank(nn.Module):
    """The linear layer of queries, keys and values, with queries and values changed by B A of rank R.

    Hu et al., LoRA, ICLR 2022, section 4.1; alpha is R, so that the change is not scaled: the learning rate
    does that. B starts at zero, and with it the change. The change is added to the weight rather than to what
    it computes, which is the same, costs D x D per step and has the bits of the merged layer.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer
        bound = 1 / math.sqrt(layer.in_features)  # as PyTorch starts a linear layer
        self.down = nn.Parameter(torch.empty(2, rank, layer.in_features).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(2, layer.in_features, rank))

    @property
    def weight(self) -> Tensor:
        """Return the changed weight (3 D, D), in float32."""
        with torch.autocast(self.up.device.type, enabled=False):
            queries, values = (self.up @ self.down).unbind(0)
        return self.layer.weight + torch.cat([queries, torch.zeros_like(queries), values])

    def forward(self, tokens: Tensor) -> Tensor:
        """Return queries, keys and values (B, N, 3 D) of tokens (B, N, D)."""
        return F.linear(tokens, self.weight, self.layer.bias)

    def merged(self) -> nn.Linear:
        """Return the layer with the change in its weight."""
        with torch.no_grad():
            self.layer.weight.copy_(self.weight)
        return self.layer


def add_adapters(trunk: VisionTransformer, rank: int) -> None:
    """Freeze a vision Transformer and give each block's attention a trained low-rank change."""
    trunk.requires_grad_(False)
    for block in trunk.blocks:
        attention = cast(Any, block).attn
        attention.qkv = LowRank(attention.qkv, rank).to(attention.qkv.weight.device)


def merged(network: nn.Module) -> nn.Module:
    """Return a copy of a network in which the changes have become part of plain weights."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LowRank):
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, module.merged())
    return plain
