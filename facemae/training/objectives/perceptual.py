"""A loss on what a frozen network sees in a picture, instead of on its pixels.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (LPIPS), CVPR 2018,
without its learnt weights of channels.

Shapes: B batch, H side of the image, L places of a feature map, C its channels.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Self, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemae import config
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.text import shown
from facemae.models.base import Encoding
from facemae.models.interop.read import read_foreign
from facemae.models.mae import MaskedAutoencoder
from facemae.training.optimizer import averaged

OWN = "ema"  # instead of a name of timm's
EPSILON = 1e-6  # bounds the gradient of a unit length where all channels are near 0, as after a ReLU
UNUSED = "num_batches_tracked"  # counted in training only, and missing in old files


class OwnFeatures(nn.Module):
    """The run's own encoder, averaged over the steps: the tokens of a vit, all maps of a cnn."""

    def __init__(self, mae: MaskedAutoencoder, decay: float) -> None:
        super().__init__()
        self.encoder = averaged(mae.encoder, decay)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of images (B, 3, H, H) in [-1, 1] at each depth, (B, L, C) each."""
        encoding = cast(Encoding, self.encoder(images))
        return [_by_place(each) for each in encoding.maps] or [encoding.tokens]


class TimmFeatures(nn.Module):
    """A frozen network of timm's, at the size and with the colours that it was trained with."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        trained = _facts(network)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(trained[name]).view(1, 3, 1, 1), persistent=False)
        self.side: int | None = trained["input_size"][-1] if trained.get("fixed_input_size") else None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of images (B, 3, H, H) in [-1, 1] at each depth, (B, L, C) each."""
        if self.side is not None and self.side != images.shape[-1]:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        colours = ((images + 1) / 2 - self.mean) / self.std
        forward = cast(Any, self.network).forward_intermediates
        return [_by_place(each) for each in forward(colours, output_fmt="NCHW", intermediates_only=True)]


class Perceptual(nn.Module):
    """The distance of two pictures in a network's features; the gradient flows into the first alone."""

    def __init__(self, features: OwnFeatures | TimmFeatures) -> None:
        super().__init__()
        self.features = features.eval()

    def forward(self, picture: Tensor, images: Tensor) -> Tensor:
        """Return the mean distance of pictures and images (B, 3, H, H), a scalar in float32 from 0 to 4."""
        with torch.no_grad():
            originals = self.features(images)
        pairs = zip(self.features(picture), originals, strict=True)
        return torch.stack([distance(seen, original) for seen, original in pairs]).mean()

    def update(self, mae: MaskedAutoencoder) -> None:
        """Let the run's own features follow the autoencoder after a step of the optimiser."""
        if isinstance(self.features, OwnFeatures):
            self.features.encoder.update_parameters(mae.encoder)

    def train(self, mode: bool = True) -> Self:
        """Stay as it is: nothing here is trained, and nothing may be normalised by a batch."""
        return super().train(False)


def build_perceptual(mae: MaskedAutoencoder, pretrain: config.Pretrain) -> Perceptual:
    """Return the loss that a run asks for; errors as `load_network`."""
    chosen = pretrain.perceptual
    if chosen.network == OWN:
        return Perceptual(OwnFeatures(mae, pretrain.teacher_decay))
    assert chosen.weights is not None, "config asks for them"
    return Perceptual(TimmFeatures(load_network(chosen.network, Path(chosen.weights))))


def distance(features: Tensor, others: Tensor) -> Tensor:
    """Return the mean over images and places of the squared distance of features (B, L, C) of unit length."""
    return (_unit_length(features) - _unit_length(others)).square().sum(dim=-1).mean()


def load_network(name: str, weights: Path) -> nn.Module:
    """Return a network of timm's without its classifier, with the weights in a file of safetensors or torch.

    Raises:
        UsageError: timm has no such network, or none that shows its features.
        IntegrityError: the file cannot be read without running code from it, or holds other names or
            shapes, or NaN.
    """
    network = _untrained(name)
    names = _facts(network).get("classifier") or ()
    classifiers = tuple(f"{each}." for each in ([names] if isinstance(names, str) else names))
    tensors = {
        key: value for key, value in read_foreign(weights).tensors.items() if not key.startswith(classifiers)
    }
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: value.shape for key, value in tensors.items()}
    compared = {key for key in expected.keys() | found.keys() if not key.endswith(UNUSED)}
    differing = sorted(key for key in compared if expected.get(key) != found.get(key))
    if differing:
        raise IntegrityError(
            f"{weights} does not hold the weights of {name} ({len(differing)} differ, the first is "
            f"{shown(differing[0])}); set pretrain.perceptual to a network and the file of its weights."
        )
    if not all(value.isfinite().all() for value in tensors.values()):
        raise IntegrityError(f"{weights} holds numbers that are not finite; get the file again.")
    network.load_state_dict(tensors, strict=False)
    return network


def _untrained(name: str) -> nn.Module:
    where = "pretrain.perceptual.network"
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}" if close else "timm.list_models() names those there are"
        raise UsageError(f"{where}: timm has no network {name}; {hint}.")
    try:
        network = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:  # a tag, such as resnet18.a1_in1k's, that does not exist
        raise UsageError(f"{where}: {str(error).rstrip('.')}; leave out what follows the dot.") from error
    if not hasattr(network, "forward_intermediates"):
        raise UsageError(f"{where}: {name} does not show its features; choose another, such as resnet18.")
    return network


def _facts(network: nn.Module) -> dict[str, Any]:
    return cast(dict[str, Any], network.pretrained_cfg)


def _by_place(features: Tensor) -> Tensor:
    """Return a map (B, C, S, S) as (B, S * S, C)."""
    return features.flatten(2).transpose(1, 2)


def _unit_length(features: Tensor) -> Tensor:
    features = features.float()
    return features * (features.square().sum(dim=-1, keepdim=True) + EPSILON).rsqrt()
