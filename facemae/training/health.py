"""Whether a fine-tuning has learnt: its loss against chance, and what its embedding does with faces it knows.

A network whose loss stays at chance, or whose embedding uses but a few directions, ranks faces by chance; a
verdict on it would be one on the recipe. Faces are those of training people. Shapes: N faces, H side, M
dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemae.masking.regions import region_map

Floats = NDArray[np.floating]
Embed = Callable[[NDArray[np.uint8]], Floats]
"""From faces (N, H, H, 3) to embeddings (N, M)."""

# A training that learns is at a half of chance soon; class vectors that did not move held others at 0.9.
MOST_OF_CHANCE = 0.8
LEAST_DIMENSION = 4.0  # what tells people apart has 8 or more; C people allow C - 1


@dataclass(frozen=True)
class Health:
    """What the embedding does with faces that it has learnt from.

    The effective dimension is the participation ratio of the covariance's eigenvalues, 1 to M; means and
    deviations are of the cosines of two faces; `rank1` is the share of faces whose nearest other face is of
    the same person.
    """

    effective_dimension: float
    genuine_mean: float
    genuine_sd: float
    impostor_mean: float
    impostor_sd: float
    rank1: float
    people: int


def measure(vectors: Floats, people: NDArray[np.int64]) -> Health:
    """Measure the embeddings (N, M) of faces of two people or more (N,), some of whom are shown twice."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    first, second = np.triu_indices(len(unit), k=1)
    same = people[first] == people[second]
    genuine, impostor = cosine[first, second][same], cosine[first, second][~same]
    np.fill_diagonal(cosine, -np.inf)
    return Health(
        effective_dimension=effective_dimension(unit),
        genuine_mean=float(genuine.mean()),
        genuine_sd=float(genuine.std()),
        impostor_mean=float(impostor.mean()),
        impostor_sd=float(impostor.std()),
        rank1=float((people[cosine.argmax(axis=1)] == people).mean()),
        people=len(np.unique(people)),
    )


def effective_dimension(vectors: Floats) -> float:
    """Return the participation ratio (sum of l)^2 / sum of l^2 of their covariance's eigenvalues."""
    centred = vectors - vectors.mean(axis=0)
    covariance = centred.T @ centred
    return float(np.trace(covariance) ** 2 / np.square(covariance).sum())


def frame_share(embed: Embed, faces: NDArray[np.uint8], people: NDArray[np.int64]) -> float:
    """Return how much of a match rests on what lies outside brows, eyes, nose, mouth and cheeks, 0 to 1.

    One face of each genuine pair is covered with its mean colour, once outside these regions and once inside.
    With f and g by how much the mean cosine falls, the share is f / (f + g): near 1 the network recognises
    hair and background. Faces are aligned, or there would be no telling where the regions are.
    """
    inside = (region_map(faces.shape[1]) > 0).numpy().reshape(1, *faces.shape[1:3], 1)
    colour = faces.mean(axis=(1, 2), keepdims=True).astype(np.uint8)
    first, second = np.nonzero(np.triu(people[:, None] == people, k=1))
    whole = embed(faces)

    def fall(covered: NDArray[np.bool_]) -> float:
        changed = embed(np.where(covered, colour, faces))
        return float(((whole[first] - changed[first]) * whole[second]).sum(axis=1).mean())

    outside, face = max(fall(~inside), 0.0), max(fall(inside), 0.0)
    return outside / (outside + face) if outside + face else 0.5


def entry(health: Health | None, loss_of_chance: float, share: float | None) -> dict[str, Any]:
    """Return what `metrics.json` keeps of a training: the figures, whether it has learnt, and why not."""
    reason = ""
    if loss_of_chance > MOST_OF_CHANCE:
        reason = f"its loss is {loss_of_chance:.0%} of chance; train for more steps or at a higher rate"
    elif health and health.effective_dimension < min(LEAST_DIMENSION, (health.people - 1) / 2):
        dimension = f"{health.effective_dimension:.1f}"
        reason = f"its embedding has collapsed to {dimension} effective dimensions; train for more steps"
    figures = asdict(health) | {"frame_share": share} if health else {}
    return {"learnt": not reason, "reason": reason, "loss_of_chance": loss_of_chance} | figures
