"""The names of a vision Transformer's weights in timm, facebookresearch/mae and Hugging Face's ViTMAE.

facebookresearch/mae uses timm's for its encoder. Hugging Face has its own, changed by transformers 5 within
the library but not in the files that it writes; both are read, the older are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from facemae.core.progress import say
from facemae.core.text import shown

HUGGING_FACE_FIRST = "embeddings.patch_embeddings.projection.weight"
QKV = ("query", "key", "value")
AROUND = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
"""timm's names outside the blocks, and Hugging Face's."""
BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""timm's names within a block, and Hugging Face's; query, key and value are one matrix in timm."""

_TIMM_AROUND = {theirs: timms for timms, theirs in AROUND.items()}
_TIMM_BLOCK = {theirs: timms for timms, theirs in BLOCK.items()}
_TIMM_BLOCK |= {"attention.o_proj": "attn.proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_TIMM_BLOCK |= {f"attention.attention.{part}": f"attn.{part}" for part in QKV}
_TIMM_BLOCK |= {f"attention.{part[0]}_proj": f"attn.{part}" for part in QKV}


def timm_names(tensors: Mapping[str, Tensor], first: str, width: int) -> dict[str, Tensor]:
    """Return a network's weights by timm's names; nothing if it is not in there.

    The names may have a prefix. `first` is timm's name of the first layer's weight, by which the network is
    found, and `width` that of its tokens: query, key and value of another are left apart.
    """
    hugging_face = _below(tensors, HUGGING_FACE_FIRST)
    return _from_hugging_face(hugging_face, width) if hugging_face else _below(tensors, first)


def encoder_to_hugging_face(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of timm's vision Transformer by the names of `ViTMAEModel`."""
    for name, value in tensors.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if block:
            for theirs, part in block_to_hugging_face({block[2]: value}):
                yield f"encoder.layer.{block[1]}.{theirs}", part
        else:
            layer, kind = _layer_and_kind(name)
            yield AROUND[layer] + kind, value


def block_to_hugging_face(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of one of timm's blocks by Hugging Face's names within a layer."""
    for name, value in tensors.items():
        layer, kind = _layer_and_kind(name)
        if layer == "attn.qkv":
            for part, third in zip(QKV, value.chunk(3), strict=True):
                yield f"attention.attention.{part}{kind}", third
        else:
            yield BLOCK[layer] + kind, value


def _below(tensors: Mapping[str, Tensor], first: str) -> dict[str, Tensor]:
    """Return the weights whose names share what stands before `first`, without it."""
    prefixes = [name.removesuffix(first) for name in tensors if name.endswith(first)]
    if not prefixes:
        return {}
    prefix = min(prefixes, key=len)
    if len(prefixes) > 1:
        say("init", f"{len(prefixes)} encoders are in the file, and {shown(prefix)!r} is taken")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _from_hugging_face(tensors: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    renamed = {_timm_name(name): value for name, value in tensors.items()}
    for query in [name for name in renamed if ".attn.query." in name]:
        parts = [query.replace(".query.", f".{part}.") for part in QKV]
        shapes = [renamed[part].shape for part in parts if part in renamed]
        if len(shapes) == len(QKV) and set(shapes) <= {(width,), (width, width)}:
            renamed[query.replace(".query.", ".qkv.")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


def _timm_name(name: str) -> str:
    layer, kind = _layer_and_kind(name)
    block = re.fullmatch(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)", layer)
    if block:
        return f"blocks.{block[1]}.{_TIMM_BLOCK.get(block[2], block[2])}{kind}"
    return _TIMM_AROUND.get(layer, layer) + kind


def _layer_and_kind(name: str) -> tuple[str, str]:
    """Return the name of a layer, and ".weight", ".bias" or nothing."""
    layer = name.removesuffix(".weight").removesuffix(".bias")
    return layer, name.removeprefix(layer)
