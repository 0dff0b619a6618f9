"""Gender, race, age and expression: heads on an encoder, and the encoder, trained together.

Shapes: N faces, B batch, C classes of a task (for age: years).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.data.faces.cache import OpenFaces
from facemae.evaluation.protocols.attributes import AGE
from facemae.models.attribute_heads import (
    AGES,
    AttributeHeads,
    attribute_losses,
    expected_age,
    inverse_frequency,
)
from facemae.models.embedder import Frozen, in_batches
from facemae.models.patches import to_input
from facemae.training.objective import LOSS, Objective
from facemae.training.objectives.augment import random_flip


class AttributeLearning(Objective):
    """A copy of an encoder and its heads, which learn from some of the faces.

    Per task `labels` (N,) are those of the faces learnt from, `weights` (C,) those of weighted classes.
    """

    model: nn.ModuleDict

    def __init__(
        self,
        encoder: Frozen,
        truth: Mapping[str, NDArray[np.int64]],
        classes: Mapping[str, Sequence[str]],
        learnt: NDArray[np.integer],
        weighted: Sequence[str],
        training: config.Training,
        compute: Compute,
        seed: int,
    ) -> None:
        """Make the heads.

        Args:
            encoder: Copied, so that the next training starts from it again.
            truth: Each task's labels of all faces, -1 where unknown.
            classes: Each task's classes; none for age.
            learnt: Which of the faces are learnt from, in the order of the feed.
            weighted: The tasks whose classes count alike.
            training, compute, seed: Of this training.
        """
        self.seed = seed
        sizes = {name: len(classes[name]) or AGES for name in truth}
        labels = {name: torch.from_numpy(values[learnt]) for name, values in truth.items()}
        heads = AttributeHeads(encoder.encoder.width, sizes)
        for name, values in labels.items():
            if name not in weighted:  # where they count alike, even is the start
                heads.start_at(name, values)
        model = nn.ModuleDict({"heads": heads, "encoder": copy.deepcopy(encoder)})
        super().__init__(model, compute, training.ema)
        self.labels = {name: values.to(compute.device) for name, values in labels.items()}
        self.weights = {
            name: inverse_frequency(labels[name], sizes[name]).to(compute.device)
            for name in weighted
            if name in labels
        }

    @property
    def trunk(self) -> nn.Module:
        """The encoder's network, whose blocks may learn at rates of their own."""
        return cast(Frozen, self.model["encoder"]).encoder.trunk

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the losses of a part of the step's batch, each face or its mirror image by chance."""
        images = random_flip(to_input(self.feed.batch(step, part)), self.noise("flip", step, part))
        with self.compute.autocast():
            pooled = self.model["encoder"](images).float()
        ids = self.feed.ids(step, part).to(self.compute.device)
        labels = {name: values[ids] for name, values in self.labels.items()}
        losses = attribute_losses(self.model["heads"](pooled), labels, self.weights)
        return {LOSS: torch.stack(list(losses.values())).mean()} | {
            f"{name}_loss": value for name, value in losses.items()
        }

    def trial(self, model: nn.Module, count: int) -> Tensor:
        """Return logits of so many empty images."""
        network = cast(nn.ModuleDict, model)
        images = cast(Frozen, network["encoder"]).encoder.blank(count, self.compute.device)
        pooled = network["encoder"](images)
        return torch.cat(list(network["heads"](pooled.float()).values()), dim=1)

    def predict(self, faces: OpenFaces) -> dict[str, NDArray[np.float64]]:
        """Return each task's prediction of some faces: the number of a class, or an age in years.

        The probabilities of a face and of its mirror image are averaged.
        """
        self.network.eval()
        encoder, heads = self.model["encoder"], self.model["heads"]

        def look(images: Tensor) -> Tensor:
            views = torch.stack([encoder(images).float(), encoder(images.flip(-1)).float()], dim=1)
            with torch.autocast(images.device.type, enabled=False):
                logits = heads(views)
            means = {name: each.double().softmax(dim=2).mean(dim=1) for name, each in logits.items()}
            values = [
                expected_age(each) if name == AGE else each.argmax(dim=1).double()
                for name, each in means.items()
            ]
            return torch.stack(values, dim=1)

        found = in_batches(look, faces, self.compute)
        return {name: found[:, place] for place, name in enumerate(self.labels)}
