"""Random changes of a batch of faces, drawn from a generator and applied on the batch's device.

Shapes: B batch, H side. Images are network input in [-1, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from facemae import config


def random_flip(images: Tensor, generator: Generator, axis: int = -1) -> Tensor:
    """Mirror each image of a batch (B, ...) along `axis`, its width, with probability one half."""
    flipped = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(axis), images)


def random_view(images: Tensor, finetune: config.Finetune, generator: Generator) -> Tensor:
    """Mirror, move, scale, rotate and light each image (B, 3, H, H) at random, each image its own way."""
    images = random_flip(images, generator)
    images = _random_similarity(images, finetune, generator)
    return _random_light(images, finetune.brightness, generator)


def _random_similarity(images: Tensor, finetune: config.Finetune, generator: Generator) -> Tensor:
    draw = _signed(generator, 4, len(images)).to(images.device)
    angle = math.radians(finetune.rotation) * draw[0]
    scale = 1.0 + finetune.scale_jitter * draw[1]
    shift = 2.0 * finetune.shift * draw[2:4]  # the grid runs from -1 to 1
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack(
        [torch.stack([cosine, -sine, shift[0]], dim=1), torch.stack([sine, cosine, shift[1]], dim=1)], dim=1
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved: Tensor = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved


def _random_light(images: Tensor, amount: float, generator: Generator) -> Tensor:
    brightness, contrast = (amount * _signed(generator, 2, len(images)).to(images.device)).view(
        2, -1, 1, 1, 1
    )
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    lit: Tensor = ((images - mean) * (1.0 + contrast) + mean + brightness).clamp(-1, 1)
    return lit


def _signed(generator: Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator) * 2.0 - 1.0
