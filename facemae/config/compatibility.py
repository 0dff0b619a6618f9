"""Which settings go together: what cannot work is refused at the start, with settings that would work.

Knows the networks and strategies by name only, so that the workflow can ask without loading torch.

A convolutional network is kept up to the stage whose stride is the patch size: the mask then hides whole
places of every map, as SparK asks (Tian et al., Designing BERT for Convolutional Networks, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from facemae.config.masks import BLOCKS, MASK_GUIDES, PIXEL_MASKS, REGION_MASKS

if TYPE_CHECKING:
    from facemae.config.training import Finetune, Model, Pretrain

STRIDES = (4, 8, 16, 32)  # pixels per place of a stage's map, first stage to last, of every network below
NETWORKS = (  # by timm's names
    "convnextv2_atto", "convnextv2_femto", "convnextv2_pico", "convnextv2_nano", "convnextv2_tiny",
    "resnet10t", "resnet18", "resnet26", "resnet34", "resnet50",
)  # fmt: skip
MIN_PATCH = 4  # pixels along a side, of those offered
MIN_REGION_SIDE = 4  # patches along a side, below which the boxes of the regions overlap
DECODERS = {
    "vit": ("transformer", "cross", "deconv", "mlp"),
    "cnn": ("transformer", "cross", "deconv", "mlp"),
    "mlp": ("mlp",),
}
# What a guide asks the encoder for: attention, or a token per patch.
GUIDED = {
    "attention": ("vit",),
    "predicted_loss": ("vit", "cnn"),
    "position_loss": ("vit", "cnn", "mlp"),
}


def problem(
    model: Model, pretrain: Pretrain | None, finetune: Finetune | None, image_size: int, *, aligned: bool
) -> str | None:
    """Return the first reason for which settings cannot work, "key: sentence", or None.

    `aligned` says whether the faces are warped to the template that the face regions lie on.
    """
    found = chain(
        _model_problems(model, image_size),
        _pretrain_problems(model, pretrain, image_size, aligned) if pretrain else (),
        _finetune_problems(model, finetune, image_size) if finetune else (),
    )
    return next(found, None)


def _pretrain_problems(model: Model, pretrain: Pretrain, image_size: int, aligned: bool) -> Iterator[str]:
    if pretrain.method == "mae":
        yield from _decoder_problems(model, pretrain)
        yield from _mask_problems(model, pretrain, image_size, aligned)
    elif pretrain.grad_accumulation > 1:
        yield (
            f"pretrain.grad_accumulation: {pretrain.method} compares all faces of the batch, parts of it "
            "would be another task; choose 1, and a smaller batch_size if memory is short."
        )


def _finetune_problems(model: Model, finetune: Finetune, image_size: int) -> Iterator[str]:
    mode, blocks, patches = finetune.mode, model.shape[1], (image_size // model.patch_size) ** 2
    if finetune.teacher and mode == "knn":
        yield "finetune.teacher: mode knn learns nothing; choose another mode, or set teacher to null."
    if mode in ("partial", "lora") and model.encoder != "vit":
        what = "blocks" if mode == "partial" else "attention"
        yield (
            f"finetune.mode: {mode} trains {what} of a vision Transformer, which encoder {model.encoder} has "
            "not; choose full, probe or knn."
        )
    if mode == "partial" and finetune.last_blocks > blocks:
        yield f"finetune.last_blocks: {finetune.last_blocks} of {blocks} blocks; choose fewer."
    if finetune.patch_drop and model.encoder == "mlp":
        yield "finetune.patch_drop: encoder mlp has no patches, so none can be left out; choose 0."
    if finetune.patch_drop and not 1 <= round(finetune.patch_drop * patches) < patches:
        yield (
            f"finetune.patch_drop: {finetune.patch_drop} of {patches} patches leaves out none or all; choose "
            "another fraction, or 0."
        )


def _model_problems(model: Model, image_size: int) -> Iterator[str]:
    cnn = model.encoder == "cnn"
    divisors = [size for size in range(MIN_PATCH, image_size // 2 + 1) if image_size % size == 0]
    sizes = [stride for stride in STRIDES if image_size % stride == 0] if cnn else divisors
    instead = f"choose {either(sizes)}" if sizes else "choose an image_size that is a multiple of 16"
    if image_size % model.patch_size:
        yield (
            f"model.patch_size: data.image_size {image_size} is not divisible by {model.patch_size}; "
            f"{instead}."
        )
    if cnn and model.network not in NETWORKS:
        yield f"model.network: {model.network} cannot be masked; choose {either(NETWORKS)}."
    if cnn and model.patch_size not in sizes:
        yield (f"model.patch_size: a cnn's is one of its strides that tile {image_size} pixels; {instead}.")


def _decoder_problems(model: Model, pretrain: Pretrain) -> Iterator[str]:
    possible = DECODERS[model.encoder]
    if pretrain.decoder not in possible:
        yield (
            f"pretrain.decoder: {pretrain.decoder} needs a token per patch, encoder {model.encoder} gives "
            f"one vector per image; choose {either(possible)}."
        )
    if pretrain.decoder == "cross":
        others = either([name for name in possible if name != "cross"])
        if pretrain.mask in PIXEL_MASKS:
            yield (
                f"pretrain.decoder: cross predicts hidden patches from visible ones, and the {pretrain.mask} "
                f"mask hides no whole patch; choose {others}."
            )
        if pretrain.loss_on == "all":
            yield (
                "pretrain.loss_on: decoder cross predicts hidden patches only; choose loss_on hidden, or "
                f"decoder {others}."
            )
    if pretrain.predict_ratio < 1 and (pretrain.loss_on == "all" or pretrain.mask in PIXEL_MASKS):
        yield (
            "pretrain.predict_ratio: only hidden patches can be left out; choose 1, or loss_on hidden "
            "with a mask over patches."
        )
    if pretrain.perceptual.weight and pretrain.perceptual.network == "ema" and model.encoder == "mlp":
        yield (
            "pretrain.perceptual.network: ema compares the features of places, encoder mlp has none; "
            "choose a timm network, or encoder vit or cnn."
        )


def _mask_problems(model: Model, pretrain: Pretrain, image_size: int, aligned: bool) -> Iterator[str]:
    mask = pretrain.mask
    side = image_size if mask in PIXEL_MASKS else image_size // model.patch_size
    ratios = pretrain.mask_parameters if mask == "ratio_curriculum" else {}
    ratios = {f"masks.ratio_curriculum.{key}": ratio for key, ratio in ratios.items()}
    for key, ratio in (ratios | {"mask_ratio": pretrain.mask_ratio}).items():
        if not 1 <= round(ratio * side * side) <= side * side - 1:
            yield (
                f"pretrain.{key}: {ratio} of {side * side} patches leaves none hidden or none visible; "
                "choose another ratio or a smaller patch."
            )
    if not _is_led(mask, model):
        guide = MASK_GUIDES[mask]
        others = [pretrain.model_copy(update={"mask": name}) for name in BLOCKS if _is_led(name, model)]
        possible = [
            each.mask for each in others if problem(model, each, None, image_size, aligned=aligned) is None
        ]
        yield (
            f"pretrain.mask: {mask} is led by {guide.replace('_', ' ')}, which takes encoder "
            f"{either(GUIDED[guide])}; with encoder {model.encoder} choose {either(possible)}."
        )
    if mask in REGION_MASKS and side < MIN_REGION_SIDE:
        yield (
            f"pretrain.mask: {mask} masks need {MIN_REGION_SIDE} x {MIN_REGION_SIDE} patches to tell regions "
            f"apart, there are {side} x {side}; choose a smaller patch."
        )
    if mask in REGION_MASKS and not aligned:
        yield (
            f"pretrain.mask: {mask} looks for face regions where the alignment puts them, data.align crop "
            "does not align; choose align landmarks, or another mask."
        )


def _is_led(mask: str, model: Model) -> bool:
    """Tell whether the encoder can lead a mask, or nothing has to."""
    return mask not in MASK_GUIDES or model.encoder in GUIDED[MASK_GUIDES[mask]]


def either(choices: Iterable[object]) -> str:
    """Return choices in words: "1, 2 or 3"."""
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last
