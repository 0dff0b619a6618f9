"""Fine-tuning for identity: views of faces, their embeddings and a loss, over labels one with a margin.

Shapes: B batch, H side of a face, M dimensions of an embedding, N training faces.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.seeding import Noise
from facemae.data.faces.cache import Faces
from facemae.evaluation.metrics import roc_auc_score
from facemae.evaluation.pairs import all_pairs
from facemae.masking.mask import PatchMask, hidden_count, hide_highest
from facemae.models.embedder import Embedder, embed_faces
from facemae.models.lora import add_adapters
from facemae.models.patches import to_input
from facemae.models.vit import Vit
from facemae.training import health
from facemae.training.objective import HELD_OUT, LOSS, Objective, Validation
from facemae.training.objectives.augment import random_view
from facemae.training.objectives.margin_losses import chance, full_margin, identity_loss, set_margin
from facemae.training.optimizer import ramp


class FaceEmbedding(Objective):
    """A face embedder that learns what each training face's embedding should be like.

    `criterion` is the loss, called with embeddings (B, M) and their targets, and `chance` what it is of an
    embedding that tells nobody apart; `targets` (N, ...) are what is learnt of each training face. `known`
    are some faces of the training people, to look at what the embedding does with them.
    """

    model: Embedder

    def __init__(
        self,
        model: Embedder,
        criterion: nn.Module,
        chance: float,
        targets: Tensor,
        known: Faces,
        settings: config.Finetune,
        compute: Compute,
        seed: int,
    ) -> None:
        self.criterion, self.chance, self.targets = criterion, chance, targets.to(compute.device)
        self.settings, self.seed, self.known = settings, seed, known
        choose_weights(model, settings)
        super().__init__(model, compute, settings.ema, criterion=criterion)

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the loss of a part of the step's batch."""
        noise = self.noise("view", step, part)
        images = random_view(to_input(self.feed.batch(step, part)), self.settings, noise)
        embeddings = self._embed(images, step, part)
        targets = self.targets[self.feed.ids(step, part).to(self.targets.device)]
        return {LOSS: self.criterion(embeddings.float(), targets)}

    def _embed(self, images: Tensor, step: int, part: slice) -> Tensor:
        embedder, settings = self.model, self.settings
        embedder.encoder.train()
        still = still_modules(embedder, settings, step)
        for module in still:
            module.eval()
        drops = step < settings.patch_drop_until * settings.steps
        mask = dropped_patches(embedder, settings, self.noise("patches", step, part)) if drops else None
        with self.compute.autocast():
            with torch.set_grad_enabled(embedder.encoder not in still):
                features = embedder.features(images, mask)
            embeddings: Tensor = embedder.head(features)
        return embeddings

    def trial(self, model: nn.Module, count: int) -> Tensor:
        """Return embeddings of so many empty images, as the dearest steps make them."""
        embedder, settings = cast(Embedder, model), self.settings
        images = embedder.encoder.blank(count, self.compute.device)
        noise = Noise(range(count), "trial", device=self.compute.device)
        always = settings.patch_drop_until == 1
        embeddings: Tensor = embedder(images, dropped_patches(embedder, settings, noise) if always else None)
        return embeddings

    def validate_on(self, held_out: Faces) -> None:
        """Judge the training by how well the embedder tells apart people it does not learn from."""
        people = _numbers(held_out)

        def measure(step: int) -> dict[str, float]:
            vectors = self.embedded(held_out.images)
            found = {HELD_OUT: 1.0 - float(roc_auc_score(all_pairs(vectors, people))[0])}
            return found | (asdict(measured) if (measured := self.measured()) else {})

        self.validation = Validation(self.settings.validate_every, self.settings.patience, measure)

    def embedded(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings (B, M) of faces (B, H, H, 3) as the network is now."""
        return embed_faces(self.result.eval(), faces, self.compute)

    def measured(self) -> health.Health | None:
        """Return what the embedding does with faces that it learns from; None where nobody is shown twice."""
        if not len(self.known.images):
            return None
        return health.measure(self.embedded(self.known.images), _numbers(self.known))

    def judged(self, log: list[dict[str, Any]], *, aligned: bool) -> dict[str, Any]:
        """Return whether the training has learnt, with the figures that say so (health.py)."""
        last = log[-max(1, len(log) // 10) :]
        loss = sum(line[LOSS] for line in last) / len(last) / self.chance
        measured, share = self.measured(), None
        if measured and aligned:
            share = health.frame_share(self.embedded, self.known.images, _numbers(self.known))
        return health.entry(measured, loss, share)


class Recognition(FaceEmbedding):
    """A face embedder that learns to tell the training people apart, by a trained vector for each of them."""

    def __init__(
        self,
        model: Embedder,
        labels: Tensor,
        known: Faces,
        settings: config.Finetune,
        compute: Compute,
        seed: int,
    ) -> None:
        """Learn from labels (N,), the number of each training face's person."""
        people = int(labels.max()) + 1
        criterion = identity_loss(settings, people, cast(nn.Linear, model.head[-2]).out_features)
        by_chance = chance(settings, people)
        super().__init__(model, criterion, by_chance, labels, known, settings, compute, seed)

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the loss of a part of the step's batch, with the step's margin."""
        share = ramp(step, self.settings.steps, self.settings.margin_warmup_fraction)
        set_margin(self.criterion, full_margin(self.settings) * share)
        return super().loss(step, part)


def _numbers(faces: Faces) -> NDArray[np.int64]:
    return np.unique([str(person) for person in faces.people], return_inverse=True)[1]


def choose_weights(embedder: Embedder, settings: config.Finetune) -> None:
    """Freeze what the mode does not train: the gradient of those weights is never computed."""
    encoder = embedder.encoder
    if settings.mode == "full":
        return
    encoder.requires_grad_(False)
    if settings.mode == "partial":
        assert isinstance(encoder, Vit)
        encoder.trunk.blocks[-settings.last_blocks :].requires_grad_(True)
        encoder.trunk.norm.requires_grad_(True)
    elif settings.mode == "lora":
        assert isinstance(encoder, Vit)
        add_adapters(encoder.trunk, settings.lora_rank)


def still_modules(embedder: Embedder, settings: config.Finetune, step: int) -> list[nn.Module]:
    """Return the modules that nothing is learnt in at a step, to run as in evaluation.

    Else they would drop paths, and a batch normalisation would go on collecting its statistics.
    """
    encoder = embedder.encoder
    if settings.mode == "probe" or step < settings.head_steps:
        return [encoder]
    if settings.mode == "partial":
        assert isinstance(encoder, Vit)
        return list(encoder.trunk.blocks[: -settings.last_blocks])
    return []


def dropped_patches(embedder: Embedder, settings: config.Finetune, noise: Noise) -> PatchMask | None:
    """Return which patches are left out of each image, at random; None: none."""
    if not settings.patch_drop:
        return None
    patches = embedder.encoder.side**2
    return hide_highest(noise.uniform(patches), hidden_count(patches, settings.patch_drop))
