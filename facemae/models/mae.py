"""The masked autoencoder: an encoder that sees the visible patches, a light decoder that fills in the rest.

He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022.
Shapes: B batch, N patches, V visible, D encoder width, E decoder width, P pixel values per patch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from facemae import config
from facemae.masking import PatchMask
from facemae.models.encoder import build_encoder, encode
from facemae.models.patches import patchify, position_embedding, unpatchify

EPSILON = 1e-6  # keeps the normalisation of a patch of one colour finite


class Decoder(nn.Module):
    """A Transformer over all positions, visible tokens and mask tokens, that predicts pixels."""

    position: Tensor

    def __init__(self, model: config.Model, pretrain: config.Pretrain, image_size: int) -> None:
        super().__init__()
        width = pretrain.decoder_width
        self.embed = nn.Linear(model.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        position = position_embedding(width, image_size // model.patch_size)
        self.register_buffer("position", position, persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, pretrain.decoder_heads, qkv_bias=True) for _ in range(pretrain.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, model.patch_size**2 * 3)

    def forward(self, tokens: Tensor, mask: PatchMask) -> Tensor:
        """Return the prediction for every patch, (B, N, P), from visible tokens (B, V, D)."""
        visible = self.embed(tokens)  # (B, V, E)
        batch, patches = mask.hidden.shape
        ids = mask.visible_ids[:, :, None].expand_as(visible)
        full = self.mask_token.to(visible.dtype).repeat(batch, patches, 1).scatter(1, ids, visible)
        full = full + self.position
        for block in self.blocks:
            full = block(full)
        prediction: Tensor = self.head(self.norm(full))
        return prediction


class MaskedAutoencoder(nn.Module):
    """An encoder and a decoder; which patches are hidden is the caller's choice."""

    def __init__(self, encoder: VisionTransformer, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor, mask: PatchMask) -> Tensor:
        """Return predicted patches (B, N, P) for images (B, 3, H, H)."""
        tokens = encode(self.encoder, images, mask.visible_ids)
        prediction: Tensor = self.decoder(tokens[:, self.encoder.num_prefix_tokens :], mask)
        return prediction


def build_mae(model: config.Model, pretrain: config.Pretrain, image_size: int) -> MaskedAutoencoder:
    """Return an untrained masked autoencoder."""
    return MaskedAutoencoder(build_encoder(model, image_size), Decoder(model, pretrain, image_size))


def normalise_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches (B, N, P) at zero mean and unit variance, their means and deviations (B, N, 1)."""
    mean = patches.mean(dim=-1, keepdim=True)
    centred = patches - mean
    # Tensor.var() computes the same, several times more slowly on a CPU.
    variance = centred.square().sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    deviation = (variance + EPSILON).sqrt()
    return centred / deviation, mean, deviation


def reconstruction_loss(prediction: Tensor, images: Tensor, mask: PatchMask, *, normalise: bool) -> Tensor:
    """Return the mean squared error on hidden patches only, a scalar in float32.

    With `normalise` the target of a patch is its pixels with zero mean and unit variance (MAE, section 4).
    """
    target = patchify(images, _patch_size(prediction))[mask.hidden]  # (B * M, P)
    if normalise:
        target = normalise_patches(target)[0]
    return F.mse_loss(prediction[mask.hidden].float(), target)


def reconstruct(prediction: Tensor, images: Tensor, mask: PatchMask, *, normalised: bool) -> Tensor:
    """Return images (B, 3, H, H) with the hidden patches replaced by the prediction, to look at.

    A prediction of normalised patches has no brightness or contrast of its own; it is given the true
    patch's mean and deviation, without which it would look like noise. That flatters the picture, so it
    is never used for a score.
    """
    patch = _patch_size(prediction)
    target = patchify(images, patch)
    prediction = prediction.float()
    if normalised:
        _, mean, deviation = normalise_patches(target)
        prediction = prediction * deviation + mean
    pasted = torch.where(mask.hidden[:, :, None], prediction, target)
    return unpatchify(pasted, patch).clamp(-1, 1)


def _patch_size(patches: Tensor) -> int:
    return math.isqrt(patches.shape[-1] // 3)
