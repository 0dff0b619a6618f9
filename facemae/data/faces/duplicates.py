"""Near-duplicates: the same picture again, after scaling, compression, another crop or other light.

Measured by Hamming distance of 256 bits on all 13,233 aligned faces of LFW. Different people: five pairs
within 14 bits, which are one photo under two names, and then none of 87 million under 52 (faces of 48 px, of
CK+: none within 43). The same file at half to twice the size, in JPEG quality 30 to 95 or 20 % darker: at
most 20 bits with the same landmarks; with landmarks detected again 31 bits hold 97 to 100 % of such copies,
15 bits 73 to 98 % and 7 bits 30 to 95 %. Of copies 25 % brighter, grey or turned by 10 degrees 31 bits hold
90 to 96 %. A mirror image is not recognised.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae.core.progress import track

HASH_BITS = 256
HASH_BYTES = HASH_BITS // 8
# Grey levels of standard deviation. Among Yale's faces in the dark, whose cosines are the lamp's and not the
# person's, different people share a whole hash up to 14; above 15 none of them come within 41 bits.
MIN_CONTRAST = 15.0

_BANDS = 16  # of 16 bits: two hashes within 15 bits agree on one of them, within 31 bits but for one bit
_KEYS = 1 << 16
_CANDIDATES = 1 << 18  # pairs compared at once: 16 MB
_PRODUCTS = 1 << 24  # cosines held at once: 64 MB

Pairs = NDArray[np.int64]


def perceptual_hash(face: NDArray[np.uint8]) -> bytes:
    """Return 256 bits that hardly change when an aligned (H, H, 3) face was scaled or compressed before.

    The signs, against their median, of the 16 x 16 lowest frequencies of a cosine transform. A face without
    contrast, as in the dark, has no such bits: the result is empty.
    """
    import imagehash

    image = Image.fromarray(face).convert("L")
    if np.asarray(image).std() < MIN_CONTRAST:
        return b""
    return np.packbits(imagehash.phash(image, hash_size=16).hash).tobytes()


def near_pairs(
    first: NDArray[np.uint8], second: NDArray[np.uint8], bits: int
) -> tuple[Pairs, NDArray[np.int64]]:
    """Return all pairs of hashes that differ in at most `bits` bits, and the bits each differs in.

    Exact, without comparing everything: the 256 bits are 16 bands, and by the pigeonhole principle two hashes
    so near agree on a whole band (up to 15 bits) or on all but one bit of it (up to 31). Only hashes that do
    are compared. Hashes are (N, 32) and (M, 32), `bits` from 0 to 31, pairs (K, 2) rows of first and
    second in ascending order, distances (K,).
    """
    if len(first) > len(second):  # the fewer are looked up among the more
        pairs, distances = near_pairs(second, first, bits)
        pairs = pairs[:, ::-1]
    else:
        bands = track(range(_BANDS), _BANDS, "near-duplicates", "bands")
        found = [_within(first, second, band, bits) for band in bands]
        pairs, distances = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], distances[order]


def _within(
    first: NDArray[np.uint8], second: NDArray[np.uint8], band: int, bits: int
) -> tuple[Pairs, NDArray[np.int64]]:
    """Return the pairs within `bits` whose first band that (nearly) agrees is `band`."""
    slack = bits // _BANDS  # bits in which a band may differ: 0 or 1
    mine, theirs = (np.ascontiguousarray(each).view("<u2") for each in (first, second))
    order = np.argsort(theirs[:, band], kind="stable")
    starts = np.searchsorted(theirs[order, band], np.arange(_KEYS + 1))
    pairs, distances = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for flip in (0, *(1 << bit for bit in range(16)))[: 1 + 16 * slack]:
        keys = (mine[:, band] ^ flip).astype(np.int64)
        for rows, places in _candidates(starts[keys], starts[keys + 1]):
            others = order[places]
            apart = np.bitwise_count(mine[rows] ^ theirs[others])
            total = apart.sum(axis=1, dtype=np.int64)
            # A pair that agrees on several bands counts in the first of them only.
            new = np.flatnonzero(total <= bits)
            new = new[(apart[new] <= slack).argmax(axis=1) == band]
            pairs.append(np.column_stack([rows[new], others[new]]))
            distances.append(total[new])
    return np.concatenate(pairs), np.concatenate(distances)


def _candidates(begins: Pairs, ends: Pairs) -> Iterator[tuple[Pairs, Pairs]]:
    """Yield row k with every place from begins[k] up to ends[k], in blocks of at most `_CANDIDATES`."""
    counts = ends - begins
    stops = np.cumsum(counts)
    total = int(stops[-1]) if len(stops) else 0
    for low in range(0, total, _CANDIDATES):
        numbers = np.arange(low, min(low + _CANDIDATES, total))
        one, last = np.searchsorted(stops, numbers[[0, -1]], side="right")
        part = slice(one, last + 1)
        taken = np.minimum(stops[part], numbers[-1] + 1) - np.maximum(stops[part] - counts[part], low)
        rows = np.repeat(np.arange(one, last + 1), taken)
        yield rows, begins[rows] + numbers - (stops - counts)[rows]


def near_embeddings(
    first: NDArray[np.floating], second: NDArray[np.floating], cosine: float
) -> tuple[Pairs, NDArray[np.float32]]:
    """Return all pairs of embeddings (N, D) and (M, D) of at least this cosine similarity, and the latter.

    An embedding of length zero is like none. Pairs are (K, 2) rows of first and second in ascending order.
    """
    mine = _unit(first)
    pairs, similarities = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    step = max(_PRODUCTS // max(len(first), 1), 1)
    blocks = range(0, len(second), step)
    for start in track(blocks, len(blocks), "near-duplicates", "blocks of embeddings"):
        products = mine @ _unit(second[start : start + step]).T
        rows, others = np.nonzero(products >= cosine)
        pairs.append(np.column_stack([rows, others + start]))
        similarities.append(products[rows, others])
    both, values = np.concatenate(pairs), np.concatenate(similarities)
    order = np.lexsort((both[:, 1], both[:, 0]))
    return both[order], values[order]


def _unit(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = np.asarray(embeddings, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    unit: NDArray[np.float32] = rows / lengths
    return unit
