"""A decoder of transposed convolutions, from the encoder's maps or tokens to the image.

It doubles the grid of patches until a patch has its pixels, as SparK does (Tian et al., ICLR 2023). The maps
of a convolutional encoder, its hidden places filled by a learned vector, enter at their resolutions, as in a
U-Net; the tokens of other encoders are one such map, of the grid itself. A patch size that is no power of two
is an odd number times one: 14 is doubled once, and each place then gives 7 x 7 pixels.

Shapes: B batch, N patches, V visible, Q predicted, K prefix tokens, D encoder width, E decoder width,
P pixel values per patch, C channels and S side of a map.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from facemae import config
from facemae.masking.mask import PatchMask
from facemae.models.base import Encoder, Encoding, gather_tokens, in_place
from facemae.models.cnn import Cnn, hidden_places
from facemae.models.patches import patchify, position_embedding

LEAST_CHANNELS = 16  # however often E is halved


class Deconv(nn.Module):
    """The U-Net's second half.

    `decoder_width`, E, is the number of channels at the grid of patches; it halves as the side doubles.
    `decoder_depth` is the number of residual blocks at each resolution below the image's.
    """

    position: Tensor

    def __init__(self, encoder: Encoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        width, self.patch_size = pretrain.decoder_width, encoder.patch_size
        doublings = (self.patch_size & -self.patch_size).bit_length() - 1
        self.odd = self.patch_size >> doublings
        channels = [max(width >> level, min(width, LEAST_CHANNELS)) for level in range(max(doublings, 1))]
        maps = encoder.map_widths if isinstance(encoder, Cnn) else (encoder.width,)
        self.fill = nn.ModuleList(map(Fill, reversed(maps), channels))
        self.whole = nn.Linear(encoder.width, width) if encoder.prefix_tokens else None
        self.refine = nn.ModuleList(
            nn.Sequential(*(Residual(each) for _ in range(pretrain.decoder_depth))) for each in channels
        )
        self.grow = nn.ModuleList(_grow(coarse, fine) for coarse, fine in pairwise(channels))
        pixels = 3 * self.odd**2
        self.pixels = _grow(channels[-1], pixels) if doublings else nn.Conv2d(channels[-1], pixels, 1)
        position = position_embedding(width, encoder.side).T.reshape(1, width, encoder.side, encoder.side)
        self.register_buffer("position", position, persistent=False)

    def forward(self, encoding: Encoding, mask: PatchMask | None, ids: Tensor) -> Tensor:
        """Return the pixels (B, Q, P) of the patches `ids`; `mask` None: every patch is visible."""
        tokens = encoding.tokens
        if not (maps := encoding.maps):
            tokens = tokens if mask is None else in_place(tokens, mask)  # (B, N, D), zero where hidden
            maps = (tokens.transpose(1, 2).reshape(len(tokens), -1, *self.position.shape[2:]),)
        features = self.position + self.fill[0](maps[-1], mask)
        if self.whole is not None:
            features = features + self.whole(encoding.prefix).sum(dim=1)[:, :, None, None]
        features = self.refine[0](features)
        for level, grow in enumerate(self.grow, start=1):
            features = grow(features)
            if level < len(maps):
                features = features + self.fill[level](maps[-1 - level], mask)
            features = self.refine[level](features)
        image = F.pixel_shuffle(self.pixels(features), self.odd)
        return gather_tokens(patchify(image, self.patch_size), ids)


class Fill(nn.Module):
    """A map in the decoder's width, a learned vector in its holes (SparK: densifying)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(width)
        self.hidden = nn.Parameter(torch.empty(1, width, 1, 1))
        nn.init.normal_(self.hidden, std=0.02)
        self.project = nn.Conv2d(width, channels, 1)

    def forward(self, features: Tensor, mask: PatchMask | None) -> Tensor:
        """Return (B, channels, S, S) for a map (B, width, S, S)."""
        features = self.norm(features)
        if mask is not None:
            hidden = hidden_places(mask, features.shape[2])
            features = torch.where(hidden, self.hidden.to(features.dtype), features)
        return cast(Tensor, self.project(features))


class Residual(nn.Module):
    """Two convolutions of 3 x 3 beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (B, C, S, S)."""
        return features + cast(Tensor, self.layers(features))


def _grow(coarse: int, fine: int) -> nn.ConvTranspose2d:
    """Return the layer that doubles the side of a map: (B, coarse, S, S) to (B, fine, 2 S, 2 S)."""
    return nn.ConvTranspose2d(coarse, fine, kernel_size=4, stride=2, padding=1)
