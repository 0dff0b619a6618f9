"""Templates: one embedding for several images and videos of a person, as in the IJB benchmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facemae.evaluation.metrics import Floats, Integers
from facemae.evaluation.protocols.all_pairs import directions


def templates(
    embeddings: NDArray[np.floating],
    template: Integers,
    medium: Integers,
    quality: NDArray[np.floating] | None = None,
    by_norm: bool = False,
) -> Floats:
    """Pool images into templates: the mean over each medium, the sum over media, at a length of 1.

    The frames of a video are one medium, so a long video counts no more than a photo (Crosswhite et al.,
    Template Adaptation for Face Verification and Identification, FG 2017). Images count alike, or in
    proportion to a quality, to the length of their embedding, or to both. The mean over a medium is the plain
    one, so that a poor video counts less against a good photo.

    Args:
        embeddings: (N, D), of any length but zero.
        template: (N,), the template of each image: 0 to T - 1, each at least once.
        medium: (N,), whole numbers; images of one template with the same number are of one photo or video.
        quality: (N,), not negative, not all zero within a template; such as a detector's confidence.
        by_norm: Weigh by the length of the embedding as well.

    Returns:
        (T, D), of length 1.

    Raises:
        ValueError: an embedding is zero or not finite, a template's images cancel out or have no quality, or
            the arguments do not belong together.
    """
    unit = directions(embeddings)
    of_template = _numbers(template, len(unit), "template")
    if (np.unique(of_template, return_inverse=True)[1] != of_template).any():
        raise ValueError("templates must be numbered from 0 and skip no number")
    of_medium = _numbers(medium, len(unit), "medium")
    weight = _quality(quality, len(unit))
    if by_norm:
        weight = weight * np.linalg.norm(np.asarray(embeddings, np.float64), axis=1)
    means, owner = _media(unit * weight[:, None], of_template, of_medium)
    sums = np.add.reduceat(means, np.searchsorted(owner, np.unique(owner)), axis=0)
    length = np.linalg.norm(sums, axis=1)
    # What is left of vectors that cancel out is rounding, and has no direction.
    empty = length <= 1e-12 * np.bincount(of_template, weight)
    if empty.any():
        raise ValueError(f"the images of template {int(np.argmax(empty))} cancel out or have no quality")
    return np.asarray(sums / length[:, None])


def _media(vectors: Floats, template: Integers, medium: Integers) -> tuple[Floats, Integers]:
    """Return the mean of each medium, template by template, and whose medium it is."""
    order = np.lexsort((medium, template))
    keys = np.stack([template, medium], axis=1)[order]
    starts = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(axis=1)))
    images = np.diff(np.append(starts, len(keys)))
    return np.add.reduceat(vectors[order], starts, axis=0) / images[:, None], keys[starts, 0]


def _numbers(values: Integers, images: int, name: str) -> Integers:
    numbers = np.asarray(values)
    if numbers.shape != (images,):
        raise ValueError(f"{name} must name {images} images, got shape {numbers.shape}")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{name} must hold whole numbers, got {numbers.dtype}")
    return numbers.astype(np.int64)


def _quality(quality: NDArray[np.floating] | None, images: int) -> Floats:
    if quality is None:
        return np.ones(images)
    weight = np.asarray(quality, dtype=np.float64)
    if weight.shape != (images,):
        raise ValueError(f"quality must rate {images} images, got shape {weight.shape}")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("quality must be finite and not negative")
    return weight
