"""Distillation: an embedder learns another network's embeddings of faces, for which nobody need be named.

The teacher's embeddings are known for every face as it is, and the student sees it changed at random.
Shapes: B batch, M dimensions of an embedding, N training faces.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.data.faces.cache import Faces
from facemae.models.embedder import Embedder
from facemae.training.objectives.identity import FaceEmbedding

COSINE, RELATIONS = 0.5, 0.25  # weights, against the squared error's 1
LEAST_SQUARE = 1e-6  # of a distance, whose root has no gradient at 0


class Distillation(FaceEmbedding):
    """A face embedder that learns a teacher's embeddings."""

    def __init__(
        self,
        model: Embedder,
        vectors: Tensor,
        known: Faces,
        settings: config.Finetune,
        compute: Compute,
        seed: int,
    ) -> None:
        """Learn from the teacher's embeddings (N, M) of the training faces, M being the student's too."""
        by_chance = 1.0 + COSINE  # of one answer for all faces, their mean
        targets = standardised(vectors)
        super().__init__(model, TeacherLoss(), by_chance, targets, known, settings, compute, seed)


class TeacherLoss(nn.Module):
    """How far embeddings are from the teacher's, and their distances from one another from its distances."""

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over a batch (B, M) of each, a scalar."""
        error = F.mse_loss(embeddings, targets)
        turned = 1.0 - F.cosine_similarity(embeddings, targets).mean()
        return error + COSINE * turned + RELATIONS * relations(embeddings, targets)


def standardised(vectors: Tensor) -> Tensor:
    """Return vectors (N, M) less their mean, at a mean square of 1 over all numbers."""
    centred = vectors - vectors.mean(dim=0)
    return centred / centred.square().mean().sqrt()


def relations(embeddings: Tensor, targets: Tensor) -> Tensor:
    """Return how much the distances within a batch (B, M) differ from those of its targets.

    Huber's loss of the distances, each in units of its side's mean: Park et al., Relational Knowledge
    Distillation, CVPR 2019, equation 5.
    """
    return F.smooth_l1_loss(_distances(embeddings), _distances(targets))


def _distances(vectors: Tensor) -> Tensor:
    """Return all distances (B, B) of vectors (B, M), in units of the mean distance of two of them."""
    squares = vectors.square().sum(dim=1)
    square = squares[:, None] + squares[None, :] - 2.0 * vectors @ vectors.T
    others = 1.0 - torch.eye(len(vectors), device=vectors.device)
    distance = square.clamp(min=LEAST_SQUARE).sqrt() * others
    return distance * others.sum() / distance.sum()
