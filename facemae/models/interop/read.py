"""Read weights that another library wrote, without running anything that their file holds.

What a file says of its own size is compared with limits before it is believed, and the numbers stay on disk
until they are asked for.
"""

from __future__ import annotations

import argparse
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from facemae import config
from facemae.core import records
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.progress import say
from facemae.core.text import shown
from facemae.models.weights import MOST_HEADER, MOST_SETTINGS, check_header

Normalisation: TypeAlias = tuple[list[float], list[float]]
"""Mean and deviation, per colour, of pixels in [0, 1]."""

IMAGENET: Normalisation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
WRAPPERS = ("model", "state_dict")  # the keys that hold the weights: facebookresearch's, timm's
TOLD_BY = ("config.json", "preprocessor_config.json")
MOST_BYTES = 16 * 2**30  # of a file; a training checkpoint of the largest vision Transformer takes 8
MOST_UNMAPPED = 2 * 2**30  # of a file in the format before PyTorch 1.6, which has to be read whole
MOST_TENSORS = 20_000
LEAST_DEVIATION = 1e-3
PLAIN = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool}


@dataclass(frozen=True)
class Foreign:
    """Weights from elsewhere, and what is known of them beyond their shapes.

    The tensors have the names of the file and stay on disk, where the format allows it, until they are used.
    `normalisation`, None also for [-1, 1], and `image_size`, height and width, are those of the images that
    the network was trained on; None: not known.
    """

    path: Path
    tensors: dict[str, Tensor]
    normalisation: Normalisation | None = None
    heads: int | None = None
    image_size: tuple[int, int] | None = None


def read_foreign(path: Path) -> Foreign:
    """Read a safetensors file, or one written by `torch.save`, and the JSON files beside it.

    facebookresearch/mae and its relatives (a dict with the weights under "model") normalise images by
    ImageNet's mean and deviation; others are believed what their files say.

    Raises:
        UsageError: the file cannot be opened.
        IntegrityError: it is damaged, too large or more than plain tensors, or could run code when read; or
            the files beside it tell colours that no images have.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); check the setting that names it."
        ) from error
    if size > MOST_BYTES:
        raise IntegrityError(
            f"{path} takes {size / 2**30:.1f} GiB, and {MOST_BYTES / 2**30:g} are the most for weights; "
            "take the encoder's out into a file of their own."
        )
    # safetensors begins with the length of its header in eight bytes, and the header is JSON.
    content: Any = _read_safetensors(path) if head[8:] == b"{" else _read_torch(path, size)
    settings, normalisation = _beside(path), None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content, normalisation = content[key], IMAGENET if key == "model" else None
    own_normalisation = _normalisation(settings, path) or normalisation
    return Foreign(path, _plain(content, path), own_normalisation, _heads(settings), _image_size(settings))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        check_header(path)
        return safetensors.torch.load_file(path)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{path} is damaged ({shown(error)}); get it again.") from error


def _read_torch(path: Path, size: int) -> Any:
    """Return what `torch.save` wrote, tensors and plain values only.

    `weights_only` calls nothing but PyTorch's own functions for tensors. Training checkpoints of
    facebookresearch/mae also hold an `argparse.Namespace`, which is let in: its class has no `__reduce__`,
    `__setstate__` or `__new__` of its own, its `__init__` refuses arguments by position, the only ones an
    unpickler can give, and no attribute of it is ever read. At worst it is a bag of values that were
    allowed already.
    """
    try:
        mapped = _check_zip(path) and path.suffix != ".safetensors"  # by which PyTorch takes it for one
        if not mapped and size > MOST_UNMAPPED:
            raise ValueError(f"{size / 2**30:.1f} GiB in a format before PyTorch 1.6 are too many")
        with torch.serialization.safe_globals([argparse.Namespace]), open(path, "rb") as file:
            content: Any = path if mapped else file
            return torch.load(content, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged or hostile file can raise anything
        raise _refusal(path, str(error)) from error


def _check_zip(path: Path) -> bool:
    """Tell whether a file is the zip archive that `torch.save` writes; a ValueError if it is another one."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
        file.seek(-22, 2)  # the record of the end, behind which torch.save writes no comment
        magic, entries, directory = struct.unpack("<4s6xHI6x", file.read(22))
    if magic != b"PK\x05\x06":
        raise ValueError("it ends too early")
    if entries > MOST_TENSORS or directory > MOST_HEADER:
        raise ValueError(f"it says that it has {entries} parts")
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            # Mapped parts take no memory; all others are read whole, and the pickle among them is run.
            if part.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{shown(part.filename)} is compressed")
            if "/data/" not in part.filename and part.file_size > MOST_HEADER:
                raise ValueError(f"{shown(part.filename)} takes {part.file_size} bytes")
    return True


def _refusal(path: Path, reason: str) -> IntegrityError:
    needs = re.search(r"GLOBAL (\S+)", reason)
    if needs:
        return IntegrityError(
            f"{path} holds a {shown(needs[1])}, so reading it would run code from it; if you trust the file, "
            "take its tensors out into a safetensors file as docs/interoperability.md shows."
        )
    first_line = reason.partition("\n")[0].rstrip(".") or "it ends too early"
    if first_line.startswith("Weights only"):  # PyTorch would advise to run what the file holds
        first_line = "it is neither of safetensors nor of torch.save"
    return IntegrityError(
        f"{path} is no file of weights that can be read ({shown(first_line)}); get it again."
    )


def _plain(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, each of which is as large as its bytes in the file.

    A tensor with strides of zero would let a file of a kilobyte fill the memory once it is computed with.
    """
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise IntegrityError(f"{path} holds no weights by name; give the file of a state dict.")
    for name, value in tensors.items():
        plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
        plain = plain and value.device.type == "cpu" and value.dtype in PLAIN
        if not plain or value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise IntegrityError(f"{path}: {shown(name)} is no plain tensor; save it as one, in safetensors.")
    return {name: value.detach() for name, value in tensors.items()}


def _beside(path: Path) -> dict[str, Any]:
    """Return what the JSON files beside the weights say; there may be none."""
    settings: dict[str, Any] = {}
    for name in TOLD_BY:
        try:
            content = records.read_json(path.parent / name, MOST_SETTINGS)
            settings |= content if isinstance(content, dict) else {}
        except FileNotFoundError:
            continue
        except (IntegrityError, OSError):
            say("init", f"{name} beside {path.name} cannot be read, so nothing of it is used")
    return settings


def _told(settings: dict[str, Any], *places: str) -> Any:
    """Return the first value that settings have at one of these dotted places, or None."""
    for place in places:
        value: Any = settings
        for key in place.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _normalisation(settings: dict[str, Any], path: Path) -> Normalisation | None:
    """Return the images' mean and deviation of three colours in [0, 1]: Hugging Face's keys or timm's."""
    if settings.get("do_normalize") is False:
        return [0.0] * 3, [1.0] * 3
    mean, std = (_told(settings, f"image_{key}", f"pretrained_cfg.{key}") for key in ("mean", "std"))
    if mean is None and std is None:
        return None
    if _is_colour(mean, 0) and _is_colour(std, LEAST_DEVIATION):
        return mean, std
    raise IntegrityError(
        f"A file beside {path} tells the mean {shown(mean)} and the deviation {shown(std)} of its images, "
        "where three numbers from 0 to 1 are needed of each; correct it."
    )


def _is_colour(value: Any, least: float) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(part) in (int, float) and least <= part <= 1 for part in value)
    )


def _image_size(settings: dict[str, Any]) -> tuple[int, int] | None:
    """Return height and width of the images: Hugging Face's key, which is ours too, or timm's."""
    size = _told(settings, "image_size", "model_args.img_size", "pretrained_cfg.input_size")
    sides = size[-2:] if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        return None
    return (sides[0], sides[1])


def _heads(settings: dict[str, Any]) -> int | None:
    """Return the attention heads: Hugging Face's key, our own, or those of timm's architecture."""
    if named := config.SIZES.get(str(_told(settings, "model.size"))):
        return named[2]
    heads = _told(settings, "model.heads", "model_args.num_heads", "num_attention_heads")
    architecture = str(settings.get("architecture"))
    if heads is None and architecture.startswith("vit_") and timm.is_model(architecture):
        with torch.device("meta"):
            blocks: Any = timm.create_model(architecture).blocks
        heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None)
    return heads if isinstance(heads, int) else None
