"""The face embedder: encoder, one vector per image, and a small head.

Shapes: B batch, D encoder width, M dimensions of the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemae import config
from facemae.models.encoder import build_encoder
from facemae.models.encoding import Encoder


class Embedder(nn.Module):
    """Pooled tokens -> LayerNorm -> Linear -> BatchNorm; compare embeddings by cosine."""

    def __init__(self, encoder: Encoder, embedding: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.width),
            nn.Linear(encoder.width, embedding, bias=False),
            nn.BatchNorm1d(embedding),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, M), not normalised, of images (B, 3, H, H)."""
        embedding: Tensor = self.head(self.encoder.pool(self.encoder(images)))
        return embedding


class Frozen(nn.Module):
    """An encoder as it is, without a head: what a probe of it looks at."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled tokens (B, D) of images (B, 3, H, H)."""
        return self.encoder.pool(self.encoder(images))


def build_embedder(model: config.Model, image_size: int, *, drop_path: float = 0.0) -> Embedder:
    """Return an untrained face embedder."""
    return Embedder(build_encoder(model, image_size, drop_path=drop_path), model.embedding)


@torch.inference_mode()
def embed(embedder: nn.Module, images: Tensor) -> Tensor:
    """Return unit embeddings (B, M) in float32: the sum of an image's and its mirror image's."""
    both = embedder(images).float() + embedder(images.flip(-1)).float()
    return F.normalize(both, dim=1)
