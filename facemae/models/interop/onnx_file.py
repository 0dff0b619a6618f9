"""A trained embedder as ONNX, in float32 and in eight bits: for phones, and all that runs without PyTorch.

Input `images` (B, 3, H, H) in [-1, 1], aligned as for training; output `embeddings` (B, M) of length 1.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.models.weights import load_embedder

MODEL, INT8 = "model.onnx", "model.int8.onnx"
OPSET = 17  # the first with layer normalisation, and old enough for the runtimes of phones


class _Unit(nn.Module):
    """An embedder whose embeddings have length 1."""

    def __init__(self, embedder: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.embedder(images), dim=1)


def onnx_files(stage: Path) -> dict[str, bytes]:
    """Return the embedder of a `finetune` stage as two ONNX files, and what a program has to know of them.

    Of the small one the weights of all matrix products are whole numbers with a scale for each column, and
    what comes into a product is rounded likewise while it runs. Weights have seven bits of eight: with all of
    them, sums of two products overflow on x86 processors without VNNI (ONNX Runtime, "Quantize ONNX models").
    There the embeddings of face-tiny had a cosine of 0.95 with PyTorch's, and have 0.999 so.
    """
    if not (stage / layout.EMBEDDER).is_file():
        raise UsageError(f"{stage} holds no embedder, which is what ONNX is for; name a finetune stage.")
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise UsageError(
            "An export to ONNX takes the packages onnx and onnxruntime; run: make extras"
        ) from error
    settings = records.read_json(stage / layout.CONFIG)
    side = settings["image_size"]
    with tempfile.TemporaryDirectory() as place:
        full, prepared, small = (Path(place) / name for name in (MODEL, "prepared.onnx", INT8))
        _trace(_Unit(load_embedder(stage)).eval(), side, full)
        quant_pre_process(full, prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared, small, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
            weight_type=QuantType.QInt8, reduce_range=True,
        )  # fmt: skip
        content = {"images": [3, side, side], "pixels": [-1, 1], "embedding": settings["model"]["embedding"]}
        return {MODEL: full.read_bytes(), INT8: small.read_bytes(), layout.CONFIG: files.dump_json(content)}


def _trace(network: nn.Module, side: int, path: Path) -> None:
    """Write a network of images of a side; the batch may have any size."""
    any_number = {"images": {0: "faces"}, "embeddings": {0: "faces"}}
    with warnings.catch_warnings():
        # The tracer warns of every size that it takes as fixed, and that torch.export, which would take a
        # package more, is to follow it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(2, 3, side, side),), path, dynamo=False, opset_version=OPSET,
            input_names=["images"], output_names=["embeddings"], dynamic_axes=any_number,
        )  # fmt: skip
