"""One face with parts hidden, and what a trained masked autoencoder makes of it.

Shapes: H side of a face in pixels, N patches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.colors
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facemae import config
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS, Masks
from facemae.core.errors import UsageError
from facemae.data.images import encode_png
from facemae.report.reconstructions import Pixels, masked

if TYPE_CHECKING:
    from facemae.masking.mask import PatchMask
    from facemae.models.mae import MaskedAutoencoder

# A guided strategy asks a network that is not kept beside the model, and this one how far the training is.
_OF_MOMENT = ("ratio_curriculum",)
STRATEGIES = tuple(name for name in config.STRATEGIES if name not in (*MASK_GUIDES, *_OF_MOMENT))
BY_HAND = "painted by hand"
HEAT = "Viridis"
SHADES = 256
DIMMED = 0.35  # of the contrast of visible patches is left under the error map
SHEET_COLUMNS = 4  # masks side by side on the sheet to share
SHEET_SIDE, LABEL, GAP = 168, 22, 8  # pixels of a picture on it, of the line above it, and between


@dataclass(frozen=True)
class Hiding:
    """What is to be hidden: by a strategy, or the (side, side) patches that were painted."""

    strategy: str
    ratio: float
    seed: int
    painted: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Completion:
    """One face, masked and completed.

    Attributes:
        masked, completed: (H, H, 3) uint8.
        visible, patches: How many patches the encoder saw, and of how many.
        errors: (N,) error of each patch as trained; NaN where nothing is hidden.
        error: Their mean, as the training counts them.
        normalised: Whether patches were predicted at zero mean and unit variance.
        loss: Key of `reconstruction.PIXEL_LOSSES`.
    """

    masked: Pixels
    completed: Pixels
    visible: int
    patches: int
    errors: NDArray[np.float64]
    error: float
    normalised: bool
    loss: str

    @property
    def unit(self) -> tuple[bool, str]:
        """Return what errors have to share to be compared."""
        return self.normalised, self.loss

    @property
    def worst(self) -> float:
        """Return the greatest error of a patch."""
        return float(np.nanmax(self.errors))


def painted_by_hand(painted: NDArray[np.bool_]) -> Hiding:
    """Return what painted patches (side, side) hide.

    Raises:
        UsageError: none is painted, or all are.
    """
    if not painted.any():
        raise UsageError("No patch is painted, so there is nothing to guess: press and drag over the face.")
    if painted.all():
        raise UsageError("Every patch is painted, so the encoder would see nothing: wipe at least one.")
    return Hiding(BY_HAND, float(painted.mean()), 0, painted)


def complete(
    network: MaskedAutoencoder, pretrain: config.Pretrain, masks: Masks, image: Pixels, hiding: Hiding
) -> Completion:
    """Hide part of one face (H, H, 3) and let the network fill it in.

    Raises:
        UsageError: the network cannot be asked so.
    """
    import torch

    from facemae.models.patches import to_faces, to_input
    from facemae.models.reconstruction import errors_of, keep_visible_pixels, reconstruct

    if hiding.strategy in PIXEL_MASKS and pretrain.decoder == "cross":
        raise UsageError(
            "This model's decoder predicts whole hidden patches only, and a mask of pixels leaves every "
            "patch in sight; choose another mask."
        )
    encoder = network.encoder
    mask = _mask(hiding, masks, image.shape[0] if hiding.strategy in PIXEL_MASKS else encoder.side)
    with torch.inference_mode():
        images = to_input(torch.from_numpy(image.copy())[None])
        prediction = network(images, mask)
        errors = errors_of(network, prediction, images, mask, pretrain)[0]
        completed = reconstruct(prediction, images, encoder.patch_size, normalised=pretrain.normalise_target)
        if network.hides_pixels(mask):
            completed = keep_visible_pixels(completed, images, mask)
    of_patch = np.full(encoder.side**2, np.nan)
    of_patch[prediction.ids[0].numpy()] = errors.numpy()
    return Completion(
        masked=masked(image[None], mask.hidden.numpy())[0],
        completed=to_faces(completed)[0].numpy(),
        visible=encoder.side**2 if network.hides_pixels(mask) else mask.visible_ids.shape[1],
        patches=encoder.side**2,
        errors=of_patch,
        error=float(errors.mean()),
        normalised=pretrain.normalise_target,
        loss=pretrain.loss,
    )


def _mask(hiding: Hiding, masks: Masks, side: int) -> PatchMask:
    """Return the mask over side x side patches, or pixels.

    Raises:
        UsageError: the run says nothing of such a mask.
    """
    import torch

    from facemae.compute.seeding import Noise
    from facemae.masking.mask import hide_highest
    from facemae.masking.regions import region_map
    from facemae.masking.strategies import draw_mask

    if hiding.painted is not None:
        painted = torch.from_numpy(hiding.painted.reshape(1, -1)).float()
        return hide_highest(painted, int(painted.sum()))
    if getattr(masks, hiding.strategy) is None:
        raise UsageError(
            f"This run's configuration has no settings for the {hiding.strategy} mask; choose another mask."
        )
    least = 1 / side**2  # at least one patch is hidden and one visible
    ratio = min(max(hiding.ratio, least), 1 - least)
    regions = None if hiding.strategy in PIXEL_MASKS else region_map(side)[None]
    parameters = masks.parameters(hiding.strategy)
    return draw_mask(hiding.strategy, ratio, parameters, side, Noise(range(1), hiding.seed), regions)


# --- pictures ---


def error_map(image: Pixels, errors: NDArray[np.float64], top: float) -> Pixels:
    """Return a face (H, H, 3) in pale grey with its hidden patches in the colour of their error.

    Args:
        image: (H, H, 3) uint8.
        errors: (N,), NaN where a patch is not hidden.
        top: The error that has the brightest colour.
    """
    side = round(len(errors) ** 0.5)
    patch = image.shape[0] // side
    shade = np.nan_to_num(errors / (top or 1.0)).clip(0, 1) * (SHADES - 1)
    colours = shades()[shade.round().astype(int)].reshape(side, side, 3)
    grey = np.uint8(255 * (1 - DIMMED)) + (DIMMED * image.mean(axis=2, keepdims=True)).astype(np.uint8)
    hidden = ~np.isnan(errors).reshape(side, side, 1)
    spread = [each.repeat(patch, axis=0).repeat(patch, axis=1) for each in (hidden, colours)]
    return np.where(spread[0], spread[1], grey.repeat(3, axis=2)).astype(np.uint8)


@functools.cache
def shades() -> NDArray[np.uint8]:
    """Return the colours from no error to the greatest, (SHADES, 3)."""
    places = np.linspace(0, 1, SHADES).tolist()
    found = plotly.colors.sample_colorscale(HEAT, places, colortype="tuple")
    return (np.array(found) * 255).round().astype(np.uint8)


def every_mask(
    network: MaskedAutoencoder,
    pretrain: config.Pretrain,
    masks: Masks,
    image: Pixels,
    ratio: float,
    seed: int,
) -> bytes:
    """Return one picture (PNG) to share: a face (H, H, 3) under every mask that the run knows, and completed.

    Masks that cannot be drawn for this network are left out.
    """
    columns: list[tuple[str, list[Pixels]]] = [("the face", [image])]
    for strategy in STRATEGIES:
        try:
            done = complete(network, pretrain, masks, image, Hiding(strategy, ratio, seed))
        except UsageError:
            continue
        columns.append((strategy, [done.masked, done.completed]))
    step, block = SHEET_SIDE + GAP, LABEL + 2 * (SHEET_SIDE + GAP) + GAP
    rows = -(-len(columns) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * step + GAP, rows * block), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (name, pictures) in enumerate(columns):
        left, top = GAP + place % SHEET_COLUMNS * step, place // SHEET_COLUMNS * block
        draw.text((left, top + GAP), name.replace("_", " "), fill="#1F2328", font_size=14)
        for row, picture in enumerate(pictures):
            shown = Image.fromarray(picture).resize((SHEET_SIDE, SHEET_SIDE), Image.Resampling.BICUBIC)
            sheet.paste(shown, (left, top + LABEL + GAP + row * step))
    return encode_png(np.asarray(sheet))
