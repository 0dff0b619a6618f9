"""Weights to and from safetensors files, checked against the configuration beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import nn

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError
from facemae.models.embedder import Embedder, build_embedder
from facemae.models.mae import MaskedAutoencoder, build_mae


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's weights, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    files.atomic_write(path, safetensors.torch.save(tensors))


def load_weights(network: nn.Module, path: Path) -> None:
    """Put the weights in `path` into `network`.

    Raises:
        IntegrityError: the file is missing or damaged, or holds other names, shapes or types, or NaN.
    """
    expected = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    try:
        tensors = safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{path} cannot be read as weights ({error}); train the run again.") from error
    found = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    if found != expected:
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise IntegrityError(f"{path} does not fit its configuration (first difference: {differing[0]}).")
    if not all(value.isfinite().all() for value in tensors.values()):
        raise IntegrityError(f"{path} holds numbers that are not finite; train the run again.")
    network.load_state_dict(tensors)


def load_autoencoder(folder: Path) -> tuple[MaskedAutoencoder, config.Pretrain]:
    """Return the masked autoencoder in a `pretrain` stage's folder, ready for use, and how it was trained."""
    with _our_settings(folder) as settings:
        pretrain = config.Pretrain.model_validate(settings["pretrain"])
        mae = build_mae(config.Model.model_validate(settings["model"]), pretrain, settings["image_size"])
    load_weights(mae.encoder.trunk, folder / layout.ENCODER)
    load_weights(mae.decoder, folder / layout.DECODER)
    mae.eval()
    return mae, pretrain


def load_embedder(folder: Path, part: int = 0) -> Embedder:
    """Return the face embedder that a `finetune` stage made for a part of the folds, ready for use."""
    with _our_settings(folder) as settings:
        embedder = build_embedder(config.Model.model_validate(settings["model"]), settings["image_size"])
    load_weights(embedder, folder / layout.embedder_file(part))
    embedder.eval()
    return embedder


@contextlib.contextmanager
def _our_settings(folder: Path) -> Iterator[dict[str, Any]]:
    """Give the configuration beside the weights; what it lacks or has wrong is told in one sentence."""
    path = folder / layout.CONFIG
    try:
        yield records.read_json(path)
    except (LookupError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{path} is not the configuration of a trained run; train the run again."
        ) from error
