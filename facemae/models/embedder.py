"""The face embedder: encoder, one vector per image, and a small head; and the loop that embeds many faces.

Shapes: B batch, D encoder width, M dimensions of the embedding, N faces, H side of a face.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facemae.compute.device import Compute, fused_attention
from facemae.core.progress import track
from facemae.data.faces.cache import OpenFaces
from facemae.masking.mask import PatchMask, mirrored
from facemae.models.base import Encoder, in_place
from facemae.models.mlp import Mlp
from facemae.models.patches import to_input

BATCH = 64
# N aligned faces of (H, H, 3) each, in memory or on disk.
AlignedFaces: TypeAlias = NDArray[np.uint8] | Sequence[NDArray[np.uint8]] | OpenFaces
Head = Literal["pooled", "flatten", "narrow"]
NARROWED = 4  # numbers that a narrow head keeps of each token


class Embedder(nn.Module):
    """One vector of an image -> LayerNorm -> Linear -> BatchNorm; compare embeddings by cosine.

    The vector is the encoder's pooled token, or all its tokens side by side, prefix tokens first: the head of
    InsightFace's vision Transformers, which knows where each token is, for N times the weights. A narrow head
    knows it too and stays small: it keeps a few numbers of each token, the same sums everywhere.
    """

    def __init__(self, encoder: Encoder, embedding: int, head: Head = "pooled") -> None:
        super().__init__()
        self.encoder, self._head = encoder, head
        width = encoder.width * (token_count(encoder) if head == "flatten" else 1)
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        if head == "narrow":
            layers += [nn.Linear(width, NARROWED), nn.Flatten(1)]
            width = token_count(encoder) * NARROWED
            layers.append(nn.BatchNorm1d(width))
        layers += [nn.Linear(width, embedding, bias=False), nn.BatchNorm1d(embedding)]
        self.head = nn.Sequential(*layers)

    def forward(self, images: Tensor, mask: PatchMask | None = None) -> Tensor:
        """Return embeddings (B, M), not normalised, of images (B, 3, H, H) or what a mask leaves of them."""
        embedding: Tensor = self.head(self.features(images, mask))
        return embedding

    def features(self, images: Tensor, mask: PatchMask | None = None) -> Tensor:
        """Return what the head sees: one vector per image, (B, D), or all tokens, a narrow head's apart.

        Where all are seen a hidden token is zero, as one that dropout took: its place stays its own.
        """
        encoding = self.encoder(images, mask)
        if self._head == "pooled":
            return self.encoder.pool(encoding)
        tokens = encoding.tokens if mask is None else in_place(encoding.tokens, mask)
        tokens = torch.cat([encoding.prefix, tokens], dim=1)
        return tokens if self._head == "narrow" else tokens.flatten(1)


def token_count(encoder: Encoder) -> int:
    """Return how many tokens an encoder makes of an image; an mlp's only one is a prefix."""
    return encoder.prefix_tokens + (0 if isinstance(encoder, Mlp) else encoder.side**2)


def all_tokens(encoder: Encoder, images: Tensor) -> Tensor:
    """Return all tokens of images (B, 3, H, H) side by side, (B, D), so that each keeps its place."""
    with fused_attention(encoder):
        encoding = encoder(images)
    return torch.cat([encoding.prefix, encoding.tokens], dim=1).flatten(1)


class Frozen(nn.Module):
    """An encoder without a head, which a probe looks at."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return pooled tokens (B, D) of images (B, 3, H, H)."""
        return self.encoder.pool(self.encoder(images))


def pass_through(embedder: Embedder) -> None:
    """Make a pooled head of as many dimensions as the encoder is wide pass its input on.

    All that is left of the head is its layer normalisation, which takes off a vector's own mean and length,
    so that the cosine of two embeddings is the correlation of two pooled tokens.
    """
    linear = embedder.head[-2]
    assert isinstance(linear, nn.Linear)
    nn.init.eye_(linear.weight)


@torch.inference_mode()
def with_mirror(embedder: nn.Module, images: Tensor, mask: PatchMask | None = None) -> Tensor:
    """Return the sum (B, M), in float32, of the embeddings of images and of their mirror images.

    With a mask the network sees what it leaves of an image, and its mirror image leaves of the other.
    """
    own, other = ((), ()) if mask is None else ((mask,), (mirrored(mask),))
    with fused_attention(embedder):
        both: Tensor = embedder(images, *own).float() + embedder(images.flip(-1), *other).float()
    return both


def embed(embedder: nn.Module, images: Tensor, mask: PatchMask | None = None) -> Tensor:
    """Return unit embeddings (B, M): `with_mirror` at length 1."""
    return F.normalize(with_mirror(embedder, images, mask), dim=1)


def embed_faces(
    embedder: nn.Module, faces: AlignedFaces, compute: Compute, label: str | None = None
) -> NDArray[np.float32]:
    """Return the unit embeddings (N, M) of faces, as `in_batches`."""
    return in_batches(partial(embed, embedder), faces, compute, label)


@torch.inference_mode()
def in_batches(
    look: Callable[[Tensor], Tensor], faces: AlignedFaces, compute: Compute, label: str | None = None
) -> NDArray[Any]:
    """Return what a network makes of faces, `BATCH` at a time: (N, ...), and (0, 0) of none.

    `look` goes from images (B, 3, H, H) on the device to values (B, ...); with a label progress is shown.
    """
    starts = range(0, len(faces), BATCH)
    found: NDArray[Any] = np.zeros((0, 0), np.float32)
    for start in starts if label is None else track(starts, len(starts), label, "batches"):
        batch = torch.tensor(np.ascontiguousarray(faces[start : start + BATCH])).to(compute.device)
        with compute.autocast():
            values = look(to_input(batch)).cpu().numpy()
        if start == 0:
            found = np.empty((len(faces), *values.shape[1:]), values.dtype)
        found[start : start + len(values)] = values
    return found
