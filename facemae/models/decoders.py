"""Decoders: from the visible patches' tokens to the pixels of the patches asked for.

Shapes: B batch, N patches, V visible, Q predicted, K prefix tokens, D encoder width, E decoder width,
P pixel values per patch. `ids` (B, Q) names the patches to predict; `mask` None means all are visible.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.mlp import Mlp as FeedForward
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from facemae import config
from facemae.masking.mask import PatchMask
from facemae.models.base import Encoder, Encoding, gather_tokens
from facemae.models.patches import position_embedding

_norm = functools.partial(nn.LayerNorm, eps=1e-6)  # timm's encoder's, and facebookresearch/mae's
FEED_FORWARD = 4  # times the width, in the hidden layer of a block


class Tokens(nn.Module):
    """Encoder tokens in the decoder's width, and a learned mask token, each with its place."""

    position: Tensor

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        # Fixed, so it is no weight; the prefix has no place.
        self.register_buffer("position", position_embedding(width, encoder.side)[None], persistent=False)

    def grid(self, encoding: Encoding, mask: PatchMask | None) -> Tensor:
        """Return tokens for the prefix and every patch, (B, K + N, E), mask tokens where hidden."""
        tokens = self.embed(encoding.tokens)
        if mask is not None:
            ids = mask.visible_ids[:, :, None].expand_as(tokens)
            batch, patches = mask.hidden.shape
            tokens = self.mask_token.to(tokens.dtype).repeat(batch, patches, 1).scatter(1, ids, tokens)
        tokens = tokens + self.position.to(tokens.dtype)
        return torch.cat([self.embed(encoding.prefix), tokens], dim=1) if encoding.prefix.shape[1] else tokens

    def visible(self, encoding: Encoding, mask: PatchMask) -> Tensor:
        """Return tokens for the prefix and the visible patches, (B, K + V, E)."""
        tokens = self.embed(torch.cat([encoding.prefix, encoding.tokens], dim=1))
        prefix = encoding.prefix.shape[1]
        place = F.pad(gather_tokens(self.position, mask.visible_ids), (0, 0, prefix, 0))
        return cast(Tensor, tokens + place.to(tokens.dtype))

    def queries(self, ids: Tensor) -> Tensor:
        """Return a mask token for each of the patches `ids`, (B, Q, E)."""
        queries: Tensor = self.mask_token + gather_tokens(self.position, ids)
        return queries


class Head(nn.Module):
    """LayerNorm and a linear map from a token to its patch's pixels."""

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.pixels = nn.Linear(width, encoder.patch_size**2 * 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, Q, P) for tokens (B, Q, E)."""
        return cast(Tensor, self.pixels(self.norm(tokens)))


class Transformer(nn.Module):
    """Self-attention over all patches, visible tokens and mask tokens: He et al., MAE, CVPR 2022."""

    def __init__(self, encoder: Encoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        width = pretrain.decoder_width
        self.tokens = Tokens(encoder, width)
        self.blocks = nn.ModuleList(
            Block(width, pretrain.decoder_heads, qkv_bias=True, norm_layer=_norm)  # type: ignore[arg-type]
            for _ in range(pretrain.decoder_depth)
        )
        self.head = Head(encoder, width)

    def forward(self, encoding: Encoding, mask: PatchMask | None, ids: Tensor) -> Tensor:
        """Return the pixels (B, Q, P) of the patches `ids`."""
        tokens = self.tokens.grid(encoding, mask)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens)
        return cast(Tensor, self.head(_block_at(last, tokens, ids + encoding.prefix.shape[1])))


class Cross(nn.Module):
    """Mask tokens that attend to the visible tokens only: Fu et al., CrossMAE, 2024.

    No mask token sees another, so that a share of them can be predicted alone, at that share of the cost.
    """

    def __init__(self, encoder: Encoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        width = pretrain.decoder_width
        self.tokens = Tokens(encoder, width)
        self.norm = _norm(width)
        self.blocks = nn.ModuleList(
            CrossBlock(width, pretrain.decoder_heads) for _ in range(pretrain.decoder_depth)
        )
        self.head = Head(encoder, width)

    def forward(self, encoding: Encoding, mask: PatchMask | None, ids: Tensor) -> Tensor:
        """Return the pixels (B, Q, P) of the patches `ids`, all of them hidden."""
        assert mask is not None, "config refuses this decoder where no patch is hidden"
        visible = self.norm(self.tokens.visible(encoding, mask))
        tokens = self.tokens.queries(ids)
        for block in self.blocks:
            tokens = block(tokens, visible)
        return cast(Tensor, self.head(tokens))


class CrossBlock(nn.Module):
    """A Transformer block whose queries look at other tokens than themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fused_attn = True  # as timm's attention names it: compute/device.py
        self.norm1, self.norm2 = _norm(width), _norm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.mlp = FeedForward(width, FEED_FORWARD * width)

    def forward(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return tokens (B, Q, E) that have looked at the visible ones (B, K + V, E)."""
        key, value = self.key_value(visible).chunk(2, dim=-1)
        seen = _attend(self.query(self.norm1(tokens)), key, value, self.heads, self.fused_attn)
        tokens = tokens + self.project(seen)
        return cast(Tensor, tokens + self.mlp(self.norm2(tokens)))


class PerToken(nn.Module):
    """Fully connected layers on each token alone, which is given the mean of the visible tokens.

    Without that mean a mask token would know its place only, and predict the average face there.
    """

    def __init__(self, encoder: Encoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        width = pretrain.decoder_width
        self.tokens = Tokens(encoder, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(_norm(width), FeedForward(width, FEED_FORWARD * width))
            for _ in range(pretrain.decoder_depth)
        )
        self.head = Head(encoder, width)

    def forward(self, encoding: Encoding, mask: PatchMask | None, ids: Tensor) -> Tensor:
        """Return the pixels (B, Q, P) of the patches `ids`."""
        prefix = encoding.prefix.shape[1]
        everywhere = self.tokens.grid(encoding, mask)
        seen = torch.cat([encoding.prefix, encoding.tokens], dim=1).mean(dim=1, keepdim=True)
        tokens = gather_tokens(everywhere, ids + prefix) + self.tokens.embed(seen)
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return cast(Tensor, self.head(tokens))


def _block_at(block: Any, tokens: Tensor, ids: Tensor) -> Tensor:
    """Return what a block of timm's makes of the tokens `ids` (B, Q) alone, (B, Q, E).

    They look at all tokens (B, K + N, E). What the others become nobody asks for after the last block.
    """
    attention, width = block.attn, tokens.shape[-1]
    normed, asked = block.norm1(tokens), gather_tokens(tokens, ids)
    weights, biases = (each.split([width, 2 * width]) for each in (attention.qkv.weight, attention.qkv.bias))
    query = F.linear(gather_tokens(normed, ids), weights[0], biases[0])
    key, value = F.linear(normed, weights[1], biases[1]).chunk(2, dim=-1)
    seen = _attend(query, key, value, attention.num_heads, attention.fused_attn)
    asked = asked + attention.proj(seen)
    return cast(Tensor, asked + block.mlp(block.norm2(asked)))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, fused: bool) -> Tensor:
    """Return the attention of queries (B, Q, E) over keys and values (B, S, E): (B, Q, E)."""
    batch, count, width = query.shape
    query, key, value = (
        each.reshape(batch, -1, heads, width // heads).transpose(1, 2) for each in (query, key, value)
    )
    if fused:
        seen = F.scaled_dot_product_attention(query, key, value)
    else:
        weight = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        seen = weight.softmax(dim=-1) @ value
    return seen.transpose(1, 2).reshape(batch, count, width)
