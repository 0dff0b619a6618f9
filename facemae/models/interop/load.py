"""Start an encoder from weights of timm, facebookresearch/mae, Hugging Face's ViTMAE, or our own.

Images here are in [-1, 1]. Shapes: D encoder width, K class tokens (0 or 1), N patches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import cast

import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor

from facemae.core.errors import IntegrityError, UsageError
from facemae.core.progress import say
from facemae.core.text import shown
from facemae.models import shipped_models
from facemae.models.base import Encoder
from facemae.models.cnn import Cnn
from facemae.models.interop.names import timm_names
from facemae.models.interop.read import Foreign, Normalisation, read_foreign
from facemae.models.patches import position_embedding
from facemae.models.vit import Vit

# What a vision Transformer's file may hold beside the encoder; more than that is another architecture.
BESIDE_ENCODER = ("head", "fc_norm", "pre_logits", "decoder", "mask_token")
FC_NORM = ("fc_norm.weight", "fc_norm.bias")
LARGEST_PATCH = 64  # pixels along a side, of a file
MOST_POSITIONS = 2**16


def start_encoder(encoder: Encoder, init: str) -> None:
    """Start an encoder from a model that comes with the package, by name, or from a file (`load_encoder`).

    A shipped model with more blocks than the encoder gives its first ones; files have to have as many.
    """
    load_encoder(encoder, shipped_models.encoder_file(init), first_blocks=init in shipped_models.WEIGHTS)


def load_encoder(encoder: Encoder, path: Path, *, first_blocks: bool = False) -> None:
    """Start an encoder from weights of our own, of timm, of facebookresearch/mae or of Hugging Face's ViTMAE.

    Positions and patches are resampled to the encoder's own sizes; a class token that it has not is left out.
    A network that was trained on images normalised otherwise is given a first layer that does the same to
    ours, which is exact up to rounding. The encoder, a vit or cnn, is unchanged when its weights are refused.
    With `first_blocks` only the first blocks of a vit that has more than the encoder are taken.

    Raises:
        UsageError: the file cannot be opened, or the encoder is none that others have.
        IntegrityError: the file is damaged, not of weights alone, or of another architecture.
    """
    if not isinstance(encoder, Vit | Cnn):
        raise UsageError(f"init is {path}, but encoder mlp has no weights elsewhere; set it to null.")
    foreign = read_foreign(path)
    first_layer = next(name for name in encoder.trunk.state_dict() if name.endswith(".weight"))
    tensors = timm_names(foreign.tensors, first_layer, encoder.width)
    if not tensors:
        raise IntegrityError(f"{path} holds no encoder like this one; give weights of the same architecture.")
    if first_blocks and isinstance(encoder, Vit):
        tensors = _first_blocks(tensors, len(encoder.trunk.blocks), path)
    for name, value in encoder.trunk.state_dict().items():
        if value.is_floating_point() and name in tensors and not tensors[name].is_floating_point():
            raise IntegrityError(
                f"{path}: {name} holds whole numbers, as of a quantised network; give floating point."
            )
    fit = _fit_vit if isinstance(encoder, Vit) else _fit_cnn
    fitted = fit(encoder, tensors, foreign)  # type: ignore[arg-type]
    plain = {name: value if value.dtype == torch.int64 else value.float() for name, value in fitted.items()}
    if not all(value.isfinite().all() for value in plain.values()):
        raise IntegrityError(f"{path} holds numbers that are not finite; get it again.")
    encoder.trunk.load_state_dict(plain)


def _first_blocks(tensors: dict[str, Tensor], count: int, path: Path) -> dict[str, Tensor]:
    """Return a vision Transformer's weights without the blocks after the first `count`."""
    kept = {
        name: value
        for name, value in tensors.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < count
    }
    if len(kept) < len(tensors):
        say("init", f"of the blocks in {path} the first {count} are taken")
    return kept


def _fit_vit(encoder: Vit, tensors: dict[str, Tensor], foreign: Foreign) -> dict[str, Tensor]:
    """Return a vision Transformer's weights at the encoder's patch size and grid, without what it has not."""
    _check_shape(encoder, tensors, foreign)
    if "norm.weight" not in tensors and "fc_norm.weight" in tensors:
        say("init", f"{foreign.path.name} normalises what it has pooled; here its fc_norm does so before")
        tensors |= {name.removeprefix("fc_"): tensors[name] for name in FC_NORM if name in tensors}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(BESIDE_ENCODER)}
    has_class = "cls_token" in tensors
    if not encoder.prefix_tokens:
        tensors.pop("cls_token", None)
    positions = tensors.pop("pos_embed", None)
    patch, side = "patch_embed.proj.weight", tensors["patch_embed.proj.weight"].shape[-1]
    expected = {name: value for name, value in encoder.trunk.state_dict().items() if name != "pos_embed"}
    _check(tensors, expected, foreign.path, resampled=patch)
    if positions is None:
        say("init", f"{foreign.path.name} holds no positions; sines and cosines are taken")
        row_first = position_embedding(encoder.width, encoder.side)
        column_first = row_first.roll(encoder.width // 2, dims=1)  # as facebookresearch/mae has them
        positions = torch.cat([torch.zeros(encoder.prefix_tokens, encoder.width), column_first])[None]
    else:
        positions = _positions(positions, encoder, foreign, side, has_class=has_class)
    tensors = _normalise_first(tensors, "patch_embed.proj", foreign.normalisation)
    if side != encoder.patch_size:
        tensors[patch] = resample_patch_embed(tensors[patch].float(), [encoder.patch_size] * 2)
    return tensors | {"pos_embed": positions}


def _check_shape(encoder: Vit, tensors: Mapping[str, Tensor], foreign: Foreign) -> None:
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    patch = tensors["patch_embed.proj.weight"]
    if patch.ndim != 4 or patch.shape[1] != 3 or not 1 <= patch.shape[2] == patch.shape[3] <= LARGEST_PATCH:
        raise IntegrityError(
            f"{foreign.path} embeds no square patches of three colours, of {LARGEST_PATCH} pixels at most; "
            "give weights for photos."
        )
    compared = {
        "width": (len(patch), encoder.width),
        "depth": (len(blocks), len(encoder.trunk.blocks)),
        "heads": (foreign.heads or encoder.heads, encoder.heads),
    }
    differing = [f"{key} {found} instead of {own}" for key, (found, own) in compared.items() if found != own]
    if differing:
        raise IntegrityError(
            f"{foreign.path} is of another architecture: {', '.join(differing)}; "
            "set the model's, or give other weights."
        )
    if not foreign.heads:
        taken = f"they are taken to be {encoder.heads}"
        say("init", f"{foreign.path.name} does not tell its attention heads; {taken}")


def _positions(positions: Tensor, encoder: Vit, foreign: Foreign, patch: int, *, has_class: bool) -> Tensor:
    """Return positions (1, any grid and perhaps a class token, D) as the encoder's (1, K + N, D)."""
    count = positions.shape[1] if positions.ndim == 3 else 0
    if not 1 <= count <= MOST_POSITIONS or positions.shape != (1, count, encoder.width):
        raise IntegrityError(
            f"{foreign.path} has positions of shape {tuple(positions.shape)[:5]}, not for tokens of width "
            f"{encoder.width}; give other weights."
        )
    rows, columns, prefix = _grid(count, foreign, patch, has_class=has_class)
    grid: Tensor = positions[:, prefix:].float()
    if (rows, columns) != (encoder.side, encoder.side):
        grid = resample_abs_pos_embed(grid, [encoder.side] * 2, old_size=[rows, columns], num_prefix_tokens=0)
    if not encoder.prefix_tokens:
        return grid
    of_class = positions[:, :1].float() if prefix else torch.zeros_like(grid[:, :1])
    return torch.cat([of_class, grid], dim=1)


def _grid(count: int, foreign: Foreign, patch: int, *, has_class: bool) -> tuple[int, int, int]:
    """Return rows and columns of so many positions, and how many of them are a class token's.

    Image size and patch size say it where the file beside the weights has them. Else the grid has to be a
    square, with a position for the class token if there is one: 49 positions and a class token may be 7 x 7
    without one for it, or 8 x 6 with one.
    """
    if foreign.image_size is not None:
        rows, columns = (side // patch for side in foreign.image_size)
        if count - rows * columns in (0, int(has_class)) and rows > 0 and columns > 0:
            return rows, columns, count - rows * columns
        size = f"the configuration beside it tells {rows} x {columns} patches"
    else:
        prefix = int(has_class)
        if (side := isqrt(count - prefix)) and side**2 == count - prefix:
            return side, side, prefix
        size = "no configuration beside it tells the size of its images"
    raise IntegrityError(
        f"{foreign.path} has positions for {count} tokens, {'with' if has_class else 'without'} a class "
        f"token, and {size}; write the image_size that it was trained on, [height, width], into a "
        "config.json beside it."
    )


def _fit_cnn(encoder: Cnn, tensors: dict[str, Tensor], foreign: Foreign) -> dict[str, Tensor]:
    """Return a convolutional network's weights without the stages and the classifier that are not kept."""
    kept = {_stage(name) for name in encoder.trunk.state_dict()}
    tensors = {name: value for name, value in tensors.items() if _stage(name) in kept}
    _check(tensors, encoder.trunk.state_dict(), foreign.path)
    # A ResNet's first layer has no bias to take up a mean; its batch normalisation adapts to ours.
    return _normalise_first(tensors, "stem.0", foreign.normalisation)


def _stage(name: str) -> str:
    """Return the part of a CNN that a weight is in: stages.0 of ConvNeXt, layer1 of a ResNet, stem, head."""
    return cast(re.Match[str], re.match(r"stages\.\d+|[^.]*", name))[0]


def _normalise_first(
    tensors: dict[str, Tensor], layer: str, normalisation: Normalisation | None
) -> dict[str, Tensor]:
    """Let the first layer do to images in [-1, 1] what was done to the network's own.

    With m and s the mean and deviation of pixels in [0, 1] that is x / 2s + (1 / 2 - m) / s: a factor on
    the weights, and a constant that becomes a part of the bias.
    """
    weight, bias = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.bias")
    if normalisation is None or weight is None or bias is None or weight.ndim != 4 or weight.shape[1] != 3:
        return tensors
    mean, deviation = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in normalisation)
    constant = (weight * ((0.5 - mean) / deviation)).sum(dim=(1, 2, 3))
    adapted = {f"{layer}.weight": weight * (0.5 / deviation), f"{layer}.bias": bias + constant}
    return tensors | {name: value.to(weight.dtype) for name, value in adapted.items()}


def _check(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor], path: Path, *, resampled: str = ""
) -> None:
    """Stop unless these are the names and shapes of the network, before any of their numbers is looked at."""
    for name in sorted(tensors.keys() | expected.keys()):
        if name not in tensors:
            problem = f"{name} is missing"
        elif name not in expected:
            problem = f"{shown(name)} has no place"
        elif tensors[name].shape != expected[name].shape and name != resampled:
            problem = f"{name} is {tuple(tensors[name].shape)[:5]} instead of {tuple(expected[name].shape)}"
        else:
            continue
        raise IntegrityError(
            f"{path} is of another architecture: {problem}; give weights of the one configured."
        )
