"""The vision Transformer as encoder: timm's, fed with the visible patches only.

Shapes: B batch, N patches, V visible patches, D width, P pixel values per patch, K class tokens (0 or 1).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from facemae import config
from facemae.masking.mask import PatchMask
from facemae.models.base import Encoder, Encoding, gather_tokens
from facemae.models.patches import patchify, position_embedding


class Vit(Encoder):
    """timm's vision Transformer. Hidden patches are dropped before they are embedded: MAE, section 3.

    `arguments` are those of timm's class that give the trunk its shape.
    """

    trunk: VisionTransformer

    def __init__(self, model: config.Model, image_size: int, drop_path: float = 0.0) -> None:
        """Build an untrained one; its positions start as sines and cosines, and are trained."""
        super().__init__()
        self.width, depth, self.heads = model.shape
        self.patch_size, self.side = model.patch_size, image_size // model.patch_size
        self.arguments: dict[str, Any] = {
            "img_size": image_size,
            "patch_size": model.patch_size,
            "embed_dim": self.width,
            "depth": depth,
            "num_heads": self.heads,
            "num_classes": 0,
            "class_token": model.class_token,
        }
        self.trunk = VisionTransformer(**self.arguments, global_pool="", drop_path_rate=drop_path)
        self.prefix_tokens = self.trunk.num_prefix_tokens
        self._pool = model.pool
        with torch.no_grad():
            prefix = torch.zeros(self.prefix_tokens, self.width)
            self.positions.copy_(torch.cat([prefix, position_embedding(self.width, self.side)])[None])

    @property
    def positions(self) -> Tensor:
        """The position embedding (1, K + N, D)."""
        return cast(Tensor, self.trunk.pos_embed)  # timm allows None, which is never asked for here

    def forward(self, images: Tensor, mask: PatchMask | None = None) -> Encoding:
        """Encode images (B, 3, H, H); without a mask the tokens are timm's own `forward_features`."""
        tokens = self.embed(images, mask)
        for block in self.trunk.blocks:
            tokens = block(tokens)
        tokens = self.trunk.norm(tokens)
        return Encoding(tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :])

    def embed(self, images: Tensor, mask: PatchMask | None = None) -> Tensor:
        """Return the tokens (B, K + V, D) that enter the first block."""
        prefix, position = self.prefix_tokens, self.positions
        patches, place = patchify(images, self.patch_size), position[:, prefix:]
        if mask is not None:
            patches, place = gather_tokens(patches, mask.visible_ids), gather_tokens(place, mask.visible_ids)
        projection = self.trunk.patch_embed.proj  # timm's convolution, as the linear map that it is
        kernel = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, 3, patch, patch) -> (D, P)
        tokens = F.linear(patches, kernel, projection.bias) + place
        if prefix:
            class_token = cast(Tensor, self.trunk.cls_token) + position[:, :prefix]
            tokens = torch.cat([class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens

    def pool(self, encoding: Encoding) -> Tensor:
        """Return the mean of the patch tokens, or the class token, (B, D)."""
        return encoding.tokens.mean(dim=1) if self._pool == "mean" else encoding.prefix[:, 0]
