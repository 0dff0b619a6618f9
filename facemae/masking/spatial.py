"""Strategies that choose patches by place alone: random, block, inverse block and grid.

Each returns scores; `draw_mask` (strategies.py) hides the patches that score highest.

What the parameters mean stands in config/masks.py. Shapes: B batch, N patches (side x side), M hidden,
V = N - M visible.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facemae.masking.mask import Context


def random(context: Context) -> Tensor:
    """Score patches, or pixels, by uniform noise: He et al., Masked Autoencoders, CVPR 2022, section 3."""
    return context.noise.uniform(context.patches)


def block(context: Context, *, min_area: float, min_aspect: float, rounds: int) -> Tensor:
    """Score random rectangles above the rest: Bao et al., BEiT, ICLR 2022, algorithm 1.

    A rectangle is taken when it covers something new and no more than is left to hide. BEiT may stop short
    of M; here noise tops up to exactly M.
    """
    least = min(min_area * context.patches, context.hidden)
    covered = torch.zeros(
        context.batch, context.side, context.side, dtype=torch.bool, device=context.noise.device
    )
    for draw in context.noise.uniform(rounds, 4).unbind(1):
        left_to_hide = context.hidden - covered.sum(dim=(1, 2))
        area = least + (left_to_hide - least).clamp(min=0) * draw[:, 0]
        aspect = _aspects(draw[:, 1], min_aspect)
        height = (area * aspect).sqrt().round().clamp(1, context.side)
        width = (area / aspect).sqrt().round().clamp(1, context.side)
        rectangle = _rectangles(height, width, draw[:, 2:], context.side)
        new = (rectangle & ~covered).sum(dim=(1, 2))
        taken = (new > 0) & (new <= left_to_hide)
        covered |= rectangle & taken[:, None, None]
    return covered.flatten(1) + context.noise.uniform(context.patches)


def inverse_block(context: Context, *, min_aspect: float) -> Tensor:
    """Leave one rectangle at a random place visible: the inverse block of Baevski et al., data2vec 2.0, 2023.

    It is the smallest of its height that holds V patches; noise tops up to exactly M within it.
    """
    draw = context.noise.uniform(3)
    visible = context.patches - context.hidden
    height = (visible * _aspects(draw[:, 0], min_aspect)).sqrt().round()
    height = height.clamp(math.ceil(visible / context.side), context.side)
    width = torch.div(visible + height - 1, height, rounding_mode="floor")
    rectangle = _rectangles(height, width, draw[:, 1:], context.side)
    return ~rectangle.flatten(1) + context.noise.uniform(context.patches)


def grid(context: Context) -> Tensor:
    """Score patches by a random rank within their 2 x 2 cell, so that hiding spreads evenly.

    At a ratio of 0.75 and an even side every cell keeps exactly one patch: Li et al., Uniform Masking, 2022.
    """
    batch, side, cells = context.batch, context.side, math.ceil(context.side / 2)
    rank = context.noise.uniform(cells, cells, 4).argsort(dim=-1, stable=True).argsort(dim=-1)
    # (B, cells, cells, 2 x 2) -> (B, rows, columns)
    rank = rank.view(batch, cells, cells, 2, 2).transpose(2, 3).reshape(batch, 2 * cells, 2 * cells)
    return rank[:, :side, :side].flatten(1) + context.noise.uniform(context.patches)


def _aspects(noise: Tensor, least: float) -> Tensor:
    """Return heights per width, (B,), evenly spread on a logarithmic scale from `least` to its inverse."""
    return torch.exp(math.log(least) * (1 - 2 * noise))


def _rectangles(height: Tensor, width: Tensor, noise: Tensor, side: int) -> Tensor:
    """Return a rectangle of height (B,) and width (B,) where noise (B, 2) puts it, (B, side, side) bool."""
    size = torch.stack([height, width], dim=1)
    start = (noise * (side - size + 1)).floor()[..., None]
    place = torch.arange(side, device=noise.device)
    spans = (place >= start) & (place < start + size[..., None])  # (B, rows and columns, side)
    return spans[:, 0, :, None] & spans[:, 1, None, :]
