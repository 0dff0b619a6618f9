"""Synthetic light on faces: too little or too much of it, a changed gamma, or shade on one side.

Light adds up in linear intensities, so exposure and shade are computed there and written back as sRGB
(IEC 61966-2-1). Which way a light goes (under or over, left or right) is drawn for each face.

Shapes: N images, H their side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from facemae.compute.seeding import Noise

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]

UNDER, OVER = -4.0, 2.0  # stops of the strongest exposure: a sixteenth of the light, or four times it
GAMMA = 3.0  # the strongest, or its inverse
SHADE = -6.0  # stops of the strongest shade where it is full
_EDGES = 0.1, 0.9  # where the shade begins and where it is full, in shares of the width

_LEVELS = np.arange(256, dtype=np.float64) / 255


def relight(images: Images, kind: str, strength: float, noise: Noise) -> Images:
    """Change the light of each face, images (N, H, H, 3) uint8 in sRGB, by one of `LIGHTS`.

    A strength of 0 leaves them as they are, 1 is the most; the same noise, of N samples, with another
    strength changes a face the same way.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"a strength lies between 0 and 1, got {strength}")
    return LIGHTS[kind](images, strength, noise)


def exposure(images: Images, strength: float, noise: Noise) -> Images:
    """Take light down to `UNDER`, or give it up to `OVER`, where what is too bright is clipped."""
    factor = 2.0 ** (np.where(_either(noise) < 0, UNDER, OVER) * strength)
    return _through(images, _encoded(_linear(_LEVELS) * factor))


def gamma(images: Images, strength: float, noise: Noise) -> Images:
    """Raise the pixels' values to a power of up to `GAMMA`, or of its inverse."""
    return _through(images, _LEVELS**GAMMA ** (_either(noise) * strength))


def side(images: Images, strength: float, noise: Noise) -> Images:
    """Take up to all light from one side of the face, smoothly from the other side on."""
    size = images.shape[2]
    low, high = _EDGES
    across = np.clip(((np.arange(size) + 0.5) / size - low) / (high - low), 0, 1)
    ramp = across**2 * (3 - 2 * across)  # smooth at both ends
    ramps = np.where(_either(noise) > 0, ramp, ramp[::-1])  # (N, H)
    light = (2.0 ** (SHADE * strength * ramps)).astype(np.float32)
    lit = _linear(_LEVELS).astype(np.float32)[images] * light[:, None, :, None]
    return _rounded(_encoded(lit))


LIGHTS: dict[str, Callable[[Images, float, Noise], Images]] = {
    "exposure": exposure,
    "gamma": gamma,
    "side": side,
}


def _either(noise: Noise) -> NDArray[np.float64]:
    """Return -1 or 1 for each image, (N, 1)."""
    return np.where(noise.uniform(1).numpy() < 0.5, -1.0, 1.0)


def _through(images: Images, curves: NDArray[np.floating]) -> Images:
    """Map the levels of each image by its own curve, (N, 256) in shares of white."""
    every = np.arange(len(images))[:, None, None, None]
    return _rounded(curves)[every, images]


def _rounded(values: NDArray[np.floating]) -> Images:
    levels: Images = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return levels


def _linear(srgb: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the intensities behind sRGB values from 0 to 1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _encoded(linear: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the sRGB values of intensities of 0 and more."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
