"""Weights to and from safetensors files, checked against their configuration before they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import nn

from facemae import config
from facemae.compute.compiler import without_compiler
from facemae.config import compatibility
from facemae.config.earlier import renamed
from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError
from facemae.core.text import shown

with without_compiler():
    from facemae.models.build import build_embedder, build_mae
    from facemae.models.embedder import Embedder
    from facemae.models.mae import MaskedAutoencoder

MOST_HEADER = 4 * 2**20  # bytes that list a file's tensors; a thousand tensors take 0.1 MB
MOST_SETTINGS = 2**20  # bytes of a configuration
# Of a network's state, by safetensors' names; shipped weights are stored in half precision.
TYPES = {torch.float32: ("F32", "F16"), torch.int64: ("I64",)}


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    files.atomic_write(path, safetensors.torch.save(tensors))


def load_weights(network: nn.Module, path: Path) -> None:
    """Put the weights in `path` into `network`, of which names, shapes and types are compared first.

    An IntegrityError where the file is missing or damaged, or holds others of these, or NaN.
    """
    _check_fit(network, path)
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error
    if not all(value.isfinite().all() for value in tensors.values()):
        raise IntegrityError(f"{path} holds numbers that are not finite; train the run again.")
    network.load_state_dict(tensors)


def check_header(path: Path) -> None:
    """Raise a ValueError where a safetensors file's list of tensors is longer than any real one."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER:
        raise ValueError(f"its list of tensors takes {length} bytes, and {MOST_HEADER} are the most")


def load_autoencoder(folder: Path) -> tuple[MaskedAutoencoder, config.Pretrain]:
    """Return the masked autoencoder in a `pretrain` stage's folder, ready for use, and how it was trained.

    An IntegrityError where the folder's configuration or weights are damaged, or do not belong together.
    """
    model, pretrain, size = _settings(folder, pretrained=True)
    assert pretrain is not None
    with torch.device("meta"):  # a giant is compared with its files before it is built
        planned = build_mae(model, pretrain, size)
    _check_fit(planned.encoder.trunk, folder / layout.ENCODER)
    _check_fit(planned.decoder, folder / layout.DECODER)
    mae = build_mae(model, pretrain, size)
    load_weights(mae.encoder.trunk, folder / layout.ENCODER)
    load_weights(mae.decoder, folder / layout.DECODER)
    return mae.eval(), pretrain


def load_embedder(folder: Path, part: int = 0) -> Embedder:
    """Return the face embedder of a `finetune` stage for a part of the folds, as `load_autoencoder`."""
    model, _, size = _settings(folder, pretrained=False)
    path = folder / layout.embedder_file(part)
    if model.encoder == "vit":
        _check_size(model, size, path)
    else:
        with torch.device("meta"):
            planned = build_embedder(model, size)
        _check_fit(planned, path)
    embedder = build_embedder(model, size)
    load_weights(embedder, path)
    return embedder.eval()


def _check_size(model: config.Model, image_size: int, path: Path) -> None:
    """Stop where a file is too short for a vision Transformer, before one that may be a giant is built.

    Those weights are counted whose number grows with its settings, at two bytes each. To build it without
    memory and compare names, as of other networks, takes seconds more: PyTorch then loads torch.compile.
    """
    width, depth, _ = model.shape
    tokens = (image_size // model.patch_size) ** 2 * (model.embedding if model.head == "flatten" else 1)
    try:
        check_header(path)
        with safetensors.safe_open(path, "pt"):
            short = path.stat().st_size < 2 * width * (width * depth + tokens)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error
    if short:
        raise IntegrityError(f"{path} does not fit its configuration (it is too short for the network).")


def _check_fit(network: nn.Module, path: Path) -> None:
    """Stop unless a file holds weights of these names, shapes and types, by its list of tensors alone."""
    state = network.state_dict()
    expected = {name: list(value.shape) for name, value in state.items()}
    try:
        check_header(path)
        with safetensors.safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        found: dict[str, Any] = {name: each.get_shape() for name, each in slices.items()}
        for name in found.keys() & state.keys():
            if slices[name].get_dtype() not in TYPES[state[name].dtype]:
                found[name] = None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise _unreadable(path, error) from error
    if found != expected:
        first = min(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise IntegrityError(f"{path} does not fit its configuration (first difference: {shown(first)}).")


def _unreadable(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"{path} cannot be read as weights ({shown(error)}); train the run again.")


def _settings(folder: Path, *, pretrained: bool) -> tuple[config.Model, config.Pretrain | None, int]:
    """Return encoder, pretraining and image size of the configuration beside weights."""
    path = folder / layout.CONFIG
    try:
        settings = renamed(records.read_json(path, MOST_SETTINGS))
        model = config.Model.model_validate(settings["model"])
        pretrain = config.Pretrain.model_validate(settings["pretrain"]) if pretrained else None
        size = settings["image_size"]
        if not isinstance(size, int) or not 32 <= size <= 448:
            raise ValueError(f"image_size is {size}")
        if problem := compatibility.problem(model, pretrain, None, size, aligned=True):
            raise ValueError(problem)
    except (LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        why = shown(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            why = shown(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise IntegrityError(
            f"{path} is not the configuration of a trained run of this version ({why}); train the run again."
        ) from error
    return model, pretrain, size
