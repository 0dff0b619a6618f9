"""Losses for identity: PyTorch Metric Learning's, with the margin as a value that can be ramped."""

from __future__ import annotations

import math

from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import nn

from facemae import config


def identity_loss(finetune: config.Finetune, people: int, embedding: int) -> nn.Module:
    """Return the loss over embeddings (B, M) and labels (B,), which holds one trained vector per person.

    cosface (Wang et al., CVPR 2018, eq. 4) takes the margin from the cosine, arcface (Deng et al.,
    CVPR 2019, eq. 3) adds it to the angle; softmax is cosface without a margin.
    """
    common = {"num_classes": people, "embedding_size": embedding, "scale": finetune.scale}
    loss: nn.Module
    if finetune.loss == "arcface":
        loss = ArcFaceLoss(**common, margin=math.degrees(finetune.margin))
    else:
        loss = CosFaceLoss(**common, margin=full_margin(finetune))
    return loss


def full_margin(finetune: config.Finetune) -> float:
    """Return the margin after its warm-up: a cosine difference, or radians for arcface."""
    return 0.0 if finetune.loss == "softmax" else finetune.margin


def set_margin(loss: nn.Module, margin: float) -> None:
    """Set the margin of a loss made by `identity_loss`."""
    loss.margin = margin  # type: ignore[assignment]
