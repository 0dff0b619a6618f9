"""The face embedder: encoder, mean of the patch tokens, and a small head.

Shapes: B batch, D encoder width, M dimensions of the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from facemae import config
from facemae.models.encoder import build_encoder, encode, pool


class Embedder(nn.Module):
    """Mean of tokens -> LayerNorm -> Linear -> BatchNorm; compare embeddings by cosine."""

    def __init__(self, encoder: VisionTransformer, embedding: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.embed_dim),
            nn.Linear(encoder.embed_dim, embedding, bias=False),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, M), not normalised, of images (B, 3, H, H)."""
        embedding: Tensor = self.head(pool(self.encoder, encode(self.encoder, images)))
        return embedding


def build_embedder(model: config.Model, image_size: int, *, drop_path: float = 0.0) -> Embedder:
    """Return an untrained face embedder."""
    return Embedder(build_encoder(model, image_size, drop_path=drop_path), model.embedding)


@torch.inference_mode()
def embed(embedder: nn.Module, images: Tensor) -> Tensor:
    """Return unit embeddings (B, M) in float32: the sum of an image's and its mirror image's."""
    both = embedder(images).float() + embedder(images.flip(-1)).float()
    return F.normalize(both, dim=1)
