"""Synthetic occluders on aligned faces: something of a wanted area is laid over each face.

An occluder is an order in which the pixels are covered. As many as the area asks for are taken from its
front, so that the area is exact to the pixel, and a larger occluder of a face contains the smaller one. A
kind that has covered its own part of the face grows on beyond it: sunglasses over 0.7 of a face cover the
cheeks.

Occluders stand where the alignment template has eyes, nose and mouth (data/warp.py); the faces have to be
aligned to it. Shapes: N images, H their side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemae.compute.seeding import Noise
from facemae.data.alignment.warp import template

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
Booleans = NDArray[np.bool_]

SIZE = 112  # the template's side: all places below are in its pixels
_POINTS = template(SIZE)
_EYES, _NOSE, _MOUTH = _POINTS[:2], _POINTS[2], _POINTS[3:].mean(axis=0)

_CELLS = 28  # of the texture along a side
_FABRIC, _CLUTTER = 40, 160  # how far a texture's colours reach around the occluder's own
_SKIN = ((92, 58, 42), (236, 198, 172))  # the darkest and the lightest
_MASKS = ((150, 190, 215), (235, 235, 232), (32, 32, 36), (120, 170, 150))  # surgical, white, black, green


class Plane(NamedTuple):
    """Where the pixels of an image are, in pixels of the template: x (1, 1, H) and y (1, H, 1)."""

    x: Floats
    y: Floats


Order = Callable[[Plane, Noise], Floats]
"""From the pixels' places to (N, H, H) float32: the lower, the earlier a pixel is covered."""


def occlude(images: Images, kind: str, area: float, noise: Noise) -> tuple[Images, Booleans]:
    """Cover a share of each aligned face, images (N, H, H, 3) uint8, by one of `OCCLUSIONS`.

    The noise, of N samples, is fresh: the same with another area, a share from 0 to 1 of the whole image,
    gives the same occluder, larger or smaller. Returns the covered images, and (N, H, H) bool: which of their
    round(area * H * H) pixels are covered.
    """
    if not 0 <= area <= 1:
        raise ValueError(f"an area is a share from 0 to 1, got {area}")
    size = images.shape[1]
    places = ((np.arange(size) + 0.5) * (SIZE / size)).astype(np.float32)
    order = OCCLUSIONS[kind](Plane(places[None, None, :], places[None, :, None]), noise)
    hidden = _first(np.broadcast_to(order, images.shape[:3]), round(area * size * size))
    return np.where(hidden[..., None], _textures(kind, size, noise), images), hidden


def _first(order: Floats, covered: int) -> Booleans:
    """Mark the `covered` pixels of each image that come first; of equal ones the upper, then the left."""
    flat = order.reshape(len(order), -1)
    if covered == 0:
        return np.zeros(order.shape, np.bool_)
    last = np.partition(flat, covered - 1, axis=1)[:, covered - 1, None]
    before, equal = flat < last, flat == last
    left = covered - before.sum(axis=1, keepdims=True)
    chosen: Booleans = before | (equal & (np.cumsum(equal, axis=1) <= left))
    return chosen.reshape(order.shape)


# --- the kinds ---


def block(plane: Plane, noise: Noise) -> Floats:
    """Order the pixels as a rectangle of a random place and shape grows."""
    x, y = (_between(noise, 28, 84) for _ in range(2))
    stretch = 2 ** _between(noise, -0.5, 0.5)  # of the width; the sides are at most 2 : 1
    distance: Floats = np.maximum(np.abs(plane.x - x) / stretch, np.abs(plane.y - y) * stretch)
    return distance


def sunglasses(plane: Plane, noise: Noise) -> Floats:
    """Order the pixels as two lenses and a thin bar grow over the eyes, and on into one."""
    width = _between(noise, 1.1, 1.5)  # per height
    shift_x, shift_y = (_between(noise, -2, 2) for _ in range(2))
    lenses = [
        np.hypot((plane.x - x - shift_x) / width, plane.y - y - shift_y) for x, y in _EYES.astype(np.float32)
    ]
    bar = 4 * np.abs(plane.y - _EYES[:, 1].mean().astype(np.float32) - shift_y) + 0 * plane.x
    distance: Floats = np.minimum(np.minimum(*lenses), bar)
    return distance


def mask(plane: Plane, noise: Noise) -> Floats:
    """Order the pixels from the nose down to the chin between the cheeks; then those around."""
    top = _NOSE[1].astype(np.float32) - 10 + _between(noise, -3, 3) + 16 * ((plane.x - SIZE / 2) / 40) ** 2
    half = _between(noise, 40, 46) - 0.5 * np.maximum(plane.y - 85, 0)
    beside = np.abs(plane.x - SIZE / 2) - half
    outside = np.maximum(np.maximum(beside, top - plane.y), 0)
    order: Floats = np.where(outside > 0, SIZE + outside, plane.y - top)
    return order


def scarf(plane: Plane, noise: Noise) -> Floats:
    """Order the pixels from below the chin upwards, with a wavy edge."""
    waves, height, start = _between(noise, 1, 2.5), _between(noise, 1, 4), _between(noise, 0, 1)
    edge: Floats = height * np.sin(2 * np.pi * (plane.x * waves / SIZE + start))
    return edge - plane.y


def hand(plane: Plane, noise: Noise) -> Floats:
    """Order the pixels as a hand grows in scale, its palm near mouth or cheek, its wrist below."""
    side = np.where(_between(noise, -1, 1) < 0, np.float32(-1), np.float32(1))
    x = _MOUTH[0].astype(np.float32) + side * _between(noise, 0, 28)
    y = _MOUTH[1].astype(np.float32) + _between(noise, -16, 6)
    turn = side * np.deg2rad(_between(noise, -40, 15))  # towards the nose, mostly
    across = side * ((plane.x - x) * np.cos(turn) + (plane.y - y) * np.sin(turn))
    along = (plane.y - y) * np.cos(turn) - (plane.x - x) * np.sin(turn)
    scale: Floats = np.minimum.reduce([_scale(across, along, *part) for part in _HAND])
    return scale


# The ellipses of a hand that points up: centre across and along, half axes across and along. The palm lies
# around the point that the hand grows from; then four fingers, a thumb and the wrist.
_HAND = (
    (0.0, 0.0, 13.0, 15.0),
    *((-10.5, -20.0, 3.2, 11.0), (-3.6, -24.0, 3.4, 13.0), (3.6, -24.0, 3.4, 13.0), (10.5, -20.0, 3.2, 11.0)),
    (-16.0, -2.0, 6.5, 4.5),
    (0.0, 37.0, 10.0, 40.0),
)


def _scale(across: Floats, along: Floats, x: float, y: float, a: float, b: float) -> Floats:
    """Return at which scale about the origin an ellipse first reaches each place; infinity: at none.

    With p the place and c the centre, both in half axes, scale 1 / u reaches p if |u p - c| <= 1.
    """
    p_x, p_y, c_x, c_y = across / np.float32(a), along / np.float32(b), x / a, y / b
    square = p_x**2 + p_y**2 + np.float32(1e-9)
    product = p_x * np.float32(c_x) + p_y * np.float32(c_y)
    root = product**2 - square * np.float32(c_x**2 + c_y**2 - 1)
    u = (product + np.sqrt(np.maximum(root, 0))) / square
    reached = (root >= 0) & (u > 0)
    scale: Floats = np.divide(1, u, out=np.full_like(u, np.inf), where=reached)
    return scale


OCCLUSIONS: dict[str, Order] = {
    "block": block,
    "sunglasses": sunglasses,
    "mask": mask,
    "scarf": scarf,
    "hand": hand,
    "left": lambda plane, noise: plane.x + 0 * plane.y,
    "right": lambda plane, noise: -plane.x + 0 * plane.y,
}


def _between(noise: Noise, low: float, high: float) -> Floats:
    """Return a number for each image, (N, 1, 1)."""
    drawn: Floats = noise.uniform(1, 1).numpy() * np.float32(high - low) + np.float32(low)
    return drawn


# --- what they are made of ---


def _textures(kind: str, size: int, noise: Noise) -> Images:
    """Return what an occluder would look like all over the image, (N, H, H, 3): plain or of noise."""
    colour = _COLOURS.get(kind, _any_colour)(noise)
    depth = _FABRIC if kind in _COLOURS else _CLUTTER
    textured = noise.uniform(1, 1, 1).numpy() < 0.5
    cells = (noise.uniform(_CELLS, _CELLS, 3).numpy() - 0.5) * np.where(textured, depth, 0)
    painted = np.clip(colour[:, None, None, :] + cells, 0, 255).astype(np.uint8)
    places = np.arange(size) * _CELLS // size
    return painted[:, places[:, None], places[None, :]]


def _any_colour(noise: Noise) -> Floats:
    return noise.uniform(3).numpy() * 255


def _skin(noise: Noise) -> Floats:
    dark, light = np.array(_SKIN, np.float32)
    skin: Floats = dark + (light - dark) * noise.uniform(1).numpy()
    return skin


_COLOURS: dict[str, Callable[[Noise], Floats]] = {
    "sunglasses": lambda noise: noise.uniform(1).numpy() * np.float32(40) + np.zeros(3, np.float32),
    "mask": lambda noise: np.array(_MASKS, np.float32)[noise.integers(len(_MASKS)).numpy()],
    "scarf": _any_colour,
    "hand": _skin,
}
