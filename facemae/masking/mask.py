"""What a mask is, what a strategy is, and how scores become a mask.

Shapes: B batch, N patches (side x side), M hidden, V = N - M visible. Bool masks: True = hidden.

A strategy is a function `(context, **parameters) -> scores (B, N)`: what scores highest is hidden first.
Since each image hides exactly M patches, the visible tokens of a batch stack into one dense tensor, and
strategies are compared at equal visible tokens. Masks cover patches only: a class token is added after
masking and cannot be hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from facemae.compute.seeding import Noise


@dataclass(frozen=True)
class Context:
    """What a strategy may look at.

    Attributes:
        side: Patches along one side of an image.
        hidden: M, the number of patches to hide.
        noise: The only source of randomness.
        regions: (B, N) int64, the face region of each patch where the image's crop has put it
            (regions.py): 0 is none.
        progress: Share of the training that is done, 0 to 1.
        signal: (B, N) what the strategy's guide (mask_guides.py) says of each patch, such as the attention it
            gets; None for a strategy without a guide.
    """

    side: int
    hidden: int
    noise: Noise
    regions: Tensor
    progress: float = 0.0
    signal: Tensor | None = None

    @property
    def batch(self) -> int:
        """Return B."""
        return len(self.noise)

    @property
    def patches(self) -> int:
        """Return N."""
        return self.side * self.side


@dataclass(frozen=True)
class PatchMask:
    """Which patches of each image are hidden.

    Attributes:
        hidden: (B, N) bool, True = hidden; every row has the same count.
        visible_ids: (B, V) indices of the visible patches, ascending.
        hidden_ids: (B, M) indices of the hidden patches, ascending.
    """

    hidden: Tensor
    visible_ids: Tensor
    hidden_ids: Tensor

    def to(self, device: torch.device | str) -> PatchMask:
        """Return the mask on `device`."""
        return PatchMask(self.hidden.to(device), self.visible_ids.to(device), self.hidden_ids.to(device))

    def __getitem__(self, images: slice | Tensor) -> PatchMask:
        return PatchMask(self.hidden[images], self.visible_ids[images], self.hidden_ids[images])


def hidden_count(patches: int, ratio: float) -> int:
    """Return M, the number of patches that `ratio` hides; a ValueError where none is hidden or visible."""
    hidden = round(ratio * patches)
    if not 1 <= hidden <= patches - 1:
        raise ValueError(f"hiding {ratio} of {patches} patches leaves none hidden or none visible")
    return hidden


def ranks(scores: Tensor, ties: Tensor) -> Tensor:
    """Return the place of each patch (B, N), 0 for the highest score; `ties` (B, N) orders equal ones."""
    order = ties.argsort(dim=1, stable=True)
    order = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def hide_highest(scores: Tensor, hidden: int) -> PatchMask:
    """Hide the `hidden` highest-scoring patches of every image; scores are (B, N), ties fall to the first."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    is_hidden = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    is_hidden.scatter_(1, order[:, :hidden], True)
    ids = is_hidden.argsort(dim=1, stable=True)  # the visible ones first, both ascending
    visible = scores.shape[1] - hidden
    return PatchMask(is_hidden, visible_ids=ids[:, :visible], hidden_ids=ids[:, visible:])


def mirrored(mask: PatchMask) -> PatchMask:
    """Return the mask of the mirror images of square images."""
    side = math.isqrt(mask.hidden.shape[1])
    hidden = mask.hidden.view(-1, side, side).flip(-1).flatten(1)
    return hide_highest(hidden.float(), mask.hidden_ids.shape[1])
