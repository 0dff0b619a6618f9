"""The face regions: boxes on the alignment template, moved with every crop.

An aligned face has its landmarks in known places, so boxes stand in for a face parser. They mean nothing on
photos that are not aligned: the strategies that look at them are `masks.REGION_MASKS`.

Shapes: B batch, N patches (side x side), K boxes, G groups of patches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from facemae.compute.seeding import Noise
from facemae.masking.mask import ranks

TEMPLATE_SIZE = 112
# Boxes (left, top, right, bottom) in pixels of the 112 x 112 ArcFace template, drawn around its five
# landmarks (data/warp.py). Each region is symmetric, so a horizontal flip maps it to itself.
REGIONS: dict[str, list[tuple[float, float, float, float]]] = {
    "brows": [(22, 26, 52, 42), (60, 26, 90, 42)],
    "eyes": [(22, 42, 52, 60), (60, 42, 90, 60)],
    "nose": [(44, 48, 68, 82)],
    "mouth": [(34, 82, 78, 104)],
    "cheeks": [(14, 60, 44, 82), (68, 60, 98, 82)],
}
REGION_OVERLAP = 0.4  # share of a patch that a region must cover to own it
_DECIMALS = 5  # of a share: what rounding to float32 moved apart is equal again, so ties fall as they should


@dataclass(frozen=True)
class Crops:
    """One crop per image, mirrored or not.

    What lies at x (a share of the side, 0 to 1) in the original lands at (x - left) / (right - left), and at
    one minus that where it is mirrored. `boxes` (B, 4) are left, top, right, bottom as shares of the
    original's side; `flipped` is (B,) bool.
    """

    boxes: Tensor
    flipped: Tensor


def whole(batch: int, device: torch.device | str = "cpu") -> Crops:
    """Return the crops that change nothing."""
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(batch, -1)
    return Crops(boxes, torch.zeros(batch, dtype=torch.bool, device=device))


@functools.cache
def region_map(side: int) -> Tensor:
    """Return the region of each patch of a whole aligned face, (N,) int64 on the CPU (`region_maps`)."""
    return region_maps(side, whole(1))[0]


def region_maps(side: int, crops: Crops) -> Tensor:
    """Return the region of each patch of each crop, (B, N) int64 on its device.

    0 is none, k is the k-th of `REGIONS`. A patch belongs to the region that covers most of it, if that is at
    least `REGION_OVERLAP`.
    """
    low, high = crops.boxes.double().view(-1, 2, 2).unbind(1)  # (B, 2) each, x and y
    corners = _template_boxes(crops.boxes.device).view(1, -1, 2, 2)  # (1, K, low and high, x and y)
    x, y = ((corners - low[:, None, None]) / (high - low)[:, None, None]).unbind(-1)  # (B, K, 2) each
    x = torch.where(crops.flipped[:, None, None], 1 - x.flip(-1), x)
    rows, columns = _overlap(side, *y.unbind(-1)), _overlap(side, *x.unbind(-1))
    boxes = (rows[..., :, None] * columns[..., None, :]).flatten(2)  # (B, K, N), share of a patch in a box
    parts = boxes.split_with_sizes([len(each) for each in REGIONS.values()], dim=1)
    shares = torch.stack([torch.full_like(boxes[:, 0], REGION_OVERLAP), *(each.sum(1) for each in parts)], 1)
    return shares.round(decimals=_DECIMALS).argmax(dim=1)


def quantiles(labels: Tensor, groups: int, noise: Noise) -> Tensor:
    """Return each patch's place in a random order of its own group, evenly spread over 0 to 1, (B, N).

    The patches above any height are the same share of every group, up to rounding, which falls at random.
    `labels` (B, N) int64 are from 0 to `groups` - 1.
    """
    patches = labels.shape[1]
    counts = (labels[:, :, None] == torch.arange(groups, device=labels.device)).sum(dim=1)  # (B, G)
    before = patches - counts.cumsum(dim=1)  # patches of the groups that the ranks put first: the later ones
    within = ranks(labels, ties=noise.uniform(patches)) - before.gather(1, labels)
    return (within + noise.uniform(patches)) / counts.gather(1, labels)


@functools.cache
def _template_boxes(device: torch.device) -> Tensor:
    boxes = [box for region in REGIONS.values() for box in region]
    return torch.tensor(boxes, dtype=torch.float64, device=device) / TEMPLATE_SIZE


def _overlap(side: int, low: Tensor, high: Tensor) -> Tensor:
    """Return the share of each of `side` equal intervals of 0 to 1 that lies in [low, high], (B, K, side)."""
    edges = torch.arange(side + 1, dtype=low.dtype, device=low.device) / side
    inside = torch.minimum(edges[1:], high[..., None]) - torch.maximum(edges[:-1], low[..., None])
    return inside.clamp(min=0) * side
