"""What a score of two faces reacts to: attention rollout, and leaving parts out.

An explanation shows what the network's number depends on, not why two people are alike.

Shapes: B batch, H side of a face, N patches (side x side), K class tokens (0 or 1), T = K + N tokens, V
variants of a face with something hidden, M dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeGuard, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facemae.compute.compiler import without_compiler
from facemae.compute.device import fused_attention, set_fused_attention
from facemae.core.errors import UsageError
from facemae.masking.mask import hide_highest
from facemae.masking.regions import REGIONS, region_map
from facemae.models.base import Encoder, Encoding
from facemae.models.embedder import Embedder, embed
from facemae.models.patches import to_faces, to_input
from facemae.recognition.model import Embed

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block

with without_compiler():
    from facemae.models.vit import Vit

Face = NDArray[np.uint8]
Floats = NDArray[np.float64]

Network: TypeAlias = Embedder | Embed
"""A network of ours, or the embedding by a model that others have trained, which cannot be looked into."""

GRID = (16, 7)  # of such a model: patches along a side of its 112 pixels, and pixels along theirs
STRIDE = 3  # patches between the squares that are covered on it: dlib embeds 12 faces a second
TOLD = 8  # faces between two words of how far it is
PHOTOS = ("first", "second")
ELSEWHERE = "elsewhere"
BATCH = 64
RESIDUAL = 0.5  # share of a token that goes past a block's attention: Abnar and Zuidema's 0.5 A + 0.5 I


# --- attention rollout ---


@torch.inference_mode()
def rollout(embedder: Network, images: Tensor) -> Tensor:
    """Return how much each patch flows into the embedding by attention alone, (B, side, side), sums of 1.

    As an embedding is the sum of an image's and its mirror image's, so is this the mean of the two, the
    latter mirrored back. It follows the attention weights only and knows nothing of values, MLPs or the head.
    Images are (B, 3, H, H) in [-1, 1]; a UsageError refuses an encoder without attention.
    """
    encoder = embedder.encoder if isinstance(embedder, Embedder) else None
    if not isinstance(encoder, Vit):
        what = f"is a {type(encoder).__name__.lower()} without attention" if encoder else "cannot be seen"
        raise UsageError(
            f"Attention rollout needs a vision Transformer, and this model's encoder {what}; leaving regions "
            "out works with any model."
        )
    sides = [_rolled(encoder, images), _rolled(encoder, images.flip(-1)).flip(-1)]
    return torch.stack(sides).mean(dim=0)


def _rolled(encoder: Vit, images: Tensor) -> Tensor:
    flow = roll(attention_weights(encoder, images))  # (B, T, T)
    patches = (_pooling(encoder) @ flow)[:, encoder.prefix_tokens :]  # (B, N)
    shares = patches / patches.sum(dim=1, keepdim=True)
    return shares.view(len(images), encoder.side, encoder.side)


def roll(weights: Sequence[Tensor]) -> Tensor:
    """Return how much of each input token is in each output token, (B, T, T), rows of sum 1.

    Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3 and eq. 1: the product
    of the blocks' 0.5 A + 0.5 I, the last block leftmost, A the mean over the heads. The weights are
    (B, heads, T, T) of every block from the first on; each row, a token's attention, sums to 1.
    """
    flow = torch.eye(weights[0].shape[-1], device=weights[0].device).expand(len(weights[0]), -1, -1)
    for each in weights:
        mean = each.float().mean(dim=1)
        flow = (1 - RESIDUAL) * mean @ flow + RESIDUAL * flow
    return flow


@torch.inference_mode()
def attention_weights(encoder: Vit, images: Tensor) -> list[Tensor]:
    """Return the attention (B, heads, T, T) of every block, rows of sum 1, for images (B, 3, H, H)."""
    found: list[Tensor] = []
    # Without its fused kernel timm passes the weights through a dropout, which drops nothing here.
    hooks = [
        cast(nn.Module, cast("Block", block).attn.attn_drop).register_forward_hook(
            lambda *passed: found.append(passed[-1])
        )
        for block in encoder.trunk.blocks
    ]
    try:
        with fused_attention(encoder):  # it also puts back what is changed inside
            set_fused_attention(encoder, fused=False)
            encoder(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _pooling(encoder: Encoder) -> Tensor:
    """Return each token's share in the pooled vector (T,): pooling is linear, so unit vectors tell it."""
    tokens = encoder.prefix_tokens + encoder.side**2
    units = torch.eye(tokens, device=next(encoder.parameters()).device)[None]
    return encoder.pool(Encoding(units[:, : encoder.prefix_tokens], units[:, encoder.prefix_tokens :]))[0]


# --- leaving parts out ---


def can_drop(embedder: Network) -> TypeGuard[Embedder]:
    """Tell whether hidden patches can be kept from the encoder, as a vision Transformer can do with fewer."""
    return isinstance(embedder, Embedder) and isinstance(embedder.encoder, Vit)


def score(embedder: Network, first: Face, second: Face) -> float:
    """Return the cosine similarity of two aligned faces (H, H, 3)."""
    vectors = _embedded(embedder, _pair(embedder, first, second))
    return float(vectors[0] @ vectors[1])


def leave_out(embedder: Network, first: Face, second: Face, *, drop: bool = False) -> pd.DataFrame:
    """Return how the score of a pair changes when a face region of one photo is hidden, a row per region.

    A covered region gets the mean colour of its own photo: the photo stays as bright as it was, so that the
    change is not that of the light, and on a dark face no bright block appears, as neutral grey would make.
    The regions are boxes on the alignment template (masking/regions.py), in whole patches; one smaller than
    a patch has no row.

    With `drop` the region's patches are kept from the encoder instead of being covered.

    Returns:
        Columns photo ("first" or "second", the one with the hidden region), region, share (of the face that
        is hidden), score (cosine similarity) and change (below 0: the region spoke for a match).

    Raises:
        UsageError: the faces are not of the model's size, or `drop` is more than the encoder can do.
    """
    names = (ELSEWHERE, *REGIONS)
    regions = region_map(_grid(embedder)[0])
    numbers = [number for number in range(len(names)) if (regions == number).any()]
    hidden = torch.stack([regions == number for number in numbers])  # (V, N)
    whole, changed = _hidden_scores(embedder, first, second, hidden, drop=drop)
    # From the brows downwards, what is no region last.
    places = sorted(range(len(numbers)), key=lambda place: numbers[place] == 0)
    rows = [
        {
            "photo": photo, "region": names[numbers[place]], "share": float(hidden[place].float().mean()),
            "score": changed[side, place], "change": changed[side, place] - whole,
        }
        for side, photo in enumerate(PHOTOS)
        for place in places
    ]  # fmt: skip
    return pd.DataFrame(rows)


def sensitivity(embedder: Network, first: Face, second: Face) -> Floats:
    """Return how the score changes when a square is covered around each patch of one photo, (2, side, side).

    Occlusion sensitivity: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014,
    section 4.2, there for the probability of a class. The square is about a third of the face wide, an odd
    number of patches (`window`), and has the photo's mean colour as in `leave_out`. Of a model by others
    `side` is a third of its grid's.

    Raises:
        UsageError: the faces are not of the model's size.
    """
    side = _grid(embedder)[0]
    step = 1 if isinstance(embedder, Embedder) else STRIDE
    hidden = squares(side).view(side, side, -1)[step - 1 :: step, step - 1 :: step].flatten(0, 1)
    whole, changed = _hidden_scores(embedder, first, second, hidden)
    return (changed - whole).reshape(2, side // step, side // step)


def watched(network: Embed, tell: Callable[[float], None]) -> Embed:
    """Return a model by others that tells which share of `score`, `leave_out` and `sensitivity` is done.

    Together they embed each photo three times whole, and once for each region and square.
    """
    regions = len(set(region_map(GRID[0]).tolist()))
    total, done = 2 * (3 + regions + (GRID[0] // STRIDE) ** 2), 0

    def embedded(faces: Face) -> NDArray[np.float32]:
        nonlocal done
        parts = []
        for start in range(0, len(faces), TOLD):
            parts.append(network(faces[start : start + TOLD]))
            done += len(parts[-1])
            tell(min(1.0, done / total))
        return np.concatenate(parts)

    return embedded


def window(side: int) -> int:
    """Return the width of the sliding square in patches, odd and about a third of `side`."""
    return side // 6 * 2 + 1


def squares(side: int) -> Tensor:
    """Return which patches the square around each patch hides, (N, N) bool; it ends where the face does."""
    near = (torch.arange(side)[:, None] - torch.arange(side)).abs() <= window(side) // 2
    return torch.einsum("ab,cd->acbd", near.int(), near.int()).bool().reshape(side**2, side**2)


def _hidden_scores(
    embedder: Network, first: Face, second: Face, hidden: Tensor, *, drop: bool = False
) -> tuple[float, Floats]:
    """Return the score of a pair, and its scores (2, V) with the patches `hidden` (V, N) of either photo."""
    if drop and not can_drop(embedder):
        raise UsageError(
            "This model needs all of its patches; only a vision Transformer can do with fewer: cover the "
            "regions instead."
        )
    images = _pair(embedder, first, second)
    whole = _embedded(embedder, images)
    hidden = hidden.to(images.device)
    scores = [
        (_dropped if drop else _covered)(embedder, image, hidden) @ other
        for image, other in zip(images, whole.flip(0), strict=True)
    ]
    return float(whole[0] @ whole[1]), torch.stack(scores).double().cpu().numpy()


def _covered(embedder: Network, image: Tensor, hidden: Tensor) -> Tensor:
    """Return the embeddings (V, M) of an image (3, H, H) with patches painted over."""
    side, patch = _grid(embedder)
    pixels = hidden.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return _embedded(embedder, torch.where(pixels, image.mean(dim=(1, 2), keepdim=True), image))


def _dropped(embedder: Network, image: Tensor, hidden: Tensor) -> Tensor:
    """Return the embeddings (V, M) of an image (3, H, H) without patches."""
    assert isinstance(embedder, Embedder)
    # One by one, as a mask hides equally many of all images.
    masks = [hide_highest(row[None].float(), int(row.sum())) for row in hidden]
    return torch.cat([embed(embedder, image[None], mask) for mask in masks])


def _embedded(embedder: Network, images: Tensor) -> Tensor:
    """Return unit embeddings (B, M) of images (B, 3, H, H), as the evaluation makes them."""
    if not isinstance(embedder, Embedder):
        return torch.from_numpy(embedder(to_faces(images).numpy()))
    return torch.cat([embed(embedder, part) for part in torch.split(images, BATCH)])


def _grid(embedder: Network) -> tuple[int, int]:
    """Return patches along a side, and pixels along a patch's side."""
    if isinstance(embedder, Embedder):
        return embedder.encoder.side, embedder.encoder.patch_size
    return GRID


def _pair(embedder: Network, first: Face, second: Face) -> Tensor:
    side, patch = _grid(embedder)
    size = side * patch
    for face in (first, second):
        if face.shape != (size, size, 3):
            raise UsageError(
                f"A face of {face.shape[1]} x {face.shape[0]} pixels does not fit this model, which takes "
                f"{size} x {size}; align the photo again for it."
            )
    images = to_input(torch.from_numpy(np.stack([first, second])))
    return images.to(next(embedder.parameters()).device) if isinstance(embedder, Embedder) else images
