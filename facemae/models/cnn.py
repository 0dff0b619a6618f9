"""Convolutional networks as encoder: timm's ConvNeXt-V2 and ResNet, with holes where patches are hidden.

A hidden patch is zero in the image, and its places are set to zero again wherever a layer has filled them
from their neighbours: every convolution then sees what a sparse (submanifold) one would, and no filled-in
feature enters a visible one. Tian et al., SparK, ICLR 2023; Woo et al., ConvNeXt V2, CVPR 2023. Nothing is
saved: the masked network computes as much as the dense one.

What the holes would distort, and what is done:

- Batch normalisation counts visible places only (`VisibleNorm`). The others are zero or half filled in, as
  no place is in fine-tuning, which takes the running statistics over.
- ConvNeXt-V2's response normalisation compares the channels' norms over the image. Zeros add nothing to a
  norm, so its input gets holes: a hidden place would otherwise count with its layers' biases.
- Layer normalisation and 1 x 1 convolutions treat each place alone.

Shapes: B batch, N patches, V visible patches, D width; S side of a map.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import timm
import torch
from timm.layers.grn import GlobalResponseNorm
from timm.models.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtStage
from timm.models.resnet import ResNet
from torch import Tensor, nn

from facemae import config
from facemae.config.compatibility import STRIDES
from facemae.masking.mask import PatchMask
from facemae.models.base import Encoder, Encoding, gather_tokens, pixel_only

Network: TypeAlias = ConvNeXt | ResNet


class Holes:
    """Where the layers of one network leave holes: none, or those of the mask of the current batch."""

    def __init__(self) -> None:
        self.mask: PatchMask | None = None

    def cut(self, features: Tensor, *, channels_last: bool = False) -> Tensor:
        """Return features (B, C, S, S), or (B, S, S, C), with zero at the hidden places."""
        if self.mask is None:
            return features
        visible = visible_places(self.mask, features.shape[2], features.dtype)
        return features * (visible.movedim(1, 3) if channels_last else visible)

    def after(self, _layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Cut the output of a layer: a forward hook."""
        return self.cut(output)

    def before(self, layer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        """Cut the input of a response normalisation, whose place in ConvNeXt has two layouts: a pre-hook."""
        return self.cut(inputs[0], channels_last=bool(layer.channel_dim == -1))


class VisibleNorm(nn.BatchNorm2d):
    """Batch normalisation over the visible places; hidden ones stay zero. Without holes PyTorch's own."""

    holes: Holes

    def forward(self, features: Tensor) -> Tensor:
        """Return features (B, C, S, S), normalised per channel."""
        mask = self.holes.mask
        if mask is None or not self.training:
            return self.holes.cut(super().forward(features))
        visible = visible_places(mask, features.shape[2], torch.float32)
        return self._normalise(features.float(), visible).to(features.dtype)

    def _normalise(self, features: Tensor, visible: Tensor) -> Tensor:
        count = visible.sum()
        mean = (features * visible).sum(dim=(0, 2, 3)) / count
        centred = (features - mean[:, None, None]) * visible
        variance = centred.square().sum(dim=(0, 2, 3)) / count
        unbiased = variance.detach() * count / (count - 1).clamp(min=1)
        momentum = cast(float, self.momentum)  # the running statistics move as PyTorch's own do
        cast(Tensor, self.running_mean).lerp_(mean.detach(), momentum)
        cast(Tensor, self.running_var).lerp_(unbiased, momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]) * visible


class Cnn(Encoder):
    """timm's network, up to the stage whose stride is the patch size; the rest and the classifier are gone.

    `map_widths` are the channels of the maps that it returns, fine to coarse.
    """

    trunk: Network

    def __init__(self, model: config.Model, image_size: int, drop_path: float = 0.0) -> None:
        """Build an untrained one; `drop_path` is the rate of the last block of timm's whole network."""
        super().__init__()
        stages = STRIDES.index(model.patch_size) + 1
        self.trunk, self.stages = _build(model.network, stages, drop_path)
        known = self.trunk.feature_info[-len(STRIDES) :]  # a ResNet's begin with its stem
        self.map_widths = tuple(cast(int, stage["num_chs"]) for stage in known[:stages])
        self.width, self.prefix_tokens = self.map_widths[-1], 0
        self.patch_size, self.side = model.patch_size, image_size // model.patch_size
        self.holes = Holes()
        _leave_holes(self.trunk, self.holes)

    def forward(self, images: Tensor, mask: PatchMask | None = None) -> Encoding:
        """Encode images (B, 3, H, H); without a mask the maps are timm's own `features_only`."""
        self.holes.mask = mask
        try:
            images = images if mask is None else pixel_only(images, mask, self.side)
            found = self.trunk.forward_intermediates(
                images, indices=self.stages, stop_early=True, intermediates_only=True
            )
        finally:
            self.holes.mask = None  # the trunk alone is dense
        maps = tuple(cast(list[Tensor], found))
        tokens = maps[-1].flatten(2).transpose(1, 2)  # (B, N, D)
        if mask is not None:
            tokens = gather_tokens(tokens, mask.visible_ids)
        return Encoding(tokens[:, :0], tokens, maps)

    def pool(self, encoding: Encoding) -> Tensor:
        """Return the mean of the visible places, (B, D)."""
        return encoding.tokens.mean(dim=1)


def hidden_places(mask: PatchMask, side: int) -> Tensor:
    """Return which places of a side x side map lie in hidden patches, (B, 1, side, side) bool."""
    patches = round(mask.hidden.shape[1] ** 0.5)
    hidden = mask.hidden.view(-1, 1, patches, patches)
    return hidden.repeat_interleave(side // patches, 2).repeat_interleave(side // patches, 3)


def visible_places(mask: PatchMask, side: int, dtype: torch.dtype) -> Tensor:
    """Return 1 at the visible places of a side x side map and 0 at the hidden ones, (B, 1, side, side)."""
    # To multiply by it takes less than half the time of filling in zeros (measured on a CPU, both passes).
    return hidden_places(mask, side).logical_not().to(dtype)


def _build(network: str, stages: int, drop_path: float) -> tuple[Network, list[int]]:
    """Return timm's network cut after so many stages, and the indices of their maps."""
    resnet = network.startswith("resnet")
    norm: dict[str, Any] = {"norm_layer": VisibleNorm} if resnet else {}
    trunk = cast(Network, timm.create_model(network, num_classes=0, drop_path_rate=drop_path, **norm))
    first = 1 if resnet else 0  # map 0 of a ResNet is its stem's, of stride 2
    indices = list(range(first, first + stages))
    trunk.prune_intermediate_layers(indices, prune_norm=True)
    return trunk, indices


def _leave_holes(trunk: Network, holes: Holes) -> None:
    """Have the layers that fill hidden places empty them again; `VisibleNorm` does so itself."""
    for layer in trunk.modules():
        if isinstance(layer, VisibleNorm):
            layer.holes = holes
        elif isinstance(layer, GlobalResponseNorm):
            layer.register_forward_pre_hook(holes.before)
        elif isinstance(layer, ConvNeXtStage):
            layer.downsample.register_forward_hook(holes.after)
        elif isinstance(layer, ConvNeXtBlock | nn.MaxPool2d):
            layer.register_forward_hook(holes.after)
