"""The experiment as typed, validated values: `config.yaml` in, frozen sections out.

A run is only its differences from `defaults`; `Experiment.run(name)` returns it whole. The code
holds no default value: every key stands, commented, in the shipped `config.yaml`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import parse_qs, urlsplit

import yaml
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from facemae.config import compatibility
from facemae.config.masks import Masks
from facemae.config.section import OpenShare, Positive, Section, Share
from facemae.core.errors import UsageError

STRATEGIES = tuple(Masks.model_fields)
METHODS = ("mae", "simclr", "moco", "dino")
Method = Literal["mae", "simclr", "moco", "dino"]
Baseline = Literal["pixels", "pca", "fisherfaces", "hog_lda", "random_weights", "dlib", "inception"]
BASELINES_FROM_LABELS = ("fisherfaces", "hog_lda")  # they learn from the labels that the runs learn from
BASELINES_WITHOUT_CHANCE = ("pixels", "pca", *BASELINES_FROM_LABELS, "dlib", "inception")
Occlusion = Literal["block", "sunglasses", "mask", "scarf", "hand", "left", "right"]
Light = Literal["exposure", "gamma", "side"]
AttributeTask = Literal["gender", "race", "age", "expression"]
ALL = "all"  # every run, where runs are named
RESERVED_RUN_NAMES = ("data", "report", ALL, *get_args(Baseline))
STDIN = Path("-")
# Width, depth and heads of the sizes with a name: Touvron et al., DeiT, table 1; nano is ours.
SIZES = {"nano": (128, 8, 4), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
RunName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


def _known_strategy(name: str) -> str:
    if name not in STRATEGIES:
        close = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(STRATEGIES)}"
        raise ValueError(f"there is no strategy {name}, {hint}")
    return name


Strategy = Annotated[
    str, AfterValidator(_known_strategy), Field(json_schema_extra={"enum": list(STRATEGIES)})
]
SourceText = Annotated[str, Field(min_length=1)]


class Data(Section):
    """Where the faces come from and which are good enough."""

    labelled: SourceText
    """A data set's name, `name:path`, or a folder or archive of `person/photo.jpg`."""
    unlabelled: list[SourceText]
    """Data sets, folders and archives used for pretraining only."""
    tested: list[SourceText]
    """Data sets, folders and archives that nothing trains on: tests of light, expression or other people."""
    raw_dir: Annotated[str, Field(min_length=1)]
    """Folder with the archives of the named data sets, and where downloads go."""
    image_size: Annotated[int, Field(ge=32, le=448)]
    """Side of an aligned face in pixels."""
    align: Literal["auto", "landmarks", "crop"]
    """Find the face and warp it, or take photos that are faces already; `auto`: as each source is known."""
    faces: Literal["auto", "largest", "central", "all"]
    """Which face of a photo; `auto`: as each source is known, `all`: every one where no person is named."""
    min_score: Share
    """Least detector confidence of an accepted face."""
    max_skipped: Share
    """Share of photos that may be unusable before the run stops."""


class Split(Section):
    """Which people are kept apart for evaluation."""

    pairs: str | None
    """A source's list of pairs, such as lfw-view2, whose people are evaluated on; null: people are drawn."""
    pair_folds: Annotated[int, Field(ge=2)] | None
    """How many of the list's folds are evaluated on, its first; the people of the others train. null: all."""
    rotations: Positive
    """1: nothing trains on an evaluation person; more: each run is fine-tuned so many times, each time with
    the evaluation people of all but one group of folds, on which it is then evaluated."""
    evaluation_share: OpenShare
    """Share of the people evaluated on, where they are drawn."""
    folds: Annotated[int, Field(ge=2)]
    """Folds of evaluation people; a fold's threshold comes from the other folds."""
    seed: Annotated[int, Field(ge=0)]
    overlap: Literal["exclude", "stop"]
    """What to do with training photos that show an evaluation photo or person again."""
    hash_bits: Annotated[int, Field(ge=0, le=31)]
    """Most of 256 bits in which the perceptual hashes of near-duplicates differ."""
    embedder: str | None
    """Folder of a `finetune` stage whose embeddings also tell near-duplicates; null: none."""
    same_cosine: OpenShare
    """Least cosine similarity at which two embeddings are taken for near-duplicates."""

    @model_validator(mode="after")
    def _folds_can_be_shared_out(self) -> Split:
        if self.pairs is None and self.rotations > self.folds:
            raise ValueError(f"rotations {self.rotations} are more than there are folds, {self.folds}")
        if self.pair_folds is not None and self.pairs is None:
            raise ValueError("pair_folds is about a list of pairs; name one under pairs, or set it to null")
        return self


# Twice the width and depth of the largest vision Transformer that this is meant for, and more.
Width = Annotated[int, Field(ge=4, le=4096, multiple_of=4)]
Depth = Annotated[int, Field(ge=1, le=64)]
Heads = Annotated[int, Field(ge=1, le=64)]


class Model(Section):
    """The encoder and the face embedding on top of it."""

    encoder: Literal["vit", "cnn", "mlp"]
    """Vision Transformer, masked convolutions, or the pixel autoencoder's fully connected layers."""
    size: Literal["custom", "nano", "tiny", "small", "base"]
    """Width, depth and heads by name (`SIZES`); `custom` takes the three below."""
    patch_size: Annotated[int, Field(ge=1, le=448)]
    """Side of a patch in pixels; of a cnn also the stride of its last stage."""
    width: Width
    depth: Depth
    heads: Heads
    class_token: bool
    pool: Literal["mean", "class"]
    """What becomes the embedding: the mean of the patch tokens, or the class token."""
    network: str
    """timm's name of the cnn."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth rate of the last block while fine-tuning."""
    head: Literal["pooled", "flatten"]
    """What the embedding is made from: the pooled token, or all tokens side by side (for large data)."""
    embedding: Annotated[int, Field(ge=2, le=4096)]
    """Dimensions of the face embedding."""

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
    accumulate: Positive
    """Parts that a batch is computed in, one after the other, to fit into memory."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Peak rate of AdamW, at this batch size."""
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_share: Annotated[float, Field(ge=0, lt=1)]
    """Share of the steps over which the rate rises linearly."""
    clip_norm: Annotated[float, Field(gt=0)]
    """Largest L2 norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of the averaged weights, which become the result; 0: the last weights do."""
    log_every: Positive
    checkpoint_every: Positive

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Training:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}")
        return self


class Perceptual(Section):
    """A loss on the features of a frozen network, beside the one on pixels."""

    weight: Annotated[float, Field(ge=0)]
    """Of this loss against the pixels' 1; 0: none."""
    network: Annotated[str, Field(min_length=1)]
    """`ema`: the run's own averaged encoder; else timm's name of a model."""
    weights: str | None
    """File of that timm model's weights."""

    @model_validator(mode="after")
    def _weights_are_named(self) -> Perceptual:
        if self.weight and (self.network == "ema") != (self.weights is None):
            raise ValueError("weights is the file of a timm network's weights; network ema takes null")
        return self


class Views(Section):
    """What the rivals of the masked autoencoder learn from: two changed views of each face."""

    crop_least: Annotated[float, Field(gt=0, le=1)]
    """Least share of the area that a view keeps."""
    brightness: Share
    """Largest relative change of brightness and of contrast."""
    grey: Share
    """Share of the views without colour."""
    hidden: Positive
    """Width of the projection head's hidden layers."""
    projection: Annotated[int, Field(ge=2)]
    """Dimensions that views are compared in; of dino the number of prototypes."""
    temperature: Annotated[float, Field(gt=0)]
    """Of the softmax over similarities; of dino the student's."""
    teacher_temperature: Annotated[float, Field(gt=0)]
    """Of dino's teacher."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of the averaged encoder that moco and dino compare with."""


class Pretrain(Training):
    """Pretraining without labels: a masked autoencoder, or one of its rivals."""

    method: Method
    """mae, or a rival that compares views: everything about masks and decoders is mae's."""
    views: Views | None
    """Null where nothing compares views."""
    mask: Strategy
    mask_ratio: OpenShare
    """Share of the patches hidden from the encoder."""
    masks: Masks
    """Each strategy's own parameters."""
    init: str | None
    """File of weights to start the encoder from; null: random ones."""
    crop_least: Annotated[float, Field(gt=0, le=1)]
    """Least share of the area that a random crop keeps; 1: no crops, faces are mirrored only."""
    brightness: Share
    """Largest relative change of brightness and of contrast; 0: none."""
    grey: Share
    """Share of the faces without colour."""
    decoder: Literal["transformer", "cross", "deconv", "mlp"]
    decoder_width: Width
    decoder_depth: Depth
    decoder_heads: Heads
    predict_ratio: Annotated[float, Field(gt=0, le=1)]
    """Share of all patches that are predicted, if fewer than are hidden; 1: every hidden one."""
    loss: Literal["mse", "l1"]
    loss_on: Literal["hidden", "all"]
    normalise_target: bool
    """Predict pixels normalised per patch instead of raw ones."""
    perceptual: Perceptual
    teacher_decay: Annotated[float, Field(ge=0, lt=1)]
    """Decay per step of the averaged copies that guided masks and the perceptual loss look at."""
    held_out: Annotated[float, Field(ge=0, lt=1)]
    """Share of the faces that are kept to validate on."""
    validate_every: Annotated[int, Field(ge=0)]
    """Steps between two validations; the best weights become the result. 0: never."""
    patience: Annotated[int, Field(ge=0)]
    """Validations without a better one after which the training stops; 0: it never does."""
    probe: bool
    """Whether each validation also tries how well the encoder, frozen, tells the training people apart."""

    @model_validator(mode="after")
    def _consistent(self) -> Pretrain:
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is not divisible by decoder_heads {self.decoder_heads}"
            )
        if getattr(self.masks, self.mask) is None:
            raise ValueError(f"masks.{self.mask}: this key is missing; copy it from the shipped config.yaml")
        if bool(self.held_out) != bool(self.validate_every):
            raise ValueError("held_out and validate_every go together: both above 0, or both 0")
        if self.method != "mae" and self.views is None:
            raise ValueError(f"views: method {self.method} compares views; copy them from config.yaml")
        return self

    @property
    def compared_views(self) -> Views:
        """Return how a rival's views are made; settings without them are refused for it."""
        assert self.views is not None
        return self.views

    @property
    def augmentation(self) -> dict[str, float]:
        """Return how faces are changed before they are learnt from, a rival's views among them."""
        changed = self if self.method == "mae" else self.compared_views
        return {name: getattr(changed, name) for name in ("crop_least", "brightness", "grey")}

    @property
    def mask_parameters(self) -> dict[str, Any]:
        """Return the parameters of the run's own strategy."""
        return self.masks.parameters(self.mask)


class Labels(Section):
    """How many of the training people's faces are used with their labels."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the labelled faces that are used."""
    per_person: Annotated[int, Field(ge=0)]
    """Most faces of a person; 0: all."""
    at_least: Positive
    """People with fewer faces are left out."""
    subset: Annotated[int, Field(ge=0)]
    """Which random subset."""


class Finetune(Training):
    """Supervised fine-tuning for identity."""

    mode: Literal["full", "partial", "lora", "probe", "knn"]
    """What is trained: all, the last blocks, low-rank changes of attention, the head, or nothing."""
    last_blocks: Positive
    """Of mode partial: blocks trained, from the last one back."""
    lora_rank: Positive
    """Of mode lora: rank of the change of each query and value matrix."""
    labels: Labels
    loss: Literal["cosface", "arcface", "adaface", "subcenter", "softmax"]
    margin: Annotated[float, Field(ge=0, le=1)]
    """Subtracted from the cosine (cosface, adaface) or added to the angle in radians (arcface, subcenter)."""
    scale: Annotated[float, Field(gt=0)] | Literal["auto"]
    """Factor on the cosines; auto: from the number of people."""
    margin_warmup_share: Annotated[float, Field(ge=0, le=1)]
    """Share of the steps over which the margin rises linearly from 0."""
    subcenters: Positive
    """Of loss subcenter: vectors per person."""
    people_per_step: Annotated[float, Field(gt=0, le=1)]
    """Share of the people that a step's loss is taken over, those in the batch among them; 1: all."""
    head_steps: Annotated[int, Field(ge=0)]
    """First steps that train the head alone."""
    held_out: Annotated[float, Field(ge=0, lt=1)]
    """Share of the training people that are kept to validate on."""
    validate_every: Annotated[int, Field(ge=0)]
    """Steps between two validations; the best weights become the result. 0: never."""
    patience: Annotated[int, Field(ge=0)]
    """Validations without a better one after which the training stops; 0: it never does."""
    patch_drop: Annotated[float, Field(ge=0, lt=1)]
    """Share of the patches hidden from the encoder at each step: the cheap rival of masked pretraining."""
    patch_drop_until: Share
    """Share of the steps after which no patch is hidden any more."""
    erasing: Share
    """Share of the faces with a random rectangle erased: the other cheap rival."""
    low_resolution: Share
    """Share of the faces that are made coarse."""
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    """Factor on the learning rate per block, from the head down to the patches."""
    shift: Annotated[float, Field(ge=0, le=0.25)]
    """Largest random shift, as a share of the side."""
    scale_jitter: Annotated[float, Field(ge=0, le=0.5)]
    """Largest random change of scale."""
    rotation: Annotated[float, Field(ge=0, le=45)]
    """Largest random rotation in degrees."""
    brightness: Annotated[float, Field(ge=0, le=1)]
    """Largest random relative change of brightness and of contrast."""

    @model_validator(mode="after")
    def _parts_can_be_normalised(self) -> Finetune:
        if self.batch_size < 2 * self.accumulate:  # a batch normalisation takes two to have a deviation
            raise ValueError(
                f"accumulate {self.accumulate} of batch_size {self.batch_size} leaves one face a part"
            )
        return self

    @model_validator(mode="after")
    def _validates_on_somebody(self) -> Finetune:
        if bool(self.held_out) != bool(self.validate_every):
            raise ValueError("held_out and validate_every go together: both above 0, or both 0")
        return self


# Settings of the pretraining that only the masked autoencoder has.
_OF_A_MASK = (
    "mask", "mask_ratio", "masks", "decoder", "decoder_width", "decoder_depth", "decoder_heads",
    "predict_ratio", "loss", "loss_on", "normalise_target", "perceptual", "teacher_decay", "crop_least",
    "brightness", "grey",
)  # fmt: skip


class Run(Section):
    """One run, whole: a strategy, or a control, with everything that trains it."""

    model: Model
    pretrain: Pretrain | None
    """`null`: no pretraining, the run fine-tunes from scratch."""
    finetune: Finetune

    def shaping(self) -> dict[str, Any]:
        """Return the settings that shape the run: all but the parameters of strategies it does not use."""
        settings = self.model_dump()
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
        """Return the masking strategy, the rival's name, or "none" for a run without pretraining."""
        if self.pretrain is None:
            return "none"
        return self.pretrain.mask if self.pretrain.method == "mae" else self.pretrain.method

    @property
    def mask_ratio(self) -> float | None:
        """Return the share of hidden patches, or None for a run without masks."""
        return self.masked.mask_ratio if self.masked else None


class Evaluate(Section):
    """How embeddings of unseen people are scored and compared."""

    far_targets: list[OpenShare]
    """False accept rates at which the true accept rate is wanted."""
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    """Bootstrap resamples of the evaluation people."""
    level: Annotated[float, Field(gt=0.5, lt=1)]
    """Confidence level of the intervals; 1 - level is the family-wise error of the verdicts."""
    primary: Literal["roc_auc", "eer", "accuracy", "rank1"]
    """The metric of the headline verdict."""
    against: list[Annotated[str, Field(min_length=1)]]
    """Runs that every masked one is held against by `primary`: the family of comparisons that decides."""
    equivalence: Annotated[float, Field(gt=0, le=0.5)]
    """Two runs are equivalent where the interval of their difference lies within this; of shares, 0 to 1."""
    equivalence_years: Annotated[float, Field(gt=0)]
    """The same of an error in years."""
    mixed_precision: bool
    """Compare runs whose trainings computed in different precision."""

    def margin(self, metric: str) -> float:
        """Return within which difference two runs are equivalent, in the metric's own unit."""
        return self.equivalence_years if metric == "age_error" else self.equivalence

    @model_validator(mode="after")
    def _enough_resamples(self) -> Evaluate:
        needed = math.ceil(round(2 / (1 - self.level), 6))
        if self.resamples < needed:
            raise ValueError(
                f"an interval at level {self.level} takes {needed} resamples, got {self.resamples}"
            )
        return self


RunNames = list[Annotated[str, Field(min_length=1)]]


class Robustness(Section):
    """How recognition holds on changed faces, with the threshold of unchanged ones."""

    runs: RunNames
    """Runs and baselines that are tested; [all] is every one."""
    pairs: Annotated[int, Field(ge=20)]
    """Most pairs that the curves are taken on, half of them genuine."""
    occlusions: list[Occlusion]
    areas: list[Annotated[float, Field(gt=0, le=0.7)]]
    """Shares of the face that are covered."""
    lights: list[Light]
    strengths: list[Annotated[float, Field(gt=0, le=1)]]
    """How far a light goes: 1 is the most."""
    illumination: str | None
    """Tested source with light angles, such as yaleb; null: none."""


class LabelCurve(Section):
    """How accuracy grows with the number of labels."""

    runs: RunNames
    """Runs that are tested; [all] is every one."""
    shares: list[OpenShare]
    """Shares of the labelled faces."""
    per_person: list[Positive]
    """Most faces of a person."""
    subsets: Annotated[int, Field(ge=3)]
    """Random subsets of each size."""


class Attributes(Section):
    """What else than identity a run's encoder tells."""

    runs: RunNames
    """Runs that are tested; [all] is every one."""
    tasks: dict[AttributeTask, SourceText]
    """Each task's source, which has to be among the configuration's."""
    mode: Literal["probe", "full"]
    """Train the heads on the frozen encoder, or the encoder with them."""
    folds: Annotated[int, Field(ge=2)]
    """Folds of people; each is tested with what the others were trained on."""
    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: Annotated[float, Field(gt=0)]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ValueError(
            "the address holds a password, which would be copied into the results; leave it out and set "
            "PGPASSWORD"
        )
    return url


class GallerySettings(Section):
    """Where the people enrolled for recognition are kept, and how recognition decides."""

    url: Annotated[str, Field(min_length=1), AfterValidator(_without_password)]
    """A file, for SQLite, or the address of a PostgreSQL database with pgvector."""
    retention_days: Annotated[int, Field(ge=1, le=1096)]
    """Days after which a person is deleted, unless enrolment says otherwise; three years at most."""
    false_match_rate: Annotated[float, Field(gt=0, lt=1)]
    """Share of comparisons of two people that may be taken for one person: it sets the threshold."""


class Experiment(Section):
    """Everything in `config.yaml`."""

    results: Annotated[str, Field(min_length=1)]
    """Folder that all results are written to."""
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "on", "off"]
    """Compile the masked autoencoder before it is trained; `auto`: on a GPU."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    data: Data
    split: Split
    defaults: Run
    runs: Annotated[dict[RunName, dict[str, Any] | None], Field(min_length=1)]
    """Each run's differences from `defaults`; `null` drops a run that another file named."""
    baselines: list[Baseline]
    """Controls that train no network, scored in the same table."""
    evaluate: Evaluate
    robustness: Robustness
    label_curve: LabelCurve
    attributes: Attributes
    gallery: GallerySettings

    def run(self, name: str) -> Run:
        """Return run `name` with the defaults filled in.

        Raises:
            UsageError: there is no such run.
        """
        differences = self.runs.get(name)
        if differences is None:
            raise UsageError(
                f"runs.{name}: there is no such run; config.yaml has {', '.join(self.run_names)}."
            )
        return _validate(Run, merge(self.defaults.model_dump(), differences), f"runs.{name}")

    def check_name(self, name: str) -> None:
        """Stop unless `name` is a run or a baseline.

        Raises:
            UsageError: it is neither.
        """
        if name not in self.baselines:
            self.run(name)

    @property
    def run_names(self) -> list[str]:
        """Return the names of the runs, in the order of the file."""
        return [name for name, differences in self.runs.items() if differences is not None]

    @property
    def names(self) -> list[str]:
        """Return the names of the runs and baselines."""
        return [*self.run_names, *self.baselines]

    def chosen(self, runs: list[str]) -> list[str]:
        """Return the runs and baselines that a list names, where [all] is every one."""
        return self.names if runs == [ALL] else list(runs)

    @property
    def controls(self) -> list[str]:
        """Return the runs that `evaluate.against` names, without those that another file dropped."""
        return [name for name in self.evaluate.against if name in self.run_names]

    @property
    def primary_pairs(self) -> list[tuple[str, str]]:
        """Return the comparisons that decide, each once: a masked run and the run it is held against."""
        masked = [name for name in self.run_names if self.run(name).masked]
        pairs = [(run, control) for control in self.controls for run in masked if run != control]
        return [pair for place, pair in enumerate(pairs) if pair[::-1] not in pairs[:place]]

    def seeds_of(self, name: str) -> list[int]:
        """Return the seeds of a run or baseline; a baseline without chance has one."""
        return self.seeds[:1] if name in BASELINES_WITHOUT_CHANCE else self.seeds

    def embedding_stage(self, name: str) -> str:
        """Return the stage that embeds the evaluation people with a run or baseline."""
        return "embed" if name in self.baselines else "finetune"

    def label_seed(self, subset: int) -> int:
        """Return the seed that a subset of the labels is trained with: they take turns."""
        return self.seeds[subset % len(self.seeds)]

    @property
    def dataset(self) -> str:
        """Return the name of the labelled data set: its own, or its folder's."""
        name, _, path = self.data.labelled.partition(":")
        return name if path and "/" not in name else Path(self.data.labelled).absolute().name


def load(paths: Iterable[Path]) -> Experiment:
    """Read one or more YAML files ("-" is standard input), later ones over earlier ones, and check them.

    Raises:
        UsageError: a file cannot be read, or a key is unknown, missing, mistyped or impossible.
    """
    content: dict[str, Any] = {}
    for path in paths:
        content = merge(content, _read_yaml(path))
    return parse(content)


def parse(content: Mapping[str, Any]) -> Experiment:
    """Check the content of a configuration, every run included.

    Raises:
        UsageError: one sentence that begins with the YAML path of the first problem.
    """
    experiment = _validate(Experiment, content, "")
    _check_unique(experiment)
    if "random_weights" in experiment.baselines:
        _check_together(experiment, experiment.defaults, "defaults")
    if not experiment.run_names:
        raise UsageError("runs: every run is null; keep at least one.")
    for name in experiment.run_names:
        _check_run(experiment, name)
    _check_chosen(experiment)
    _check_against(experiment)
    return experiment


def merge(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `difference` laid over it, section by section.

    A section over `null` (or `null` over a section) replaces it whole.
    """
    merged = dict(base)
    for key, value in difference.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of `config.yaml`, generated from the types above."""
    schema = Experiment.model_json_schema()
    definitions = schema["$defs"]
    for name in _reached(definitions, "Run"):  # a run need not name every key
        partial = {key: value for key, value in definitions[name].items() if key != "required"}
        definitions[f"Partial{name}"] = json.loads(json.dumps(partial).replace("#/$defs/", "#/$defs/Partial"))
    schema["properties"]["runs"]["patternProperties"] = {
        RunName.__metadata__[0].pattern: {"anyOf": [{"$ref": "#/$defs/PartialRun"}, {"type": "null"}]}  # type: ignore[attr-defined]
    }
    schema["properties"]["runs"]["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _reached(definitions: Mapping[str, Any], name: str) -> list[str]:
    """Return the definitions that one refers to, itself first."""
    names = [name]
    for each in names:
        found = re.findall(r"#/\$defs/(\w+)", json.dumps(definitions[each]))
        names += [other for other in dict.fromkeys(found) if other not in names]
    return names


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that is given twice where YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice[0]} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8")
        content = _UniqueKeys(text).get_single_data()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file; give another one with --config.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: this is not a readable YAML file ({reason}).") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: the file holds no keys; start from a copy of config.yaml.")
    return content


S = TypeVar("S", bound=Section)


def _validate(section: type[S], content: Mapping[str, Any], where: str) -> S:
    try:
        # Through JSON, since YAML's types are JSON's and pydantic is strict about Python's own.
        return section.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise UsageError(_sentence(error, section, where)) from error
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where or 'config.yaml'}: not plain YAML values ({error}).") from error


def _sentence(error: ValidationError, section: type[Section], where: str) -> str:
    problems = error.errors()
    first = problems[0]
    path = ".".join([part for part in (where, *_keys(first["loc"])) if part])
    others = len({_keys(each["loc"]) for each in problems}) - 1
    more = f" ({others} more after this one)" if others else ""
    return f"{path or 'config.yaml'}: {_reason(first, section)}{more}."


def _keys(location: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the keys on the way to a problem, without the names that pydantic gives to kinds of a value."""
    return tuple(part for part in map(str, location) if not re.search(r"^\[key\]$|^literal\[|-float$", part))


def _reason(problem: Any, section: type[Section]) -> str:
    if problem["type"] == "extra_forbidden":
        known = _keys_at(section, problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return "unknown key, " + (f"did you mean {close[0]}" if close else f"known are {', '.join(known)}")
    if problem["type"] == "missing":
        return "this key is missing; copy it from the shipped config.yaml"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if problem["type"] == "value_error" or isinstance(value, dict):
        return str(message)
    hint = (
        ", write it as a plain number such as 0.001" if isinstance(value, str) and _is_number(value) else ""
    )
    return f"{message[0].lower()}{message[1:]}, got {json.dumps(value)}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _keys_at(section: type[Section], location: tuple[Any, ...]) -> list[str]:
    current: Any = section
    for part in location:
        annotation = current.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        current = next(o for o in options if isinstance(o, type) and issubclass(o, Section))
    return list(current.model_fields)


def _check_unique(experiment: Experiment) -> None:
    lists: dict[str, list[Any]] = {
        "seeds": experiment.seeds,
        "baselines": experiment.baselines,
        "evaluate.far_targets": experiment.evaluate.far_targets,
        "evaluate.against": experiment.evaluate.against,
        "data.unlabelled": experiment.data.unlabelled,
        "data.tested": experiment.data.tested,
        "robustness.runs": experiment.robustness.runs,
        "robustness.occlusions": experiment.robustness.occlusions,
        "robustness.areas": experiment.robustness.areas,
        "robustness.lights": experiment.robustness.lights,
        "robustness.strengths": experiment.robustness.strengths,
        "label_curve.runs": experiment.label_curve.runs,
        "label_curve.shares": experiment.label_curve.shares,
        "label_curve.per_person": experiment.label_curve.per_person,
        "attributes.runs": experiment.attributes.runs,
    }
    for path, values in lists.items():
        if len(set(values)) != len(values):
            raise UsageError(f"{path}: {values} names one twice; each must be different.")


def _check_chosen(experiment: Experiment) -> None:
    """Refuse names of runs that are none."""
    trained = experiment.run_names
    lists = {
        "robustness.runs": (experiment.robustness.runs, experiment.names),
        "label_curve.runs": (experiment.label_curve.runs, trained),
        "attributes.runs": (experiment.attributes.runs, trained),
    }
    for path, (named, known) in lists.items():
        for name in named:
            if name not in known and named != [ALL]:
                raise UsageError(f"{path}: there is no run {name}; known are {', '.join(known)}, or [all].")
    for name in trained if experiment.label_curve.runs == [ALL] else experiment.label_curve.runs:
        own = experiment.run(name).finetune
        if own.mode == "knn" or own.labels.share < 1 or own.labels.per_person:
            raise UsageError(
                f"label_curve.runs: {name} is by itself fine-tuned on no labels, or on fewer than there are; "
                "leave it out."
            )
    robustness, attributes = experiment.robustness, experiment.attributes
    lit = robustness.illumination
    tested = (
        (robustness.occlusions and robustness.areas) or (robustness.lights and robustness.strengths) or lit
    )
    if robustness.runs and not tested:
        raise UsageError("robustness.runs: nothing is tested; name occlusions with areas, or lights, or [].")
    if attributes.runs and not attributes.tasks:
        raise UsageError(
            "attributes.runs: attributes.tasks names nothing to tell; name a task, or no run: []."
        )
    if lit is not None and lit not in experiment.data.tested:
        raise UsageError(
            f"robustness.illumination: {lit} is not among data.tested ({', '.join(experiment.data.tested)}); "
            "name it there, or set illumination to null."
        )
    for task, source in experiment.attributes.tasks.items():
        data = (experiment.data.labelled, *experiment.data.unlabelled, *experiment.data.tested)
        if source not in data:
            raise UsageError(
                f"attributes.tasks.{task}: {source} is not among the data ({', '.join(data)}); name it under "
                "data.tested."
            )


def _check_against(experiment: Experiment) -> None:
    """Refuse names that are no runs; one that another file dropped with null is left out in silence."""
    for name in experiment.evaluate.against:
        if name not in experiment.runs:
            raise UsageError(
                f"evaluate.against: there is no run {name} to hold masked runs against; known are "
                f"{', '.join(experiment.run_names)}."
            )


def _check_run(experiment: Experiment, name: str) -> None:
    if name in RESERVED_RUN_NAMES:
        raise UsageError(
            f"runs.{name}: this name is taken ({', '.join(RESERVED_RUN_NAMES)}); choose another."
        )
    _check_together(experiment, experiment.run(name), f"runs.{name}")


def _check_together(experiment: Experiment, run: Run, where: str) -> None:
    aligned = experiment.data.align != "crop"
    size = experiment.data.image_size
    found = compatibility.problem(run.model, run.pretrain, size, aligned=aligned)
    found = found or compatibility.finetune_problem(run.model, run.finetune, size)
    if found:
        raise UsageError(f"{where}.{found}")
