"""Heads that read gender, race, age and expression from an encoder's pooled token, and what they learn by.

Shapes: B batch, D encoder width, C classes of a task (for age: years). A label of -1 is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AGES = 117  # bins of one year: 0 to 116, the ages that UTKFace has
UNKNOWN = -1


class AttributeHeads(nn.Module):
    """LayerNorm -> Linear for each task, side by side on one pooled token."""

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        """Make the heads of an encoder of width D, with C `classes` of each task."""
        super().__init__()
        heads = {name: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n)) for name, n in classes.items()}
        self.heads = nn.ModuleDict(heads)

    @torch.no_grad()
    def start_at(self, name: str, labels: Tensor) -> None:
        """Start a task's head at how frequent its classes are, which else takes it many first steps to learn.

        `labels` (N,) are those of the training; every class counts once more than it occurs.
        """
        linear = cast(nn.Linear, cast(nn.Sequential, self.heads[name])[1])
        count = torch.bincount(labels[labels != UNKNOWN], minlength=linear.out_features) + 1
        linear.bias.copy_((count / count.sum()).log())
        linear.weight.zero_()

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Return each task's logits (B, C) for pooled tokens (B, D)."""
        return {name: head(pooled) for name, head in self.heads.items()}


def expected_age(probabilities: Tensor) -> Tensor:
    """Return the expected age (B,) in years under probabilities (B, `AGES`) of the bins.

    Rothe, Timofte & Van Gool, Deep Expectation of Real and Apparent Age from a Single Image, 2018, eq. 1.
    """
    years = torch.arange(probabilities.shape[1], dtype=probabilities.dtype, device=probabilities.device)
    return probabilities @ years


def inverse_frequency(labels: Tensor, classes: int) -> Tensor:
    """Return a weight per class (C,) with which every class counts alike and a labelled sample 1 on average.

    A ValueError where a class is not among the `labels` (N,).
    """
    count = torch.bincount(labels[labels != UNKNOWN], minlength=classes)
    if not count.all():
        raise ValueError(f"class {int(count.argmin())} of {classes} is not among the labels")
    return count.sum() / (classes * count)


def attribute_losses(
    logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return each task's cross-entropy, a scalar: the mean over the samples whose label is known.

    A task that no sample of the batch has a label of contributes 0. Per task: logits (B, C), labels (B,), and
    of some tasks weights (C,) of the classes (`inverse_frequency`).
    """
    losses = {}
    for name, values in logits.items():
        total = F.cross_entropy(
            values.float(), labels[name], weights.get(name), ignore_index=UNKNOWN, reduction="sum"
        )
        # Not over the weights' sum: a batch that happens to lack the rare classes would then count them more.
        losses[name] = total / (labels[name] != UNKNOWN).sum().clamp(min=1)
    return losses
