"""What masks are like, in numbers: for the report.

Shapes: B batch, N patches (side x side).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from facemae.masking.mask import PatchMask
from facemae.masking.regions import REGIONS

REST = "rest"


def measures(mask: PatchMask, regions: Tensor | None) -> dict[str, Any]:
    """Measure a batch of masks; regions are (B, N) labels, or None where the data have none.

    Returns:
        visible_tokens: V, the patches of an image that the encoder sees.
        region_coverage: Share of a region's patches that is hidden, over the whole batch, by the names of
            `REGIONS` and `REST`; regions that no image shows are left out.
        entropy: Mean over the positions of the binary entropy, in bits, of how often each is hidden: 0 where
            all masks are the same, and the binary entropy of p where each is hidden with the share p.
        clumping: Share of the pairs of patches side by side or one above the other that are both hidden or
            both visible, 0 for a chessboard; p^2 + (1 - p)^2, nearly, for random masks that hide the share p.
    """
    coverage, hidden = {}, mask.hidden
    if regions is not None:
        own = {name: regions == label for label, name in enumerate([REST, *REGIONS])}
        coverage = {name: float(hidden[each].double().mean()) for name, each in own.items() if each.any()}
    share = hidden.double().mean(dim=0)
    bits = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)) / math.log(2)
    side = math.isqrt(hidden.shape[1])
    image = hidden.view(-1, side, side)
    pairs = [image[:, :, 1:] == image[:, :, :-1], image[:, 1:] == image[:, :-1]]
    return {
        "visible_tokens": mask.visible_ids.shape[1],
        "region_coverage": coverage,
        "entropy": float(bits.mean()),
        "clumping": float(torch.cat([each.flatten() for each in pairs]).double().mean()),
    }
