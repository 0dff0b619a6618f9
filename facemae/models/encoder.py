"""The encoder: timm's vision Transformer, fed with visible patches only.

Shapes: B batch, N patches, V visible patches, D width, K prefix tokens (0, or 1 class token).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from facemae import config
from facemae.models.patches import patchify, position_embedding


def build_encoder(model: config.Model, image_size: int, *, drop_path: float = 0.0) -> VisionTransformer:
    """Return an untrained encoder; its position embedding starts as sines and cosines, trained or not."""
    encoder = VisionTransformer(
        img_size=image_size,
        patch_size=model.patch_size,
        embed_dim=model.width,
        depth=model.depth,
        num_heads=model.heads,
        num_classes=0,
        class_token=model.class_token,
        global_pool="",
        drop_path_rate=drop_path,
    )
    side = image_size // model.patch_size
    with torch.no_grad():
        prefix = torch.zeros(encoder.num_prefix_tokens, model.width)
        _positions(encoder).copy_(torch.cat([prefix, position_embedding(model.width, side)])[None])
    return encoder


def encode(encoder: VisionTransformer, images: Tensor, visible_ids: Tensor | None = None) -> Tensor:
    """Return the tokens of the visible patches, prefix tokens first: (B, K + V, D).

    With `visible_ids` None every patch is visible and the result is timm's own `forward_features`.
    The hidden patches are dropped before they are embedded, so they cost nothing: MAE, section 3.

    Args:
        encoder: A timm vision Transformer.
        images: (B, 3, H, H) in [-1, 1].
        visible_ids: (B, V) indices of the visible patches.
    """
    prefix, position = encoder.num_prefix_tokens, _positions(encoder)
    patches, place = patchify(images, encoder.patch_embed.patch_size[0]), position[:, prefix:]
    if visible_ids is not None:
        patches, place = gather_tokens(patches, visible_ids), gather_tokens(place, visible_ids)
    tokens = _embed_patches(encoder, patches) + place
    if prefix:
        class_token = cast(Tensor, encoder.cls_token) + position[:, :prefix]
        tokens = torch.cat([class_token.expand(len(tokens), -1, -1), tokens], dim=1)
    for block in encoder.blocks:
        tokens = block(tokens)
    normalised: Tensor = encoder.norm(tokens)
    return normalised


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Return the tokens (B, V, D) at `ids` (B, V) of tokens (B, N, D), or of (1, N, D) that all share."""
    return tokens.expand(len(ids), -1, -1).gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


def pool(encoder: VisionTransformer, tokens: Tensor) -> Tensor:
    """Return the mean of the patch tokens, (B, D); prefix tokens are left out."""
    return tokens[:, encoder.num_prefix_tokens :].mean(dim=1)


def set_fused_attention(network: torch.nn.Module, fused: bool) -> None:
    """Choose between PyTorch's fused attention and matmul-softmax-matmul in every block.

    On a CPU in bfloat16 the fused kernel's backward pass is the bottleneck (measured at 40 % of a
    step); everywhere else it is the faster one. Both give the same result up to rounding.
    """
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # type: ignore[assignment]


def _embed_patches(encoder: VisionTransformer, patches: Tensor) -> Tensor:
    """Return patches (B, V, P) as tokens (B, V, D): timm's convolution, as the linear map that it is."""
    projection = encoder.patch_embed.proj
    kernel = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, 3, patch, patch) -> (D, P)
    return F.linear(patches, kernel, projection.bias)


def _positions(encoder: VisionTransformer) -> Tensor:
    return cast(Tensor, encoder.pos_embed)  # timm allows None, which build_encoder never asks for
