"""The convolutional networks that can be the encoder. Without torch, so that the configuration can ask.

A network is kept up to the stage whose stride is the patch size: the mask then hides whole places of every
map, as SparK asks (Tian et al., Designing BERT for Convolutional Networks, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Iterable

STRIDES = (4, 8, 16, 32)
"""Pixels of the image per place of a stage's map, first stage to last; of every network here."""

NETWORKS = {
    "convnextv2_atto": (40, 80, 160, 320),
    "convnextv2_femto": (48, 96, 192, 384),
    "convnextv2_pico": (64, 128, 256, 512),
    "convnextv2_nano": (80, 160, 320, 640),
    "convnextv2_tiny": (96, 192, 384, 768),
    "resnet10t": (64, 128, 256, 512),
    "resnet18": (64, 128, 256, 512),
    "resnet26": (256, 512, 1024, 2048),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
}
"""Channels of each stage, by timm's name of the network."""


def patch_sizes(image_size: int) -> tuple[int, ...]:
    """Return the patch sizes that a network can have at an image size: the strides that tile the image."""
    return tuple(stride for stride in STRIDES if image_size % stride == 0)


def either(choices: Iterable[object]) -> str:
    """Return choices in words: "1, 2 or 3"."""
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last
