"""Masked pretraining: which faces, what is hidden of them, and what the reconstruction costs.

Shapes: B batch, N patches, M hidden, Q predicted, P pixel values per patch, H side of an image.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.compute.seeding import Noise
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS, REGION_MASKS
from facemae.data.faces.cache import Faces
from facemae.masking.mask import PatchMask
from facemae.masking.regions import Crops, region_maps, whole
from facemae.masking.strategies import RATIOS, draw_mask, ratio_at
from facemae.models.embedder import BATCH
from facemae.models.mae import MaskedAutoencoder, Prediction
from facemae.models.patches import to_input
from facemae.models.reconstruction import errors_of, keep_visible_pixels, reconstruct
from facemae.training.objective import LOSS, Objective
from facemae.training.objectives.augment import apply_crops, random_colour, random_crops
from facemae.training.objectives.mask_guides import GUIDES
from facemae.training.objectives.perceptual import build_perceptual

COMMON_MASK = "random"  # what every run is validated and scored under, whatever its own mask


class MaskedPretraining(Objective):
    """He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022, under any mask.

    `guide` is what leads the masks, trained along, and `perceptual` a loss on features; both None for most
    runs.
    """

    model: MaskedAutoencoder

    def __init__(
        self, model: MaskedAutoencoder, settings: config.Pretrain, compute: Compute, seed: int
    ) -> None:
        self.settings, self.seed, self.side = settings, seed, model.encoder.side
        guide = MASK_GUIDES.get(settings.mask)
        self.guide = GUIDES[guide](model, settings) if guide else None
        self.perceptual = build_perceptual(model, settings) if settings.perceptual.weight else None
        beside: dict[str, nn.Module | None] = {"guide": self.guide, "perceptual": self.perceptual}
        super().__init__(
            model, compute, settings.ema, **{name: part for name, part in beside.items() if part}
        )
        self.clipped_apart = (self.guide,) if self.guide else ()
        self.compiled = compute.compiled(model, one_shape=settings.mask not in RATIOS)

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the losses of a part of the step's batch, by name."""
        images, crops = self._images(step, part)
        noise = self.noise("mask", step, part)
        with self.compute.autocast():
            mask = self.draw_mask(images, crops, noise, step / self.settings.steps)
            ids = predicted_ids(self.model, mask, self.settings, noise)
            prediction: Prediction = self.compiled(images, mask, ids)
            errors = errors_of(self.model, prediction, images, mask, self.settings)
            losses = {LOSS: errors.mean()}
            self._add_guide(losses, images, mask, prediction, errors.detach())
            self._add_perceptual(losses, images, mask, prediction)
        return losses

    def draw_mask(self, images: Tensor, crops: Crops, noise: Noise, progress: float) -> PatchMask:
        """Return a mask of the run's strategy for images (B, 3, H, H), which `crops` has cut from faces."""
        settings = self.settings
        return draw_mask(
            settings.mask,
            settings.mask_ratio,
            settings.mask_parameters,
            images.shape[-1] if settings.mask in PIXEL_MASKS else self.side,
            noise,
            region_maps(self.side, crops) if settings.mask in REGION_MASKS else None,
            progress,
            self.guide.signal(images) if self.guide else None,
        )

    def follow(self, world: World) -> None:
        """Let the guide and the averaged copies follow the weights."""
        if self.guide:
            self.guide.update(self.model, world)
        if self.perceptual:
            self.perceptual.update(self.model)

    def trial(self, model: nn.Module, count: int) -> Tensor:
        """Return the loss of so many empty images, for an estimate of what a step costs."""
        mae = cast(MaskedAutoencoder, model)
        images = mae.encoder.blank(count, self.compute.device)
        noise = Noise(range(count), "trial", device=self.compute.device)
        mask = self._common_mask(noise, least=True)
        prediction: Prediction = mae(images, mask, predicted_ids(mae, mask, self.settings, noise))
        return errors_of(mae, prediction, images, mask, self.settings).mean()

    def score(self, model: nn.Module, faces: Faces, *, own_mask: bool = False) -> float:
        """Return the mean reconstruction error of some faces; their masks are the same for every seed.

        By default under the mask that is common to all runs, else under the run's own.
        """
        total = 0.0
        for start in range(0, len(faces.images), BATCH):
            images, mask, prediction = self.predict(model, faces, start, own_mask=own_mask)
            errors = errors_of(self.model, prediction, images, mask, self.settings)
            total += float(errors.mean()) * len(images)
        return total / len(faces.images)

    @torch.no_grad()
    def predict(
        self, model: nn.Module, faces: Faces, start: int, *, own_mask: bool
    ) -> tuple[Tensor, PatchMask, Prediction]:
        """Return `BATCH` of the faces from `start` on as images, their masks, and what the model predicts."""
        device = self.compute.device
        images = to_input(torch.from_numpy(faces.images[start : start + BATCH]).to(device))
        noise = Noise(range(start, start + len(images)), "unseen", device=device)
        with self.compute.autocast():
            crops = whole(len(images), device)
            mask = self.draw_mask(images, crops, noise, 1.0) if own_mask else self._common_mask(noise)
            prediction: Prediction = model(images, mask)
        return images, mask, prediction

    def _common_mask(self, noise: Noise, *, least: bool = False) -> PatchMask:
        """Return a mask that is drawn alike for every run: over patches, or over pixels where it hides those.

        It hides the run's `mask_ratio`, or the least share that the run ever hides.
        """
        settings, ratio = self.settings, self.settings.mask_ratio
        if least:
            ratio = min(ratio_at(settings.mask, ratio, settings.mask_parameters, each) for each in (0.0, 1.0))
        pixels = self.model.encoder.patch_size if settings.mask in PIXEL_MASKS else 1
        return draw_mask(COMMON_MASK, ratio, {}, self.side * pixels, noise)

    def _images(self, step: int, part: slice) -> tuple[Tensor, Crops]:
        settings = self.settings
        crops = random_crops(self.noise("crop", step, part), settings.crop_min)
        images = apply_crops(self.feed.batch(step, part), crops)
        if settings.brightness or settings.grey:
            noise = self.noise("colour", step, part)
            images = random_colour(images, settings.brightness, settings.grey, noise)
        return images, crops

    def _add_guide(
        self,
        losses: dict[str, Tensor],
        images: Tensor,
        mask: PatchMask,
        prediction: Prediction,
        errors: Tensor,
    ) -> None:
        if self.guide is None:
            return
        self.guide.observe(prediction.ids, errors)
        own = self.guide.loss(images, mask, prediction, errors)
        if own is not None:
            losses["guide_loss"] = own
            # Added for its gradient alone: it reaches no weight of the autoencoder.
            losses[LOSS] = losses[LOSS] + own - own.detach()

    def _add_perceptual(
        self, losses: dict[str, Tensor], images: Tensor, mask: PatchMask, prediction: Prediction
    ) -> None:
        if self.perceptual is None:
            return
        normalised = self.settings.normalise_target
        picture = reconstruct(prediction, images, self.model.encoder.patch_size, normalised=normalised)
        if self.model.hides_pixels(mask) and self.settings.loss_on == "hidden":
            picture = keep_visible_pixels(picture, images, mask)
        losses["pixel_loss"], losses["perceptual_loss"] = losses[LOSS], self.perceptual(picture, images)
        losses[LOSS] = losses[LOSS] + self.settings.perceptual.weight * losses["perceptual_loss"]


def predicted_ids(mae: MaskedAutoencoder, mask: PatchMask, settings: config.Pretrain, noise: Noise) -> Tensor:
    """Return the patches that the loss is taken on, (B, Q): hidden ones, a random share of them, or all."""
    if settings.loss_on == "all" or mae.hides_pixels(mask):
        return mae.all_ids(len(mask.hidden), mask.hidden.device)
    count = max(1, round(settings.predict_ratio * mask.hidden.shape[1]))
    hidden = mask.hidden_ids.shape[1]
    if count >= hidden:
        return mask.hidden_ids
    chosen = noise.uniform(hidden).argsort(dim=1)[:, :count].sort(dim=1).values
    return mask.hidden_ids.gather(1, chosen)
