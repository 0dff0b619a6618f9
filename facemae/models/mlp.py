"""Fully connected layers from all pixels to one vector and back: the pixel autoencoder of the tutorials.

With hidden pixels set to zero it is a denoising autoencoder (Vincent et al., ICML 2008), not a masked
autoencoder in the sense of He et al., CVPR 2022: the encoder sees the holes and saves nothing by them, and
no token stands for a place. It is here as the baseline that masked autoencoders are compared with.

Shapes: B batch, N patches, Q predicted, D width of the vector, P pixel values per patch, H side of the image.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from facemae import config
from facemae.masking.mask import PatchMask
from facemae.models.base import Encoder, Encoding, gather_tokens, pixel_only


class Mlp(Encoder):
    """All pixels to one vector, the only token and a prefix one; there are no patch tokens.

    The model's width is that of the `depth` hidden layers and of the vector.
    """

    def __init__(self, model: config.Model, image_size: int, drop_path: float = 0.0) -> None:
        """Build an untrained one; `drop_path` means nothing here, as no layer can be skipped."""
        super().__init__()
        self.width, depth, _ = model.shape
        self.patch_size, self.side, self.prefix_tokens = model.patch_size, image_size // model.patch_size, 1
        self.trunk = fully_connected(3 * image_size**2, self.width, depth, self.width)

    def forward(self, images: Tensor, mask: PatchMask | None = None) -> Encoding:
        """Encode images (B, 3, H, H), hidden patches set to zero, as (B, 1, D) and no patch token."""
        if mask is not None:
            images = pixel_only(images, mask, self.side)
        vector: Tensor = self.trunk(images.flatten(1))
        return Encoding(prefix=vector[:, None], tokens=vector.new_empty(len(vector), 0, self.width))

    def pool(self, encoding: Encoding) -> Tensor:
        """Return the vector, (B, D)."""
        return encoding.prefix[:, 0]


class MlpImage(nn.Module):
    """The vector to all pixels at once, through `decoder_depth` hidden layers of `decoder_width`.

    The tutorials end in a sigmoid, as their pixels are in [0, 1]; the targets here are in [-1, 1] or
    normalised per patch, so the last layer is linear.
    """

    def __init__(self, encoder: Encoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        self.patches = encoder.side**2
        pixels = 3 * (encoder.side * encoder.patch_size) ** 2
        self.layers = fully_connected(encoder.width, pretrain.decoder_width, pretrain.decoder_depth, pixels)

    def forward(self, encoding: Encoding, mask: PatchMask | None, ids: Tensor) -> Tensor:
        """Return the pixels (B, Q, P) of the patches `ids`."""
        pixels = cast(Tensor, self.layers(encoding.prefix[:, 0]))
        return gather_tokens(pixels.view(len(pixels), self.patches, -1), ids)


def fully_connected(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """Return `depth` hidden layers and a linear one: (B, inputs) to (B, outputs).

    The hidden layers are normalised, as the tutorials' are not: the dozen of a large model hardly trains
    otherwise.
    """
    layers = nn.Sequential()
    for _ in range(depth):
        layers.extend((nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU()))
        inputs = width
    layers.append(nn.Linear(inputs, outputs))
    return layers
