"""The geometry of alignment: five landmarks are moved onto a template by one similarity transform.

Coordinates are (x, y) in pixels from the image's top left corner, so the centre of the first pixel
is (0.5, 0.5): the detector's landmarks and Pillow share this convention, and sizes scale without offsets.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.floating]

# Eyes, nose and mouth corners, each left to right as the viewer sees them, on a 112 x 112 image: the
# template that insightface published with ArcFace and most recognition models share.
ARCFACE_TEMPLATE: NDArray[np.float64] = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
_TEMPLATE_SIZE = 112


def template(size: int) -> NDArray[np.float64]:
    """Return where the five landmarks belong on a `size` x `size` image, as (5, 2)."""
    return ARCFACE_TEMPLATE * (size / _TEMPLATE_SIZE)


def similarity(source: Array, target: Array) -> NDArray[np.float64]:
    """Return the (2, 3) matrix that best maps (K, 2) points on others by rotation, scale and shift alone.

    In the plane Umeyama's least-squares solution (1991, eq. 40-43) is a linear fit of complex numbers,
    w = a z + b: a turns and scales, b shifts.

    Raises:
        ValueError: the points of one side coincide, so that there is no such transform.
    """
    z, w = _complex(source), _complex(target)
    z_mean, w_mean = z.mean(), w.mean()
    spread = np.vdot(z - z_mean, z - z_mean).real
    a = np.vdot(z - z_mean, w - w_mean) / spread if spread > 1e-9 else 0
    if not 1e-9 < abs(a) < math.inf:
        raise ValueError("the points are degenerate: no similarity transform maps them")
    b = w_mean - a * z_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def warp(image: Image.Image, matrix: Array, size: int) -> NDArray[np.uint8]:
    """Sample an RGB image through `matrix` (image to output) into (size, size, 3).

    Outside the photo its border pixels continue: a black wedge would tell a network the pose.
    """
    shrink = int(1 / math.sqrt(np.linalg.det(matrix[:, :2])))
    if shrink > 1:  # bicubic sampling looks at 4 x 4 pixels: what it would skip is averaged first
        image = image.reduce(shrink)
    inverse = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))[:2] / max(shrink, 1)
    border = _border(inverse, image.size, size)
    inverse[:, 2] += border
    if border:
        pad = ((border, border), (border, border), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), pad, mode="edge"))
    output = image.transform(
        (size, size), Image.Transform.AFFINE, tuple(inverse.ravel()), Image.Resampling.BICUBIC
    )
    return np.asarray(output)


def _border(inverse: Array, image_size: tuple[int, int], size: int) -> int:
    """Return how many pixels the output square reaches beyond the image, and the sampling kernel with it."""
    corners = np.array([(0, 0, 1), (size, 0, 1), (0, size, 1), (size, size, 1)]) @ inverse.T
    beyond = float(max(-corners.min(), (corners - image_size).max())) + 2
    # A wild transform must not cost memory; past this distance nothing of the photo is in view anyway.
    return min(math.ceil(max(beyond, 0)), 2 * max(image_size))


def residual(landmarks: Array, matrix: Array, size: int) -> float:
    """Return the RMS distance in output pixels between the moved (5, 2) landmarks and the template."""
    moved = landmarks @ matrix[:, :2].T + matrix[:, 2]
    return float(np.sqrt(((moved - template(size)) ** 2).sum(axis=1).mean()))


def _complex(points: Array) -> NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1].astype(np.float64)
