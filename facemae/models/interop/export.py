"""A trained run for other libraries: timm, Hugging Face's ViTMAE and ONNX (load.py reads the first two).

Hugging Face's transformers need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.models.cnn import Cnn
from facemae.models.decoders import FEED_FORWARD, Transformer
from facemae.models.interop.names import block_to_hugging_face, encoder_to_hugging_face
from facemae.models.interop.onnx_file import onnx_files
from facemae.models.vit import Vit
from facemae.models.weights import load_autoencoder, load_embedder

WEIGHTS, PREPROCESSOR = "model.safetensors", "preprocessor_config.json"
MIDDLE = [0.5, 0.5, 0.5]  # mean and deviation that take pixels in [0, 1] to our [-1, 1]


def export(stage: Path, library: str, out: Path) -> None:
    """Write a trained run for another library: a folder of weights and what that library asks beside them.

    `stage` is the folder of a `pretrain` stage, for timm also of a `finetune` stage, for ONNX only of that;
    `library` is a key of `EXPORTS`.

    Raises:
        UsageError: the folder is no stage's, the library cannot express the run, or `out` exists.
        IntegrityError: the stage's weights or configuration are damaged.
    """
    if out.exists():
        raise UsageError(f"{out} exists already; name a new folder with --out.")
    if not any((stage / name).is_file() for name in (layout.ENCODER, layout.EMBEDDER)):
        raise UsageError(
            f"{stage} is not the folder of a trained stage; name one, such as results/random/0/pretrain."
        )
    content = EXPORTS[library](stage)
    with files.atomic_folder(out, sum(map(len, content.values()))) as folder:
        for name, data in content.items():
            files.write_blocks(folder / name, [data])


def _timm(stage: Path) -> dict[str, bytes]:
    """Return the encoder as `timm.create_model("local-dir:...", pretrained=True)` takes it."""
    finetuned = (stage / layout.EMBEDDER).exists()
    encoder = load_embedder(stage).encoder if finetuned else load_autoencoder(stage)[0].encoder
    settings = records.read_json(stage / layout.CONFIG)
    model, size = config.Model.model_validate(settings["model"]), settings["image_size"]
    if isinstance(encoder, Vit):
        pooling = {"global_pool": "avg" if model.pool == "mean" else "token"}
        # Ours normalises before it pools, so timm's own layer behind is left out.
        name, arguments = "vit_base_patch16_224", encoder.arguments | pooling | {"fc_norm": False}
    elif isinstance(encoder, Cnn):
        name, arguments = model.network, {}
    else:
        raise UsageError(f"{stage} has encoder mlp, which timm has not; export a vit or cnn.")
    images = {"input_size": [3, size, size], "mean": MIDDLE, "std": MIDDLE, "crop_pct": 1.0}
    content = {
        "architecture": name,
        "num_classes": 0,
        "num_features": encoder.width,
        "model_args": arguments,
        "pretrained_cfg": images | {"interpolation": "bicubic", "num_classes": 0},
    }
    return {WEIGHTS: _weights(encoder.trunk.state_dict()), layout.CONFIG: files.dump_json(content)}


def _hugging_face(stage: Path) -> dict[str, bytes]:
    """Return the masked autoencoder as `ViTMAEForPreTraining.from_pretrained` takes it."""
    if (stage / layout.EMBEDDER).exists():
        raise UsageError(f"{stage} holds no decoder, which ViTMAE has; name the run's pretrain stage.")
    mae, pretrain = load_autoencoder(stage)
    encoder, decoder = mae.encoder, mae.decoder
    if not isinstance(encoder, Vit) or not isinstance(decoder, Transformer):
        raise UsageError(
            f"{stage} is no vit with decoder transformer, all that ViTMAE can be; use --format timm."
        )
    if not encoder.prefix_tokens:
        raise UsageError(
            f"{stage} was trained without a class token, which ViTMAE always has and which would change what "
            "every token sees; train with model.class_token true, or use --format timm."
        )
    tensors = {f"vit.{name}": part for name, part in encoder_to_hugging_face(encoder.trunk.state_dict())}
    tensors |= {f"decoder.{name}": part for name, part in _hugging_face_decoder(decoder)}
    return {
        WEIGHTS: _weights(tensors),
        layout.CONFIG: files.dump_json(_hugging_face_config(encoder, decoder, pretrain)),
        PREPROCESSOR: files.dump_json(_hugging_face_images(encoder)),
    }


def _hugging_face_decoder(decoder: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Yield the decoder's weights, and its fixed positions with a class token's in front."""
    tokens, head = decoder.tokens, decoder.head
    yield "mask_token", tokens.mask_token
    yield "decoder_pos_embed", F.pad(tokens.position, (0, 0, 1, 0))
    layers = {"decoder_embed": tokens.embed, "decoder_norm": head.norm, "decoder_pred": head.pixels}
    for name, layer in layers.items():
        yield from ((f"{name}.{kind}", value) for kind, value in layer.state_dict().items())
    for index, block in enumerate(decoder.blocks):
        for name, value in block_to_hugging_face(block.state_dict()):
            yield f"decoder_layers.{index}.{name}", value


def _hugging_face_images(encoder: Vit) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": encoder.image_size, "width": encoder.image_size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MIDDLE,
        "image_std": MIDDLE,
    }


def _hugging_face_config(encoder: Vit, decoder: Transformer, pretrain: config.Pretrain) -> dict[str, Any]:
    patches = encoder.side**2
    hidden = round(pretrain.mask_ratio * patches)
    ratio = pretrain.mask_ratio
    if int(patches * (1 - ratio)) != patches - hidden:  # there the visible patches are rounded down
        ratio = (hidden - 0.5) / patches
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "dtype": "float32",
        "image_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "num_channels": 3,
        "hidden_size": encoder.width,
        "num_hidden_layers": len(encoder.trunk.blocks),
        "num_attention_heads": encoder.heads,
        "intermediate_size": FEED_FORWARD * encoder.width,
        "decoder_hidden_size": pretrain.decoder_width,
        "decoder_num_hidden_layers": len(decoder.blocks),
        "decoder_num_attention_heads": pretrain.decoder_heads,
        "decoder_intermediate_size": FEED_FORWARD * pretrain.decoder_width,
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.trunk.norm.eps,
        "qkv_bias": True,
        "mask_ratio": ratio,
        "norm_pix_loss": pretrain.normalise_target,
    }


def _weights(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies, since a file has no room for tensors that share memory, as thirds of one matrix do.
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return safetensors.torch.save(plain, {"format": "pt"})  # transformers reads no file without this mark


EXPORTS: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "timm": _timm, "huggingface": _hugging_face, "onnx": onnx_files
}  # fmt: skip
