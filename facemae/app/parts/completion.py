"""One face under masks, still or moving, and what a trained masked autoencoder makes of what is hidden.

Shapes: H side of a face in pixels, N patches. PyTorch takes seconds to load, so that functions import it.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import plotly.colors
import streamlit as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facemae import config
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS, Masks
from facemae.core.errors import UsageError
from facemae.data.images import encode_png, open_image
from facemae.report.reconstructions import Pixels, masked

if TYPE_CHECKING:
    from facemae.compute.seeding import Noise
    from facemae.masking.mask import PatchMask
    from facemae.models.mae import MaskedAutoencoder

# A guided strategy asks a network that is in training, and there is none here.
DRAWN = tuple(name for name in config.STRATEGIES if name not in MASK_GUIDES)
STRATEGIES = tuple(name for name in DRAWN if name != "ratio_curriculum")  # it asks how far the training is
BY_HAND = "painted by hand"
HEAT = "Viridis"
SHADES = 256
DIMMED = 0.35  # of the contrast of visible patches is left under the error map
SHEET_COLUMNS = 4  # masks side by side on the sheet to share
SHEET_SIDE, LABEL, GAP = 168, 22, 8  # pixels of a picture on it, of the line above it, and between
FRAMES, MILLISECONDS = 12, 1000  # of a moving picture, and how long each is shown


@dataclass(frozen=True)
class Hiding:
    """What is to be hidden: by a strategy, or the (side, side) patches that were painted."""

    strategy: str
    ratio: float
    seed: int
    painted: NDArray[np.bool_] | None = None


class Model(NamedTuple):
    """A masked autoencoder, how it was trained, the settings of every mask, and its "run/seed" or name."""

    network: MaskedAutoencoder
    pretrain: config.Pretrain
    masks: Masks
    name: str = ""


@dataclass(frozen=True)
class Completion:
    """One face (H, H, 3), masked and completed."""

    masked: Pixels
    completed: Pixels
    visible: int  # patches that the encoder saw
    errors: NDArray[np.float64]  # (N,) of each patch as trained; NaN where nothing is hidden
    normalised: bool  # whether patches were predicted at zero mean and unit variance
    loss: str  # a key of `reconstruction.PIXEL_LOSSES`

    @property
    def error(self) -> float:
        """Return the mean error of a patch, as the training counts it."""
        return float(np.nanmean(self.errors))

    @property
    def worst(self) -> float:
        """Return the greatest error of a patch."""
        return float(np.nanmax(self.errors))


def painted_by_hand(painted: NDArray[np.bool_]) -> Hiding:
    """Return what painted patches (side, side) hide; a UsageError says that it is none or all of them."""
    if not painted.any():
        raise UsageError("No patch is painted, so there is nothing to guess: press and drag over the face.")
    if painted.all():
        raise UsageError("Every patch is painted, so the encoder would see nothing: wipe at least one.")
    return Hiding(BY_HAND, float(painted.mean()), 0, painted)


def complete(model: Model, image: Pixels, hiding: Hiding) -> Completion:
    """Hide part of one face (H, H, 3) and let a network fill it in; a UsageError says why it cannot."""
    import torch

    from facemae.models.patches import to_faces, to_input
    from facemae.models.reconstruction import errors_of, keep_visible_pixels, reconstruct

    network, pretrain, encoder = model.network, model.pretrain, model.network.encoder
    if hiding.strategy in PIXEL_MASKS and pretrain.decoder == "cross":
        raise UsageError(
            "This model's decoder predicts whole hidden patches only, and a mask of pixels leaves every "
            "patch in sight; choose another mask."
        )
    mask = _mask(hiding, model.masks, image.shape[0] if hiding.strategy in PIXEL_MASKS else encoder.side)
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
        masked(image[None], mask.hidden.numpy())[0],
        to_faces(completed)[0].numpy(),
        encoder.side**2 if network.hides_pixels(mask) else mask.visible_ids.shape[1],
        of_patch, pretrain.normalise_target, pretrain.loss,
    )  # fmt: skip


def _mask(hiding: Hiding, masks: Masks, side: int) -> PatchMask:
    """Return the mask over side x side patches, or pixels."""
    import torch

    from facemae.compute.seeding import Noise
    from facemae.masking.mask import hide_highest

    if hiding.painted is not None:
        painted = torch.from_numpy(hiding.painted.reshape(1, -1)).float()
        return hide_highest(painted, int(painted.sum()))
    if getattr(masks, hiding.strategy) is None:
        raise UsageError(
            f"This run's configuration has no settings for the {hiding.strategy} mask; choose another mask."
        )
    noise = Noise(range(1), hiding.seed)
    return _drawn(hiding.strategy, hiding.ratio, masks.parameters(hiding.strategy), side, noise)


def _drawn(
    strategy: str, ratio: float, parameters: Mapping[str, Any], side: int, noise: Noise, progress: float = 0.0
) -> PatchMask:
    """Return a strategy's mask over side x side patches that hides one at least and leaves one visible."""
    from facemae.masking.regions import region_map
    from facemae.masking.strategies import draw_mask

    least = 1 / side**2
    regions = None if strategy in PIXEL_MASKS else region_map(side)[None]
    return draw_mask(strategy, min(max(ratio, least), 1 - least), parameters, side, noise, regions, progress)


# --- pictures ---


def error_map(image: Pixels, errors: NDArray[np.float64], top: float) -> Pixels:
    """Return a face (H, H, 3) in pale grey with its hidden patches in the colour of their error.

    Errors (N,) are NaN where a patch is not hidden; `top` has the brightest colour.
    """
    side = round(len(errors) ** 0.5)
    patch = np.ones((image.shape[0] // side,) * 2 + (1,), np.uint8)
    shade = np.nan_to_num(errors / (top or 1.0)).clip(0, 1) * (SHADES - 1)
    colours = shades()[shade.round().astype(int)].reshape(side, side, 3)
    grey = np.uint8(255 * (1 - DIMMED)) + (DIMMED * image.mean(axis=2, keepdims=True)).astype(np.uint8)
    hidden = ~np.isnan(errors).reshape(side, side, 1)
    return np.where(np.kron(hidden, patch), np.kron(colours, patch), grey).astype(np.uint8)


@functools.cache
def shades() -> NDArray[np.uint8]:
    """Return the colours from no error to the greatest, (SHADES, 3)."""
    places = np.linspace(0, 1, SHADES).tolist()
    found = plotly.colors.sample_colorscale(HEAT, places, colortype="tuple")
    return (np.array(found) * 255).round().astype(np.uint8)


def every_mask(model: Model, image: Pixels, ratio: float, seed: int) -> bytes:
    """Return one picture (PNG) to share: a face (H, H, 3) under every mask that the run knows, and completed.

    Masks that cannot be drawn for this network are left out.
    """
    columns: list[tuple[str, list[Pixels]]] = [("the face", [image])]
    for strategy in STRATEGIES:
        try:
            done = complete(model, image, Hiding(strategy, ratio, seed))
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


@st.cache_data(max_entries=64, show_spinner="Drawing masks…")
def animation(
    face: bytes, strategy: str, ratio: float, parameters: dict[str, Any], patches: int
) -> tuple[bytes, bytes]:
    """Return a still and a moving picture (PNG) of a sample face under the masks of one of DRAWN.

    The face is an image file of the results, never a visitor's: what is drawn is kept for everyone. The ratio
    is that of hidden patches (patches x patches), where the strategy does not set it itself.
    """
    drawn = frames(np.asarray(open_image(face)), strategy, ratio, parameters, patches)
    return moving(drawn[:1]), moving(drawn)


def frames(image: Pixels, strategy: str, ratio: float, parameters: Mapping[str, Any], patches: int) -> Pixels:
    """Return a face (H, H, 3) under FRAMES masks (FRAMES, H, H, 3); a curriculum goes from start to end."""
    from facemae.compute.seeding import Noise

    side = image.shape[0] if strategy in PIXEL_MASKS else patches
    hidden = []
    for place in range(FRAMES):
        noise = Noise(range(place, place + 1), "animated")
        hidden.append(_drawn(strategy, ratio, parameters, side, noise, place / (FRAMES - 1)).hidden.numpy())
    return masked(np.repeat(image[None], FRAMES, axis=0), np.concatenate(hidden))


def moving(pictures: Pixels) -> bytes:
    """Return pictures (K, H, H, 3) as one PNG that shows each for a second, over and over."""
    first, *others = [Image.fromarray(picture) for picture in pictures]
    buffer = io.BytesIO()
    more: dict[str, Any] = {"append_images": others, "duration": MILLISECONDS, "loop": 0} if others else {}
    first.save(buffer, "PNG", save_all=bool(others), **more)
    return buffer.getvalue()
