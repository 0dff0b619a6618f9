"""Strategies that look at the face regions where each image's crop has put them.

Shapes: B batch, N patches, M hidden, R face regions; label 0 is the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facemae.masking.mask import Context
from facemae.masking.regions import REGIONS, quantiles


def region_proportional(context: Context) -> Tensor:
    """Hide the same share of every region and of the rest: FRP of Wang et al., FSFM, CVPR 2025."""
    return quantiles(context.regions, len(REGIONS) + 1, context.noise)


def region(context: Context) -> Tensor:
    """Cover one face region whole, the others in proportion.

    After CRFR-P (Wang et al., FSFM, CVPR 2025), with boxes on the aligned template in place of a face parser
    and a region drawn per image, from those that its crop shows. A region larger than M is hidden as far as
    M goes.
    """
    labels = torch.arange(1, len(REGIONS) + 1, device=context.noise.device)
    shown = (context.regions[:, :, None] == labels).any(dim=1)  # (B, R)
    lots = torch.where(shown, context.noise.uniform(len(REGIONS)), -1.0)
    covered = 1 + lots.argmax(dim=1, keepdim=True)  # where no region is shown, no patch has this label
    return 2.0 * (context.regions == covered) + region_proportional(context)


def parts_first(context: Context) -> Tensor:
    """Hide the face regions, one after another in random order, before the rest.

    After fasking (Cai et al., MARLIN, CVPR 2023), which spends what may be seen on the background before the
    parts of the face; here boxes on the aligned template are the parts.
    """
    return _part_order(context) + context.noise.uniform(context.patches)


def parts_last(context: Context) -> Tensor:
    """Hide the rest before the face regions, one after another in random order."""
    return context.noise.uniform(context.patches) - _part_order(context)


def _part_order(context: Context) -> Tensor:
    """Return 0 for the rest and a random place from 1 to R for each region, the same all over it, (B, N)."""
    order = 1 + context.noise.uniform(len(REGIONS)).argsort(dim=1, stable=True)  # (B, R)
    return torch.cat([torch.zeros_like(order[:, :1]), order], dim=1).gather(1, context.regions)
