"""Losses for identity: PyTorch Metric Learning's and AdaFace, with the margin as a value that can be ramped.

Shapes: B batch, M dimensions of an embedding, C people.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SubCenterArcFaceLoss
from torch import Tensor, nn

from facemae import config

CONFIDENCE = 0.99  # what a face is given for its own person where it lies as it should, see `scale_of`
VECTOR_DEVIATION = 0.02  # of the class vectors' elements at the start
AWAY_FROM_ENDS = 1e-3  # radians that an angle with a margin stays off 0 and pi, as in AdaFace's code


def identity_loss(finetune: config.Finetune, people: int, embedding: int) -> nn.Module:
    """Return the loss over embeddings (B, M) and labels (B,), which holds one trained vector per person.

    cosface (Wang et al., CVPR 2018, eq. 4) takes the margin from the cosine, arcface (Deng et al.,
    CVPR 2019, eq. 3) adds it to the angle, subcenter (Deng et al., ECCV 2020) does so with the nearest of
    several vectors of a person, `AdaFace` follows the image's quality; softmax is cosface without a margin.
    """
    common: dict[str, Any] = {
        "num_classes": people,
        "embedding_size": embedding,
        "scale": scale_of(finetune, people),
        "weight_init_func": _short,
    }
    degrees = math.degrees(finetune.margin)
    loss: nn.Module
    if finetune.loss == "arcface":
        loss = ArcFaceLoss(**common, margin=degrees)
    elif finetune.loss == "subcenter":
        loss = SubCenterArcFaceLoss(**common, margin=degrees, sub_centers=finetune.subcenters)
    elif finetune.loss == "adaface":
        loss = AdaFace(**common, margin=full_margin(finetune))
    else:
        loss = CosFaceLoss(**common, margin=full_margin(finetune))
    return loss


def _short(vectors: Tensor) -> Tensor:
    """Draw class vectors so short that a training turns them.

    The loss normalises them, and AdamW moves a weight by about its rate in a step, whatever the gradient:
    drawn with a deviation of 1 they turn by a few per cent in a whole training of hundreds of steps.
    """
    return nn.init.normal_(vectors, std=VECTOR_DEVIATION)


def chance(finetune: config.Finetune, people: int) -> float:
    """Return the loss of embeddings at right angles to all class vectors, with the full margin."""
    margin = full_margin(finetune)
    own = -math.sin(margin) if finetune.loss in ("arcface", "subcenter") else -margin
    scale = scale_of(finetune, people)
    return math.log(math.exp(scale * own) + people - 1) - scale * own


def scale_of(finetune: config.Finetune, people: int) -> float:
    """Return the factor on the cosines; auto is twice CosFace's lower bound.

    The bound, (C - 1) / C * ln((C - 1) * p / (1 - p)), is what lets the softmax give a face a share p for its
    own person at a cosine of 1, when the other people's vectors are spread evenly (Wang et al., CVPR 2018,
    eq. 6). Faces get to a cosine of about one half, hence twice. With p = 0.99 that is 14 for 20 people, 28
    for CASIA-WebFace's 10,572 and 37 for a million, where the field takes 30 to 64.
    """
    if finetune.scale != "auto":
        return finetune.scale
    others = max(1, people - 1)
    return 2 * others / (others + 1) * math.log(others * CONFIDENCE / (1 - CONFIDENCE))


def full_margin(finetune: config.Finetune) -> float:
    """Return the margin after its warm-up: a cosine difference, or radians for arcface and subcenter."""
    return 0.0 if finetune.loss == "softmax" else finetune.margin


def set_margin(loss: nn.Module, margin: float) -> None:
    """Set the margin of a loss made by `identity_loss`."""
    loss.margin = margin  # type: ignore[assignment]


class AdaFace(nn.Module):
    """A margin that follows the image's quality, read off the length of its embedding.

    Kim et al., AdaFace, CVPR 2022, section 3.3: long embeddings get a margin that stresses hard faces, short
    ones a margin that stresses easy faces. With k the length, normalised by its running mean and deviation
    and clipped to -1..1, the logit of one's own person is s (cos(angle - m k) - (m k + m)).

    The running values follow the batches as the paper's do, but start as the first batches' mean: the
    paper's start, 20 and 100, takes hundreds of steps to forget.
    """

    CONCENTRATION = 0.333  # h: a deviation of 1 / h of the lengths' own reaches the full change
    RATE = 0.01  # of the running values, per batch

    mean: Tensor
    deviation: Tensor
    batches: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float,
        margin: float,
        weight_init_func: Callable[[Tensor], Tensor] = nn.init.normal_,
    ) -> None:
        """Build one with a random vector per person, `margin` being a cosine's."""
        super().__init__()
        self.num_classes, self.scale, self.margin = num_classes, scale, margin
        self.W = nn.Parameter(weight_init_func(torch.empty(embedding_size, num_classes)))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy of embeddings (B, M), not normalised, and labels (B,)."""
        quality = self.quality(embeddings.detach().norm(dim=1).clamp(0.001, 100))
        cosine = F.normalize(embeddings, dim=1) @ F.normalize(self.W, dim=0)
        own = cosine.gather(1, labels[:, None])[:, 0].clamp(-1 + 1e-6, 1 - 1e-6)
        angle = own.acos() - self.margin * quality
        changed = angle.clamp(AWAY_FROM_ENDS, math.pi - AWAY_FROM_ENDS).cos() - self.margin * (1 + quality)
        return F.cross_entropy(self.scale * cosine.scatter(1, labels[:, None], changed[:, None]), labels)

    def quality(self, lengths: Tensor) -> Tensor:
        """Return lengths (B,) of embeddings as -1 (poor) to 1 (good); in training their statistics move."""
        if self.training:
            rate = torch.clamp(1.0 / (self.batches + 1), min=self.RATE)
            deviation = lengths.std() if len(lengths) > 1 else self.deviation
            self.mean.lerp_(lengths.mean(), rate)
            self.deviation.lerp_(deviation, rate)
            self.batches.add_(1)
        standard = (lengths - self.mean) / (self.deviation + 1e-3)
        return (standard * self.CONCENTRATION).clamp(-1, 1)
