"""The settings of what is trained: the encoder, its pretraining and its fine-tuning.

Here are types and bounds; what a setting means stands beside it in config/defaults.yaml.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from facemae.config.masks import Masks
from facemae.config.sections import Fraction, OpenFraction, PathText, Positive, Section

STRATEGIES = tuple(Masks.model_fields)
Method = Literal["mae", "simclr", "moco", "dino"]
METHODS: tuple[str, ...] = get_args(Method)
# Width, depth and heads of the sizes with a name: Touvron et al., DeiT, table 1; nano is ours.
SIZES = {"nano": (128, 8, 4), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}


def _known_strategy(name: str) -> str:
    if name == "adversarial":
        raise ValueError("the strategy adversarial is gone; choose another")
    if name not in STRATEGIES:
        close = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(STRATEGIES)}"
        raise ValueError(f"there is no strategy {name}, {hint}")
    return name


Strategy = Annotated[
    str, AfterValidator(_known_strategy), Field(json_schema_extra={"enum": list(STRATEGIES)})
]


# Twice the width and depth of the largest vision Transformer that this is meant for, and more.
Width = Annotated[int, Field(ge=4, le=4096, multiple_of=4)]
Depth = Annotated[int, Field(ge=1, le=64)]
Heads = Annotated[int, Field(ge=1, le=64)]


class Model(Section):
    """The encoder and the face embedding on top of it."""

    encoder: Literal["vit", "cnn", "mlp"]
    size: Literal["custom", "nano", "tiny", "small", "base"]
    patch_size: Annotated[int, Field(ge=1, le=448)]
    width: Width
    depth: Depth
    heads: Heads
    class_token: bool
    pool: Literal["mean", "class"]
    network: str
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    head: Literal["pooled", "flatten", "narrow"]
    embedding: Annotated[int, Field(ge=2, le=4096)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return width, depth and heads."""
        return SIZES.get(self.size, (self.width, self.depth, self.heads))

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.pool == "class" and not (self.class_token and self.encoder == "vit"):
            raise ValueError("pool class needs encoder vit with class_token true; use pool mean")
        return self


class Training(Section):
    """What every training stage has: length, batch and optimiser."""

    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]
    grad_accumulation: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    ema: Annotated[float, Field(ge=0, lt=1)]
    held_out: Annotated[float, Field(ge=0, lt=1)]
    validate_every: Annotated[int, Field(ge=0)]
    patience: Annotated[int, Field(ge=0)]
    log_every: Positive
    checkpoint_every: Positive

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Training:
        if self.batch_size % self.grad_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by grad_accumulation {self.grad_accumulation}"
            )
        if bool(self.held_out) != bool(self.validate_every):
            raise ValueError("held_out and validate_every go together: both above 0, or both 0")
        return self


class Perceptual(Section):
    """A loss on the features of a frozen network, beside the one on pixels."""

    weight: Annotated[float, Field(ge=0)]
    network: Annotated[str, Field(min_length=1)]
    weights: PathText | None

    @model_validator(mode="after")
    def _weights_are_named(self) -> Perceptual:
        if self.weight and (self.network == "ema") != (self.weights is None):
            raise ValueError("weights is the file of a timm network's weights; network ema takes null")
        return self


class Views(Section):
    """What contrastive methods learn from: two changed views of each face."""

    crop_min: Annotated[float, Field(gt=0, le=1)]
    brightness: Fraction
    grey: Fraction
    hidden: Positive
    projection: Annotated[int, Field(ge=2)]
    temperature: Annotated[float, Field(gt=0)]
    teacher_temperature: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]


class Pretrain(Training):
    """Pretraining without labels: a masked autoencoder, or a contrastive method."""

    method: Method
    views: Views | None
    mask: Strategy
    mask_ratio: OpenFraction
    masks: Masks
    init: PathText | None
    crop_min: Annotated[float, Field(gt=0, le=1)]
    brightness: Fraction
    grey: Fraction
    decoder: Literal["transformer", "cross", "deconv", "mlp"]
    decoder_width: Width
    decoder_depth: Depth
    decoder_heads: Heads
    predict_ratio: Annotated[float, Field(gt=0, le=1)]
    loss: Literal["mse", "l1"]
    loss_on: Literal["hidden", "all"]
    normalise_target: bool
    perceptual: Perceptual
    teacher_decay: Annotated[float, Field(ge=0, lt=1)]
    probe: bool

    @model_validator(mode="after")
    def _consistent(self) -> Pretrain:
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is not divisible by decoder_heads {self.decoder_heads}"
            )
        if getattr(self.masks, self.mask) is None:
            raise ValueError(f"masks.{self.mask}: this key is missing; copy it from config/defaults.yaml")
        if self.method != "mae" and self.views is None:
            raise ValueError(f"views: method {self.method} takes them; copy them from config/defaults.yaml")
        return self

    @property
    def compared_views(self) -> Views:
        """Return how a contrastive method's views are made; settings without them are refused for it."""
        assert self.views is not None
        return self.views

    @property
    def augmentation(self) -> dict[str, float]:
        """Return how faces are augmented, a contrastive method's views among them."""
        changed = self if self.method == "mae" else self.compared_views
        return {name: getattr(changed, name) for name in ("crop_min", "brightness", "grey")}

    @property
    def mask_parameters(self) -> dict[str, Any]:
        """Return the parameters of the run's own strategy."""
        return self.masks.parameters(self.mask)


class Labels(Section):
    """How many of the training people's faces are used with their labels."""

    fraction: Annotated[float, Field(gt=0, le=1)]
    per_person: Annotated[int, Field(ge=0)]
    min_per_person: Positive
    subset: Annotated[int, Field(ge=0)]


class Finetune(Training):
    """Fine-tuning for identity: supervised, or by a teacher."""

    init: PathText | None
    mode: Literal["full", "partial", "lora", "probe", "knn"]
    last_blocks: Positive
    lora_rank: Positive
    teacher: str | None
    teacher_apart: Annotated[float, Field(gt=0, le=1)]
    labels: Labels
    loss: Literal["cosface", "arcface", "adaface", "subcenter", "softmax"]
    margin: Annotated[float, Field(ge=0, le=1)]
    scale: Annotated[float, Field(gt=0)] | Literal["auto"]
    margin_warmup_fraction: Annotated[float, Field(ge=0, le=1)]
    subcenters: Positive
    whiten: bool
    head_steps: Annotated[int, Field(ge=0)]
    patch_drop: Annotated[float, Field(ge=0, lt=1)]
    patch_drop_until: Fraction
    erasing: Fraction
    low_resolution: Fraction
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    shift: Annotated[float, Field(ge=0, le=0.25)]
    scale_jitter: Annotated[float, Field(ge=0, le=0.5)]
    rotation: Annotated[float, Field(ge=0, le=45)]
    brightness: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _parts_can_be_normalised(self) -> Finetune:
        if self.batch_size < 2 * self.grad_accumulation:  # batch normalisation takes two
            raise ValueError(
                f"grad_accumulation {self.grad_accumulation} of batch_size {self.batch_size} leaves one face "
                "in a part"
            )
        return self


# Settings of the pretraining that only the masked autoencoder has.
_OF_A_MASK = (
    "mask", "mask_ratio", "masks", "decoder", "decoder_width", "decoder_depth", "decoder_heads",
    "predict_ratio", "loss", "loss_on", "normalise_target", "perceptual", "teacher_decay", "crop_min",
    "brightness", "grey",
)  # fmt: skip


class Run(Section):
    """One run, whole: a strategy, or a control, with everything that trains it."""

    model: Model
    pretrain: Pretrain | None
    finetune: Finetune

    @model_validator(mode="after")
    def _one_start(self) -> Run:
        if self.pretrain is not None and self.finetune.init is not None:
            raise ValueError(
                f"finetune.init {self.finetune.init} is for a run without pretraining; set pretrain to null, "
                "or start the pretraining from it with pretrain.init"
            )
        return self

    def shaping(self) -> dict[str, Any]:
        """Return the settings that shape the run: not, say, the parameters of strategies it does not use."""
        settings = self.model_dump()
        if self.finetune.init is None:
            del settings["finetune"]["init"]
        if self.finetune.teacher is None:
            del settings["finetune"]["teacher"], settings["finetune"]["teacher_apart"]
        if self.pretrain:
            mask, pretrain = self.pretrain.mask, settings["pretrain"]
            pretrain["masks"] = {mask: pretrain["masks"][mask]}
            if self.pretrain.method == "mae":
                pretrain["views"] = None
            else:
                pretrain = {name: value for name, value in pretrain.items() if name not in _OF_A_MASK}
            settings["pretrain"] = pretrain
        return settings

    @property
    def masked(self) -> Pretrain | None:
        """Return the settings of the masked autoencoder, or None for a run without one."""
        return self.pretrain if self.pretrain and self.pretrain.method == "mae" else None

    @property
    def strategy(self) -> str:
        """Return the masking strategy, the contrastive method, the weights started from, or "none"."""
        if self.pretrain is None:
            return Path(self.finetune.init).stem if self.finetune.init else "none"
        return self.pretrain.mask if self.pretrain.method == "mae" else self.pretrain.method

    @property
    def mask_ratio(self) -> float | None:
        """Return the fraction of hidden patches, or None for a run without masks."""
        return self.masked.mask_ratio if self.masked else None
