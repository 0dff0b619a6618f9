"""Random changes of a batch of faces, drawn from noise and applied on the batch's device.

What becomes of a sample depends on its own noise alone: it has the same bits whatever else is in the batch.
Shapes: B batch, H side. Faces are uint8 pixels, images are network input in [-1, 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from facemae import config
from facemae.compute.seeding import Noise
from facemae.masking.regions import Crops
from facemae.models.patches import to_input

LARGEST_RATIO = (
    4 / 3
)  # of a crop's sides, as in the peers' recipes; faces that are stretched more look unnatural
FRACTIONS = 256  # places between two pixels that are told apart; no more, see `apply_crops`
COARSE_FACTORS = (2, 3, 4)  # of the side: at 112 pixels what a face at some metres' distance has left
ERASED_AREA = (0.02, 0.33)  # least and greatest share, as torchvision's RandomErasing has it
ERASED_RATIO = 3.3


def random_crops(noise: Noise, least: float, flip: bool = True) -> Crops:
    """Draw boxes of `least` to 1 of the area, and mirror half of them.

    The area is uniform, the ratio of the sides uniform in logarithm from 3/4 to 4/3 as far as a box of that
    area fits, and so is the box's place (Szegedy et al., Going Deeper with Convolutions, 2014, section 6).
    With `least` 1 the box is the whole face.
    """
    size, shape, x, y, side = noise.uniform(5).double().unbind(dim=1)  # double: see `_random_similarity`
    width, height = _sides(least + (1.0 - least) * size, LARGEST_RATIO, shape)
    left, top = x * (1.0 - width), y * (1.0 - height)
    boxes = torch.stack([left, top, left + width, top + height], dim=1).float().clamp(0, 1)
    return Crops(boxes, (side < 0.5) & flip)


def apply_crops(faces: Tensor, crops: Crops) -> Tensor:
    """Return the crops of faces (B, H, H, 3) uint8, resized to (B, 3, H, H) in [-1, 1].

    A crop is never larger than the face, so resizing it is bilinear interpolation between two pixels on each
    axis. Places are rounded to 1/256 of a pixel: then every product and sum is a whole number of 1/65536
    below 2^24, which float32 holds exactly, so that no order of summation and no kernel can change a bit.
    """
    side = faces.shape[1]
    left, top, right, bottom = crops.boxes.unbind(dim=1)
    rows = _taps(top, bottom, side, torch.zeros_like(crops.flipped))
    columns = _taps(left, right, side, crops.flipped)
    images = torch.empty((len(faces), 3, side, side), device=faces.device)
    at_once = 16 if faces.device.type == "cpu" else 1024  # what the processor's cache holds: twice as fast
    for start in range(0, len(faces), at_once):
        part = slice(start, start + at_once)
        stretched = _blend_rows(faces[part], rows, part)
        # Rows are whole stretches of memory, columns are not: so columns are made rows.
        turned = _blend_rows(stretched.transpose(1, 2), columns, part)
        images[part] = to_input(turned.transpose(1, 2))
    return images


class _Taps(NamedTuple):
    """Which two pixels of an axis are blended at each new place, (B, H) each."""

    first: Tensor
    second: Tensor
    weight: Tensor
    """Of the second, a multiple of 1/256."""


def _taps(low: Tensor, high: Tensor, side: int, mirrored: Tensor) -> _Taps:
    centres = (torch.arange(side, device=low.device, dtype=torch.float64) + 0.5) / side
    centres = torch.where(mirrored[:, None], centres.flip(0), centres)  # (B, H) shares of the crop
    low, high = low.double()[:, None], high.double()[:, None]
    places = (low + centres * (high - low)).mul(side).sub(0.5)
    # The crop's border continues outside it; a box may begin and end between pixels.
    places = torch.clamp(places, low * side, torch.maximum(high * side - 1, low * side))
    steps = (places * FRACTIONS).round().long().clamp(0, (side - 1) * FRACTIONS)
    first = steps // FRACTIONS
    return _Taps(first, (first + 1).clamp(max=side - 1), (steps % FRACTIONS).float() / FRACTIONS)


def _blend_rows(pixels: Tensor, taps: _Taps, part: slice) -> Tensor:
    """Return each image (b, H, W, 3) of the part with its rows blended, float."""
    images, side = pixels.shape[:2]
    rows = pixels.reshape(images * side, -1)
    starts = torch.arange(0, images * side, side, device=pixels.device)[:, None]
    first = rows.index_select(0, (starts + taps.first[part]).flatten()).float()
    second = rows.index_select(0, (starts + taps.second[part]).flatten()).float()
    return first.lerp_(second, taps.weight[part].reshape(-1, 1)).view(pixels.shape)


def random_flip(images: Tensor, noise: Noise) -> Tensor:
    """Mirror each image of a batch (B, 3, H, H) with probability one half."""
    flipped = noise.uniform() < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def random_view(images: Tensor, finetune: config.Finetune, noise: Noise) -> Tensor:
    """Mirror, move, scale, rotate and light each image (B, 3, H, H) at random, each image its own way.

    Of some images the resolution is lowered, and of some a rectangle is erased.
    """
    images = random_flip(images, noise)
    images = _random_similarity(images, finetune, noise)
    images = _random_light(images, finetune.brightness, noise)
    if finetune.low_resolution:
        images = low_resolution(images, finetune.low_resolution, noise)
    if finetune.erasing:
        images = erase(images, finetune.erasing, noise)
    return images


def low_resolution(images: Tensor, share: float, noise: Noise) -> Tensor:
    """Shrink a share of the images (B, 3, H, H) to a half, a third or a quarter of their side, and back.

    By the mean over areas and bilinearly; every factor is computed for the whole batch, so that no kernel's
    result depends on which images are chosen.
    """
    chosen, factor = noise.uniform() < share, noise.integers(len(COARSE_FACTORS))
    side = images.shape[-1]
    result = images
    for number, times in enumerate(COARSE_FACTORS):
        small = F.interpolate(images, (max(1, round(side / times)),) * 2, mode="area")
        coarse = F.interpolate(small, (side, side), mode="bilinear", align_corners=False)
        result = torch.where((chosen & (factor == number))[:, None, None, None], coarse, result)
    return result


def erase(images: Tensor, share: float, noise: Noise) -> Tensor:
    """Fill a rectangle of a share of the images (B, 3, H, H) with the image's mean colour.

    It takes 0.02 to 0.33 of the area, with a ratio of height to width from 0.3 to 3.3, uniform in logarithm,
    as far as it fits: Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
    """
    lot, size, shape, x, y = noise.uniform(5).double().unbind(dim=1)
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * size
    height, width = _sides(area, ERASED_RATIO, shape)
    rows = _span(y * (1.0 - height), height, images.shape[-1])
    columns = _span(x * (1.0 - width), width, images.shape[-1])
    hole = rows[:, :, None] & columns[:, None, :] & (lot < share)[:, None, None]  # (B, H, H)
    mean = images.mean(dim=(2, 3), keepdim=True, dtype=torch.float64).to(images.dtype)
    return torch.where(hole[:, None], mean, images)


def _sides(area: Tensor, largest: float, lot: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sides of boxes (B,) of an area; their ratio, uniform in logarithm, is at most `largest`."""
    ratio = (math.log(largest) * (2.0 * lot - 1.0)).exp()
    ratio = torch.clamp(ratio, area, 1.0 / area)
    return (area * ratio).sqrt(), (area / ratio).sqrt()


def _span(start: Tensor, length: Tensor, side: int) -> Tensor:
    """Return which pixel centres lie in a stretch (B,) of an axis, given in shares, (B, side) bool."""
    centres = (torch.arange(side, device=start.device, dtype=torch.float64) + 0.5) / side
    return (centres >= start[:, None]) & (centres < (start + length)[:, None])


def self_supervised_view(faces: Tensor, views: config.Views, noise: Noise) -> Tensor:
    """Return a view (B, 3, H, H) in [-1, 1] of each face (B, H, H, 3) uint8: cropped, mirrored, lit, or grey.

    The changes of Chen et al., A Simple Framework for Contrastive Learning, ICML 2020, appendix A, without
    changes of hue and without blur: faces are small, and their colour says little.
    """
    images = apply_crops(faces, random_crops(noise, views.crop_min))
    return random_colour(images, views.brightness, views.grey, noise)


def random_colour(images: Tensor, brightness: float, grey: float, noise: Noise) -> Tensor:
    """Light each image (B, 3, H, H) at random, and take the colour from a share of them."""
    images = _random_light(images, brightness, noise)
    red, green, blue = images.unbind(dim=1)
    luma = (red * 0.299 + green * 0.587 + blue * 0.114)[:, None].expand_as(images)  # of ITU-R BT.601
    return torch.where((noise.uniform() < grey)[:, None, None, None], luma, images)


def _random_similarity(images: Tensor, finetune: config.Finetune, noise: Noise) -> Tensor:
    # In double precision: how a kernel rounds may depend on where in a batch a number stands, and of double's
    # rounding nothing is left in the float32 that it ends as.
    draw = _signed(noise, 4).double()
    angle = math.radians(finetune.rotation) * draw[:, 0]
    scale = 1.0 + finetune.scale_jitter * draw[:, 1]
    across, down = (2.0 * finetune.shift * draw[:, 2:]).float()[:, :, None, None].unbind(dim=1)
    cosine, sine = ((scale * turn).float()[:, None, None] for turn in (angle.cos(), angle.sin()))
    side = images.shape[-1]
    centres = (torch.arange(side, device=images.device) + 0.5) * (2.0 / side) - 1.0  # from -1 to 1
    x, y = centres[None, None, :], centres[None, :, None]
    grid = torch.stack([cosine * x - sine * y + across, sine * x + cosine * y + down], dim=3)
    moved: Tensor = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved


def _random_light(images: Tensor, amount: float, noise: Noise) -> Tensor:
    brightness, contrast = (amount * _signed(noise, 2))[:, :, None, None, None].unbind(dim=1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).float()
    lit: Tensor = ((images - mean) * (1.0 + contrast) + mean + brightness).clamp(-1, 1)
    return lit


def _signed(noise: Noise, *shape: int) -> Tensor:
    return noise.uniform(*shape) * 2.0 - 1.0
