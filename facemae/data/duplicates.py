"""Near-duplicates: the same picture again, after scaling, compression or another crop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HASH_BITS = 256


def perceptual_hash(face: NDArray[np.uint8]) -> bytes:
    """Return 256 bits that hardly change when an aligned (H, H, 3) face was scaled or compressed before.

    The signs, against their median, of the 16 x 16 lowest frequencies of a cosine transform.
    """
    import imagehash

    bits = imagehash.phash(Image.fromarray(face), hash_size=16).hash
    return np.packbits(bits).tobytes()
