"""The objective of masked-autoencoder pretraining: which faces, what is hidden, and what it costs.

Shapes: B batch, N patches, M hidden, Q predicted, P pixel values per patch, H side of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.compute.seeding import Noise
from facemae.data.faces.loader import Feed
from facemae.masking.crops import Crops
from facemae.masking.mask import PatchMask
from facemae.masking.regions import region_maps
from facemae.masking.strategies import STRATEGIES, draw_mask
from facemae.models.mae import MaskedAutoencoder, Prediction
from facemae.models.reconstruction import errors_of, keep_visible_pixels, reconstruct
from facemae.training.objectives.augment import apply_crops, random_colour, random_crops
from facemae.training.objectives.mask_guides import GUIDES, Guide
from facemae.training.objectives.perceptual import Perceptual, build_perceptual
from facemae.training.trainer import LOSS


class Masker:
    """Draws the masks of a run: its strategy with its parameters and, where it has one, its guide."""

    def __init__(self, mae: MaskedAutoencoder, settings: config.Pretrain, guide: Guide | None) -> None:
        self.settings, self.guide = settings, guide
        self.strategy = STRATEGIES[settings.mask]
        self.side = mae.encoder.side

    def draw(self, images: Tensor, crops: Crops, noise: Noise, progress: float) -> PatchMask:
        """Return a mask for images (B, 3, H, H), which `crops` has cut from aligned faces."""
        regions = region_maps(self.side, crops) if self.strategy.regions else None
        return draw_mask(
            self.settings.mask,
            self.settings.mask_ratio,
            self.settings.mask_parameters,
            images.shape[-1] if self.strategy.pixels else self.side,
            noise,
            regions,
            progress,
            self.guide.signal(images) if self.guide else None,
        )


@dataclass(frozen=True)
class Autoencoding:
    """Everything that one step of pretraining takes.

    Attributes:
        mae: The autoencoder, whose weights are trained.
        compiled: The same, as it is called.
        masker: Draws its masks.
        guide: What leads the masks, trained along; None for most strategies.
        perceptual: A loss on features; None for most runs.
        feed: The training faces.
        settings: The run's.
        compute: Where it runs.
        seed: Of the run.
    """

    mae: MaskedAutoencoder
    compiled: nn.Module
    masker: Masker
    guide: Guide | None
    perceptual: Perceptual | None
    feed: Feed
    settings: config.Pretrain
    compute: Compute
    seed: int

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the losses of a part of the step's batch, by name."""
        images, crops = self._images(step, part)
        noise = self._noise(part, "mask", step)
        with self.compute.autocast():
            mask = self.masker.draw(images, crops, noise, step / self.settings.steps)
            ids = predicted_ids(self.mae, mask, self.settings, noise)
            prediction: Prediction = self.compiled(images, mask, ids)
            errors = self.errors(prediction, images, mask)
            losses = {LOSS: errors.mean()}
            self._add_guide(losses, images, mask, prediction, errors)
            self._add_perceptual(losses, images, mask, prediction)
        return losses

    def errors(self, prediction: Prediction, images: Tensor, mask: PatchMask) -> Tensor:
        """Return each predicted patch's error (B, Q)."""
        return errors_of(self.mae, prediction, images, mask, self.settings)

    def after_step(self, world: World) -> None:
        """Let the guide and the averaged copies follow the weights."""
        if self.guide:
            self.guide.update(self.mae, world)
        if self.perceptual:
            self.perceptual.update(self.mae)

    def _images(self, step: int, part: slice) -> tuple[Tensor, Crops]:
        faces = self.feed.batch(step, part)
        crops = random_crops(self._noise(part, "crop", step), self.settings.crop_min)
        images = apply_crops(faces, crops)
        if self.settings.brightness or self.settings.grey:
            noise = self._noise(part, "colour", step)
            images = random_colour(images, self.settings.brightness, self.settings.grey, noise)
        return images, crops

    def _noise(self, part: slice, purpose: str, step: int) -> Noise:
        places = range(part.start, part.stop)
        return Noise(places, self.seed, purpose, step, device=self.compute.device)

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
        self.guide.observe(prediction.ids, errors.detach())
        own = self.guide.loss(images, mask, prediction, errors.detach())
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
        picture = reconstruct(prediction, images, self.mae.encoder.patch_size, normalised=normalised)
        if self.mae.hides_pixels(mask) and self.settings.loss_on == "hidden":
            picture = keep_visible_pixels(picture, images, mask)
        losses["pixel_loss"], losses["perceptual_loss"] = losses[LOSS], self.perceptual(picture, images)
        losses[LOSS] = losses[LOSS] + self.settings.perceptual.weight * losses["perceptual_loss"]


def build_autoencoding(
    mae: MaskedAutoencoder, feed: Feed, settings: config.Pretrain, compute: Compute, seed: int
) -> Autoencoding:
    """Return the objective of a run around its autoencoder, which is on the device already."""
    name = STRATEGIES[settings.mask].guide
    guide = GUIDES[name](mae, settings) if name else None
    perceptual = build_perceptual(mae, settings) if settings.perceptual.weight else None
    for module in (guide, perceptual):
        if module is not None:
            compute.place(module)
    masker = Masker(mae, settings, guide)
    compiled = compute.compiled(mae, one_shape=masker.strategy.ratio is None)
    return Autoencoding(mae, compiled, masker, guide, perceptual, feed, settings, compute, seed)


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
