"""What a score of two faces reacts to: attention rollout, leaving regions out, and a map of the embeddings.

An explanation shows what the network's number depends on, not why two people are alike.

Shapes: B batch, H side of a face, N patches (side x side), K class tokens (0 or 1), T = K + N tokens, V
variants of a face with something hidden, M dimensions of an embedding.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeGuard, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from facemae.compute.attention import fused_attention, set_fused_attention
from facemae.compute.seeding import generator
from facemae.core import layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.masking.mask import hide_highest
from facemae.masking.regions import REGIONS, region_map
from facemae.models.base import Encoder, Encoding
from facemae.models.embedder import Embedder, embed
from facemae.models.patches import to_faces, to_input
from facemae.models.vit import Vit
from facemae.recognition.model import Embed

Face = NDArray[np.uint8]
Floats = NDArray[np.float64]

Network: TypeAlias = Embedder | Embed
"""A network of ours, or the embedding by a model that others have trained, which cannot be looked into."""

GRID = (14, 8)  # of such a model: patches along a side of its 112 pixels, and pixels along theirs
STRIDE = 2  # between the squares that are covered on it: dlib embeds 12 faces a second
PHOTOS = ("first", "second")
ELSEWHERE = "elsewhere"
BATCH = 64
RESIDUAL = 0.5  # share of a token that goes past a block's attention: Abnar and Zuidema's 0.5 A + 0.5 I

PCA, TSNE, UMAP = "PCA", "t-SNE", "UMAP"
METHODS = (PCA, TSNE, UMAP)
MOST_FACES = 2000  # of a map: t-SNE of more takes minutes, and nobody could tell the points apart
LEAST_FACES = 5
PERPLEXITY, NEIGHBOURS = 30, 15  # the usual ones of t-SNE and UMAP, where there are as many faces


# --- attention rollout ---


@torch.inference_mode()
def rollout(embedder: Network, images: Tensor) -> Tensor:
    """Return how much each patch flows into the embedding by attention alone, (B, side, side), sums of 1.

    As an embedding is the sum of an image's and its mirror image's, so is this the mean of the two, the
    latter mirrored back. It follows the attention weights only and knows nothing of values, MLPs or the head.

    Args:
        embedder: With a vision Transformer.
        images: (B, 3, H, H) in [-1, 1].

    Raises:
        UsageError: the encoder has no attention.
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
    of the blocks' 0.5 A + 0.5 I, the last block leftmost, A the mean over the heads.

    Args:
        weights: (B, heads, T, T) of every block from the first on; each row, a token's attention, sums to 1.
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
        cast(nn.Module, cast(Block, block).attn.attn_drop).register_forward_hook(
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

    Args:
        embedder: The model.
        first, second: Aligned faces (H, H, 3).
        drop: Keep the region's patches from the encoder instead of covering them.

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
    rows = [
        {
            "photo": photo, "region": names[number], "share": float(hidden[place].float().mean()),
            "score": changed[side, place], "change": changed[side, place] - whole,
        }
        for side, photo in enumerate(PHOTOS)
        for place, number in enumerate(numbers)
    ]  # fmt: skip
    # From the brows downwards, what is no region last.
    order = {name: place for place, name in enumerate((*REGIONS, ELSEWHERE))}
    table = pd.DataFrame(rows)
    return table.sort_values(["photo", "region"], key=lambda each: each.replace(order), ignore_index=True)


def sensitivity(embedder: Network, first: Face, second: Face) -> Floats:
    """Return how the score changes when a square is covered around each patch of one photo, (2, side, side).

    Occlusion sensitivity: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014,
    section 4.2, there for the probability of a class. The square is about a third of the face wide, an odd
    number of patches (`window`), and has the photo's mean colour as in `leave_out`. Of a model by others
    `side` is half of its grid's.

    Raises:
        UsageError: the faces are not of the model's size.
    """
    side = _grid(embedder)[0]
    step = 1 if isinstance(embedder, Embedder) else STRIDE
    hidden = squares(side).view(side, side, -1)[step - 1 :: step, step - 1 :: step].flatten(0, 1)
    whole, changed = _hidden_scores(embedder, first, second, hidden)
    return (changed - whole).reshape(2, side // step, side // step)


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
    variant: Callable[[Tensor, Tensor], Tensor] = partial(_covered, embedder)
    if drop and can_drop(embedder):
        variant = partial(_dropped, embedder)
    scores = [variant(image, hidden) @ other for image, other in zip(images, whole.flip(0), strict=True)]
    return float(whole[0] @ whole[1]), torch.stack(scores).double().cpu().numpy()


def _covered(embedder: Network, image: Tensor, hidden: Tensor) -> Tensor:
    """Return the embeddings (V, M) of an image (3, H, H) with patches painted over."""
    side, patch = _grid(embedder)
    pixels = hidden.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return _embedded(embedder, torch.where(pixels, image.mean(dim=(1, 2), keepdim=True), image))


@torch.inference_mode()
def _dropped(embedder: Embedder, image: Tensor, hidden: Tensor) -> Tensor:
    """Return the embeddings (V, M) of an image (3, H, H) without patches; the mirror image lacks the same."""
    side, vectors = embedder.encoder.side, []
    for row in hidden:  # one by one, as a mask hides equally many of all images
        both = torch.stack([row.view(side, side), row.view(side, side).flip(-1)]).flatten(1)
        mask = hide_highest(both.float(), int(row.sum()))
        found = embedder(torch.stack([image, image.flip(-1)]), mask)
        vectors.append(found.float().sum(dim=0))
    return F.normalize(torch.stack(vectors), dim=1)


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


# --- a map of the embeddings ---


@dataclass(frozen=True)
class EmbeddingMap:
    """Evaluation faces in a plane.

    Attributes:
        table: Columns sample_id, person, x and y, sorted by person; no unit.
        note: What a reader has to know of this map, in sentences.
    """

    table: pd.DataFrame
    note: str


def methods() -> list[str]:
    """Return the methods that are installed: UMAP comes with the extra `map`."""
    return [name for name in METHODS if name != UMAP or importlib.util.find_spec("umap")]


def embedding_map(paths: Results, run: str, seed: int, method: str, most: int = MOST_FACES) -> EmbeddingMap:
    """Return the evaluation people's embeddings by a run or control, laid out in a plane; always the same.

    Embeddings have length 1 first, so that Euclidean distances order as cosines do. Of more than `most` faces
    whole people are drawn, by a seed. Of several parts it is the first: each has a network of its own.

    Args:
        paths: The results.
        run, seed: Whose embeddings.
        method: Of METHODS. t-SNE: van der Maaten and Hinton, JMLR 2008. UMAP: McInnes et al., 2018.
        most: Faces at most.

    Raises:
        UsageError: there is no such method, or it is not installed.
        DataError: there are too few faces.
        FileNotFoundError: there are no such embeddings.
    """
    if method not in METHODS:
        raise UsageError(f"There is no map {method!r}; known are {', '.join(METHODS)}.")
    if method not in methods():
        raise UsageError("UMAP is not installed; pip install 'facemae[map]' adds it, or choose t-SNE.")
    found = records.read_table(
        paths.stage(run, seed, "finetune") / layout.EMBEDDINGS, layout.EMBEDDING_COLUMNS
    )
    table, notes = _chosen(found, most)
    if len(table) < LEAST_FACES:
        raise DataError(f"There are {len(table)} faces, and a map takes {LEAST_FACES}; evaluate more people.")
    vectors = np.stack(table["embedding"].to_list()).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places, note = _laid_out(vectors, method)
    columns = table[["sample_id", "person"]].astype(str).reset_index(drop=True)
    return EmbeddingMap(columns.assign(x=places[:, 0], y=places[:, 1]), " ".join([note, *notes]))


def _chosen(found: pd.DataFrame, most: int) -> tuple[pd.DataFrame, list[str]]:
    """Return the faces to show, of whole people, and sentences on those that are left out."""
    parts, notes = found["part"].nunique(), []
    table = found[found["part"] == found["part"].min()].sort_values(["person", "sample_id"])
    if parts > 1:
        notes.append(f"Of {parts} parts the first is shown: each has a network of its own.")
    if len(table) > most:
        people = table["person"].unique()
        order = people[torch.randperm(len(people), generator=generator("embedding map")).numpy()]
        counts = table["person"].value_counts()[order].cumsum()
        kept = table[table["person"].isin(counts.index[counts <= most])]
        notes.append(f"{len(kept):,} of {len(table):,} faces are shown, of people drawn at random.")
        table = kept
    return table, notes


def _laid_out(vectors: Floats, method: str) -> tuple[Floats, str]:
    """Return places (B, 2) of vectors (B, M), and how to read them."""
    if method == PCA:
        from sklearn import decomposition

        model = decomposition.PCA(2, svd_solver="full").fit(vectors)
        share = float(model.explained_variance_ratio_.sum())
        return model.transform(vectors), (
            f"The two directions in which the embeddings vary most; they hold {share:.0%} of the variance, "
            "so faces that lie together here may be far apart in the others."
        )
    if method == TSNE:
        from sklearn import manifold

        perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
        places = manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    else:
        import umap

        neighbours = min(NEIGHBOURS, len(vectors) - 1)
        model = umap.UMAP(n_neighbors=neighbours, init="pca", random_state=0, n_jobs=1)
        places = model.fit_transform(vectors)
    return np.asarray(places, np.float64), _ONLY_NEIGHBOURS


_ONLY_NEIGHBOURS = (
    "Only who is next to whom has a meaning: distances between clusters and their sizes have none, and "
    "another seed lays them out differently."
)
