"""Masking strategies: a score per patch, then hide exactly the M highest.

Shapes: B batch, N patches (side x side), M hidden, V = N - M visible. Bool masks: True = hidden.

A strategy is a function `(batch, side, hidden, generator) -> scores (B, N)`: what scores highest is
hidden first, and uniform noise breaks ties. Since each image hides exactly M patches, the visible
tokens of a batch stack into one dense tensor, and strategies are compared at equal visible tokens.
Masks cover patches only: a class token is added after masking and cannot be hidden.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

ScoreFn = Callable[[int, int, int, Generator], Tensor]

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

BLOCK_MIN_SHARE = 16 / 196  # least area of a block, and its range of aspect ratios: BEiT
BLOCK_ASPECTS = (0.3, 1 / 0.3)
BLOCK_ROUNDS = 24  # blocks tried per image; what they leave uncovered is topped up at random


@dataclass(frozen=True)
class PatchMask:
    """Which patches of each image are hidden.

    Attributes:
        hidden: (B, N) bool, True = hidden; every row has the same count.
        visible_ids: (B, V) indices of the visible patches, ascending.
    """

    hidden: Tensor
    visible_ids: Tensor

    def to(self, device: torch.device | str) -> PatchMask:
        """Return the mask on `device`."""
        return PatchMask(self.hidden.to(device), self.visible_ids.to(device))

    def __getitem__(self, images: slice | Tensor) -> PatchMask:
        return PatchMask(self.hidden[images], self.visible_ids[images])


def make_mask(strategy: str, ratio: float, batch: int, side: int, generator: Generator) -> PatchMask:
    """Draw a mask for `batch` images of side x side patches.

    Args:
        strategy: A key of `STRATEGIES`.
        ratio: Share of the patches to hide.
        batch: Number of images.
        side: Patches along one side of an image.
        generator: The only source of randomness.
    """
    hidden = hidden_count(side * side, ratio)
    return hide_highest(STRATEGIES[strategy](batch, side, hidden, generator), hidden)


def hidden_count(patches: int, ratio: float) -> int:
    """Return M, the number of patches that `ratio` hides.

    Raises:
        ValueError: the ratio leaves none hidden or none visible.
    """
    hidden = round(ratio * patches)
    if not 1 <= hidden <= patches - 1:
        raise ValueError(f"hiding {ratio} of {patches} patches leaves none hidden or none visible")
    return hidden


def hide_highest(scores: Tensor, hidden: int) -> PatchMask:
    """Hide the `hidden` highest-scoring patches of every image; scores are (B, N)."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    is_hidden = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    is_hidden.scatter_(1, order[:, :hidden], True)
    return PatchMask(is_hidden, order[:, hidden:].sort(dim=1).values)


def random_scores(batch: int, side: int, hidden: int, generator: Generator) -> Tensor:
    """Score patches by uniform noise: He et al., Masked Autoencoders, CVPR 2022, section 3."""
    return _uniform(generator, batch, side * side)


def block_scores(batch: int, side: int, hidden: int, generator: Generator) -> Tensor:
    """Score random rectangles above the rest: Bao et al., BEiT, ICLR 2022, algorithm 1.

    A rectangle is taken when it covers something new and no more than is left to hide. BEiT may stop
    short of M; here the noise tops up to exactly M.
    """
    covered = torch.zeros(batch, side, side, dtype=torch.bool)
    for _ in range(BLOCK_ROUNDS):
        left_to_hide = hidden - covered.sum(dim=(1, 2))
        rectangle = _rectangles(left_to_hide, side, generator)
        new = (rectangle & ~covered).sum(dim=(1, 2))
        taken = (new > 0) & (new <= left_to_hide)
        covered |= rectangle & taken[:, None, None]
    return covered.flatten(1) + _uniform(generator, batch, side * side)


def grid_scores(batch: int, side: int, hidden: int, generator: Generator) -> Tensor:
    """Score patches by a random rank within their 2 x 2 cell, so that hiding spreads evenly.

    At a ratio of 0.75 and an even side every cell keeps exactly one patch: Li et al., Uniform
    Masking, 2022.
    """
    cells = math.ceil(side / 2)
    rank = _ranks(_uniform(generator, batch, cells, cells, 4))
    # (B, cells, cells, 2 x 2) -> (B, rows, columns)
    rank = rank.view(batch, cells, cells, 2, 2).transpose(2, 3).reshape(batch, 2 * cells, 2 * cells)
    return rank[:, :side, :side].flatten(1) + _uniform(generator, batch, side * side)


def region_scores(batch: int, side: int, hidden: int, generator: Generator) -> Tensor:
    """Cover one face region whole, the others in proportion.

    After CRFR-P (Wang et al., FSFM, CVPR 2025), with fixed regions on the aligned template in place
    of a face parser and a region drawn per image. A region larger than M is hidden as far as M goes.
    """
    labels = region_map(side)
    scores = torch.empty(batch, side * side)
    for label in range(len(REGIONS) + 1):
        own = labels == label
        ranks = _ranks(_uniform(generator, batch, int(own.sum())))
        scores[:, own] = (ranks + _uniform(generator, *ranks.shape)) / ranks.shape[1]
    present = torch.tensor([label for label in range(1, len(REGIONS) + 1) if (labels == label).any()])
    if len(present):  # fewer than 3 x 3 patches own no region: all are hidden in proportion
        scores += labels == present[torch.randint(len(present), (batch, 1), generator=generator)]
    return scores


STRATEGIES: dict[str, ScoreFn] = {
    "random": random_scores,
    "block": block_scores,
    "grid": grid_scores,
    "region": region_scores,
}


@functools.cache
def region_map(side: int) -> Tensor:
    """Return the region of each patch, (N,) int: 0 is none, k is the k-th of `REGIONS`.

    A patch belongs to the region that covers most of it, if that is at least `REGION_OVERLAP`.
    """
    edges = torch.linspace(0, TEMPLATE_SIZE, side + 1)
    share = torch.zeros(len(REGIONS) + 1, side, side)
    share[0] = REGION_OVERLAP
    for index, boxes in enumerate(REGIONS.values(), start=1):
        for left, top, right, bottom in boxes:
            rows, columns = _overlap(edges, top, bottom), _overlap(edges, left, right)
            share[index] += rows[:, None] * columns[None, :]
    return share.argmax(dim=0).flatten()


def _overlap(edges: Tensor, low: float, high: float) -> Tensor:
    """Return the share of each interval between `edges` that lies in [low, high]."""
    inside = edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)
    return inside.clamp(min=0) / (edges[1:] - edges[:-1])


def _rectangles(largest_area: Tensor, side: int, generator: Generator) -> Tensor:
    """Return a random rectangle per image, (B, side, side) bool, from BEiT's least area to `largest_area`."""
    batch = len(largest_area)
    smallest = BLOCK_MIN_SHARE * side * side
    area = smallest + (largest_area - smallest).clamp(min=0) * _uniform(generator, batch)
    low, high = (math.log(aspect) for aspect in BLOCK_ASPECTS)
    aspect = torch.exp(low + (high - low) * _uniform(generator, batch))
    height = (area * aspect).sqrt().round().clamp(1, side)
    width = (area / aspect).sqrt().round().clamp(1, side)
    top = (_uniform(generator, batch) * (side - height + 1)).floor()
    left = (_uniform(generator, batch) * (side - width + 1)).floor()
    return _span(top, height, side)[:, :, None] & _span(left, width, side)[:, None, :]


def _span(start: Tensor, length: Tensor, side: int) -> Tensor:
    """Return (B, side) bool, True from `start` for `length` places."""
    place = torch.arange(side)
    return (place >= start[:, None]) & (place < (start + length)[:, None])


def _ranks(noise: Tensor) -> Tensor:
    """Return a random permutation of 0..n-1 along the last axis, from noise."""
    return noise.argsort(dim=-1).argsort(dim=-1)


def _uniform(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator)
