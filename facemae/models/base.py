"""What an encoder is, and what it makes of images: what encoders and decoders agree on.

Shapes: B batch, N patches, V visible patches, D width, K prefix tokens (0, or 1 class token).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facemae.masking.mask import PatchMask


@dataclass(frozen=True)
class Encoding:
    """What an encoder makes of a batch of images.

    Attributes:
        prefix: (B, K, D) tokens that stand for the whole image.
        tokens: (B, V, D) tokens of the visible patches, in the order of `mask.visible_ids`; without a mask
            (B, N, D).
        maps: Of a CNN: the feature maps (B, C, S, S) of its stages, fine to coarse, zero where hidden.
    """

    prefix: Tensor
    tokens: Tensor
    maps: tuple[Tensor, ...] = ()


class Encoder(nn.Module):
    """The form of every encoder; build.py lists them.

    `trunk` is the network whose weights are saved, of a vit or cnn timm's own; `width` is D, `side` the
    patches along a side of the image, `patch_size` in pixels, `prefix_tokens` K.
    """

    trunk: nn.Module
    width: int
    side: int
    patch_size: int
    prefix_tokens: int

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        return self.side * self.patch_size

    def blank(self, count: int, device: torch.device) -> Tensor:
        """Return so many empty images (B, 3, H, H)."""
        return torch.zeros(count, 3, self.image_size, self.image_size, device=device)

    def forward(self, images: Tensor, mask: PatchMask | None = None) -> Encoding:
        """Encode images (B, 3, H, H) in [-1, 1]; what the mask hides has no influence on the result."""
        raise NotImplementedError

    def pool(self, encoding: Encoding) -> Tensor:
        """Return one vector per image, (B, D)."""
        raise NotImplementedError


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Return the tokens (B, V, D) at `ids` (B, V) of tokens (B, N, D), or of (1, N, D) that all share."""
    return tokens.expand(len(ids), -1, -1).gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


def in_place(tokens: Tensor, mask: PatchMask) -> Tensor:
    """Return visible patches' tokens (B, V, D) in their places among all, (B, N, D), zero where hidden."""
    ids = mask.visible_ids[:, :, None].expand(-1, -1, tokens.shape[2])
    return tokens.new_zeros(len(tokens), mask.hidden.shape[1], tokens.shape[2]).scatter(1, ids, tokens)


def pixel_only(images: Tensor, mask: PatchMask, side: int) -> Tensor:
    """Return images (B, 3, H, H) with zero, the middle grey, at hidden patches or pixels.

    The mask is over side x side cells that tile the image.
    """
    cell = images.shape[-1] // side
    hidden = mask.hidden.view(-1, 1, side, side)
    hidden = hidden.repeat_interleave(cell, 2).repeat_interleave(cell, 3) if cell > 1 else hidden
    return images.masked_fill(hidden, 0.0)
