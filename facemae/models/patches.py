"""Images to patches and back, and where a patch is.

Shapes: B batch, H side of an image, N patches, P = patch * patch * 3 pixel values per patch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_input(faces: Tensor) -> Tensor:
    """Return faces (B, H, H, 3) uint8 as network input (B, 3, H, H) in [-1, 1]."""
    return faces.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_faces(images: Tensor) -> Tensor:
    """Return network input (B, 3, H, H) as faces (B, H, H, 3) uint8; the inverse of `to_input`."""
    return ((images + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, 3, H, H) into patches (B, N, P), row by row."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    grid = images.reshape(batch, channels, rows, patch, columns, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Join patches (B, N, P) of a square image into images (B, 3, H, H)."""
    batch, count, _ = patches.shape
    side = round(count**0.5)
    grid = patches.reshape(batch, side, side, patch, patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, side * patch, side * patch)


def position_embedding(width: int, side: int) -> Tensor:
    """Return the fixed sine-cosine embedding of a side x side grid, (N, width).

    The first half of the features encodes the row, the second the column, each by sines and cosines
    of position / 10000^(2i / (width/2)): Vaswani et al. 2017, in the 2-D form of MoCo v3 and MAE.
    """
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency  # (side, width / 4)
    one_axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, width / 2)
    rows = one_axis[:, None, :].expand(side, side, -1)
    columns = one_axis[None, :, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width).float()
