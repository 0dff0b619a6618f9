"""One face under masks that a strategy draws again every second, as a picture that moves."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from facemae import config
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS
from facemae.report import reconstructions

FRAMES, MILLISECONDS = 12, 1000
# A guided strategy asks a network that is in training, and there is none here.
STRATEGIES = tuple(name for name in config.STRATEGIES if name not in MASK_GUIDES)


@st.cache_data(max_entries=64, show_spinner="Drawing masks…")
def pictures(
    face: bytes, strategy: str, ratio: float, parameters: dict[str, Any], patches: int
) -> tuple[bytes, bytes]:
    """Return a still and a moving picture (PNG) of a sample face of the results under a strategy's masks.

    Args:
        face: The face as an image file; never a visitor's own, since what is drawn is kept for everyone.
        strategy: One of STRATEGIES.
        ratio: Share of the patches that are hidden, where the strategy does not set it itself.
        parameters: The strategy's own.
        patches: Along a side.
    """
    image = np.asarray(Image.open(io.BytesIO(face)).convert("RGB"))
    drawn = frames(image, strategy, ratio, parameters, patches)
    return moving(drawn[:1]), moving(drawn)


def frames(
    image: reconstructions.Pixels, strategy: str, ratio: float, parameters: Mapping[str, Any], patches: int
) -> reconstructions.Pixels:
    """Return a face (H, H, 3) under FRAMES masks (FRAMES, H, H, 3); a curriculum goes from start to end."""
    # Imported here, since PyTorch takes seconds and the page opens without it.
    from facemae.compute.seeding import Noise
    from facemae.masking.regions import region_map
    from facemae.masking.strategies import draw_mask

    side = image.shape[0] if strategy in PIXEL_MASKS else patches
    ratio = possible(ratio, side)
    regions = None if strategy in PIXEL_MASKS else region_map(side)[None]
    hidden = [
        draw_mask(
            strategy, ratio, parameters, side, Noise(range(place, place + 1), "animated"),
            regions, progress=place / (FRAMES - 1),
        ).hidden.numpy()
        for place in range(FRAMES)
    ]  # fmt: skip
    return reconstructions.masked(np.repeat(image[None], FRAMES, axis=0), np.concatenate(hidden))


def possible(ratio: float, side: int) -> float:
    """Return the ratio, or the nearest that hides a patch of side x side and leaves one visible."""
    least = 1 / side**2
    return min(max(ratio, least), 1 - least)


def moving(pictures: reconstructions.Pixels) -> bytes:
    """Return pictures (K, H, H, 3) as one PNG that shows each for a second, over and over."""
    first, *others = [Image.fromarray(picture) for picture in pictures]
    buffer = io.BytesIO()
    more: dict[str, Any] = {"append_images": others, "duration": MILLISECONDS, "loop": 0} if others else {}
    first.save(buffer, "PNG", save_all=bool(others), **more)
    return buffer.getvalue()
