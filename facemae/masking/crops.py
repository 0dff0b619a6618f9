"""Where a random crop has taken what it shows: shared by the pixels and by the face regions.

Shapes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Crops:
    """One crop per image, mirrored or not.

    What lies at x (a share of the side, 0 to 1) in the original lands at (x - left) / (right - left), and at
    one minus that where it is mirrored.

    Attributes:
        boxes: (B, 4) left, top, right, bottom, as shares of the original's side.
        flipped: (B,) bool.
    """

    boxes: Tensor
    flipped: Tensor


def whole(batch: int, device: torch.device | str = "cpu") -> Crops:
    """Return the crops that change nothing."""
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(batch, -1)
    return Crops(boxes, torch.zeros(batch, dtype=torch.bool, device=device))
