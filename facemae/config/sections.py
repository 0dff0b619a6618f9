"""What a section of settings keeps to, and the sections around the training: data, evaluation, the gallery.

Here are types and bounds; what a setting means stands beside it in config/defaults.yaml.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def expand_home(path: str) -> str:
    """Return a path, or name:path, with a leading `~` as the home folder, which no shell expands in YAML."""
    name, colon, rest = path.partition(":")
    if colon and rest.startswith("~"):
        return f"{name}:{Path(rest).expanduser()}"
    return str(Path(path).expanduser()) if path.startswith("~") else path


def distinct(values: list[Any]) -> list[Any]:
    """Return a list of which no two values are the same; a ValueError otherwise."""
    if len(set(values)) != len(values):
        raise ValueError(f"{values} names one twice; each must be different")
    return values


T = TypeVar("T")
Distinct = Annotated[list[T], AfterValidator(distinct)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
PathText = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]


class Section(BaseModel):
    """A frozen group of keys that refuses unknown ones, wrong types, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Baseline = Literal["pixels", "pca", "fisherfaces", "hog_lda", "random_weights", "dlib", "inception"]
BASELINES_FROM_LABELS = ("fisherfaces", "hog_lda")  # they learn from the labels that the runs learn from
BASELINES_WITHOUT_CHANCE = ("pixels", "pca", *BASELINES_FROM_LABELS, "dlib", "inception")
Occlusion = Literal["block", "sunglasses", "mask", "scarf", "hand", "left", "right"]
Light = Literal["exposure", "gamma", "side"]
AttributeTask = Literal["gender", "race", "age", "expression"]
ALL = "all"  # every run, where runs are named
RunNames = Distinct[Annotated[str, Field(min_length=1)]]


class Data(Section):
    """Where the faces come from and which are good enough."""

    labelled: PathText
    unlabelled: Distinct[PathText]
    tested: Distinct[PathText]
    raw_dir: PathText
    image_size: Annotated[int, Field(ge=32, le=448)]
    align: Literal["auto", "landmarks", "crop"]
    faces: Literal["auto", "largest", "central", "all"]
    min_score: Fraction
    max_skipped: Fraction


class Split(Section):
    """Which people are kept apart for evaluation."""

    pairs: str | None
    pair_folds: int | None
    rotations: Positive
    evaluation_fraction: OpenFraction
    folds: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    overlap: Literal["exclude", "stop"]
    hash_bits: Annotated[int, Field(ge=0, le=31)]
    embedder: PathText | None
    same_cosine: OpenFraction

    @model_validator(mode="after")
    def _folds_can_be_shared_out(self) -> Split:
        if self.pairs is None and self.rotations > self.folds:
            raise ValueError(f"rotations {self.rotations} are more than there are folds, {self.folds}")
        if self.pair_folds is not None and self.pairs is None:
            raise ValueError("pair_folds is about a list of pairs; name one under pairs, or set it to null")
        if self.pair_folds is not None and abs(self.pair_folds) < 2:
            raise ValueError(f"pair_folds {self.pair_folds} are too few: at least 2, or -2 for the last")
        return self


class Evaluate(Section):
    """How embeddings of unseen people are scored and compared."""

    far_targets: Distinct[OpenFraction]
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    level: Annotated[float, Field(gt=0.5, lt=1)]
    primary: Literal["roc_auc", "eer", "accuracy", "rank1"]
    against: RunNames
    equivalence: Annotated[float, Field(gt=0, le=0.5)]
    equivalence_years: Annotated[float, Field(gt=0)]
    mixed_precision: bool

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


class Robustness(Section):
    """How recognition holds on changed faces, with the threshold of unchanged ones."""

    runs: RunNames
    pairs: Annotated[int, Field(ge=20)]
    occlusions: Distinct[Occlusion]
    areas: Distinct[Annotated[float, Field(gt=0, le=0.7)]]
    lights: Distinct[Light]
    strengths: Distinct[Annotated[float, Field(gt=0, le=1)]]
    illumination: str | None


class LabelCurve(Section):
    """How accuracy grows with the number of labels."""

    runs: RunNames
    fractions: Distinct[OpenFraction]
    per_person: Distinct[Positive]
    subsets: Annotated[int, Field(ge=3)]


class Attributes(Section):
    """What else than identity a run's encoder tells."""

    runs: RunNames
    tasks: dict[AttributeTask, PathText]
    mode: Literal["probe", "full"]
    folds: Annotated[int, Field(ge=2)]
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

    url: Annotated[PathText, AfterValidator(_without_password)]
    retention_days: Annotated[int, Field(ge=1, le=1096)]
    false_match_rate: Annotated[float, Field(gt=0, lt=1)]
