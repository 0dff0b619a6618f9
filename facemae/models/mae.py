"""The masked autoencoder: an encoder that sees the visible patches, a light decoder that fills in the rest.

He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022.
Its loss is taken in training/objectives/mae.py, on the errors of models/reconstruction.py.
Shapes: B batch, N patches, V visible, M hidden, Q predicted, D encoder width, P pixel values per patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facemae.masking.mask import PatchMask
from facemae.models.base import Encoder, Encoding, pixel_only


@dataclass(frozen=True)
class Prediction:
    """What a masked autoencoder makes of a batch: pixels (B, Q, P) of the patches `ids` (B, Q).

    The pixels are raw or normalised per patch, as it was trained; `encoding` is what the encoder saw.
    """

    patches: Tensor
    ids: Tensor
    encoding: Encoding


class MaskedAutoencoder(nn.Module):
    """An encoder and a decoder; which patches are hidden and which predicted is the caller's choice."""

    def __init__(self, encoder: Encoder, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor, mask: PatchMask, ids: Tensor | None = None) -> Prediction:
        """Predict the patches `ids` of images (B, 3, H, H); by default all those of which a part is hidden.

        A mask over pixels instead of patches leaves every patch to be encoded, its hidden pixels zero.
        """
        if self.hides_pixels(mask):
            images, seen = pixel_only(images, mask, images.shape[-1]), None
            ids = self.all_ids(len(images), images.device) if ids is None else ids
        else:
            seen, ids = mask, mask.hidden_ids if ids is None else ids
        encoding = self.encoder(images, seen)
        return Prediction(self.decoder(encoding, seen, ids), ids, encoding)

    def hides_pixels(self, mask: PatchMask) -> bool:
        """Tell whether a mask is one of pixels rather than patches."""
        return mask.hidden.shape[1] != self.encoder.side**2

    def all_ids(self, batch: int, device: torch.device) -> Tensor:
        """Return the ids of all patches, (B, N)."""
        return torch.arange(self.encoder.side**2, device=device).expand(batch, -1)
