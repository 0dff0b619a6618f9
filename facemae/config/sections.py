"""The settings of everything around the training: data, evaluation and the gallery."""

from __future__ import annotations

import math
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, model_validator

from facemae.config.section import Distinct, Fraction, OpenFraction, PathText, Positive, Section

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
    """A data set's name, `name:path`, or a folder or archive of `person/photo.jpg`."""
    unlabelled: Distinct[PathText]
    """Data sets, folders and archives used for pretraining only."""
    tested: Distinct[PathText]
    """Data sets, folders and archives that nothing trains on: tests of light, expression or other people."""
    raw_dir: PathText
    """Folder with the archives of the named data sets, and where downloads go."""
    image_size: Annotated[int, Field(ge=32, le=448)]
    """Side of an aligned face in pixels."""
    align: Literal["auto", "landmarks", "crop"]
    """Find the face and warp it, or take photos that are faces already; `auto`: as each source is known."""
    faces: Literal["auto", "largest", "central", "all"]
    """Which face of a photo; `auto`: as each source is known, `all`: every one where no person is named."""
    min_score: Fraction
    """Min detector confidence of an accepted face."""
    max_skipped: Fraction
    """Fraction of photos that may be unusable before the run stops."""


class Split(Section):
    """Which people are kept apart for evaluation."""

    pairs: str | None
    """A source's list of pairs, such as lfw-view2, whose people are evaluated on; null: people are drawn."""
    pair_folds: Annotated[int, Field(ge=2)] | None
    """How many of the list's folds are evaluated on, its first; the people of the others train. null: all."""
    rotations: Positive
    """1: nothing trains on an evaluation person; more: each run is fine-tuned so many times, each time with
    the evaluation people of all but one group of folds, on which it is then evaluated."""
    evaluation_fraction: OpenFraction
    """Fraction of the people evaluated on, where they are drawn."""
    folds: Positive
    """Folds of evaluation people; a fold's threshold comes from the others, so 1 gives no accuracy."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    overlap: Literal["exclude", "stop"]
    """What to do with training photos that show an evaluation photo or person again."""
    hash_bits: Annotated[int, Field(ge=0, le=31)]
    """Max of 256 bits in which the perceptual hashes of near-duplicates differ."""
    embedder: PathText | None
    """Folder of a `finetune` stage whose embeddings also tell near-duplicates; null: none."""
    same_cosine: OpenFraction
    """Min cosine similarity at which two embeddings are taken for near-duplicates."""

    @model_validator(mode="after")
    def _folds_can_be_shared_out(self) -> Split:
        if self.pairs is None and self.rotations > self.folds:
            raise ValueError(f"rotations {self.rotations} are more than there are folds, {self.folds}")
        if self.pair_folds is not None and self.pairs is None:
            raise ValueError("pair_folds is about a list of pairs; name one under pairs, or set it to null")
        return self


class Evaluate(Section):
    """How embeddings of unseen people are scored and compared."""

    far_targets: Distinct[OpenFraction]
    """False accept rates at which the true accept rate is wanted."""
    resamples: Annotated[int, Field(ge=100, le=100_000)]
    """Bootstrap resamples of the evaluation people."""
    level: Annotated[float, Field(gt=0.5, lt=1)]
    """Confidence level of the intervals; 1 - level is the family-wise error of the verdicts."""
    primary: Literal["roc_auc", "eer", "accuracy", "rank1"]
    """The metric of the headline verdict."""
    against: RunNames
    """Runs that every masked one is compared with by `primary`: the family of comparisons that decides."""
    equivalence: Annotated[float, Field(gt=0, le=0.5)]
    """Two runs are equivalent where the interval of their difference lies within this, 0 to 1."""
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


class Robustness(Section):
    """How recognition holds on changed faces, with the threshold of unchanged ones."""

    runs: RunNames
    """Runs and baselines that are tested; [all] is every one."""
    pairs: Annotated[int, Field(ge=20)]
    """Max pairs that the curves are taken on, half of them genuine."""
    occlusions: Distinct[Occlusion]
    areas: Distinct[Annotated[float, Field(gt=0, le=0.7)]]
    """Fractions of the face that are covered."""
    lights: Distinct[Light]
    strengths: Distinct[Annotated[float, Field(gt=0, le=1)]]
    """How far a light goes: 1 is the most."""
    illumination: str | None
    """Tested source with light angles, such as yaleb; null: none."""


class LabelCurve(Section):
    """How accuracy grows with the number of labels."""

    runs: RunNames
    """Runs that are tested; [all] is every one."""
    fractions: Distinct[OpenFraction]
    """Fractions of the labelled faces."""
    per_person: Distinct[Positive]
    """Max faces of a person."""
    subsets: Annotated[int, Field(ge=3)]
    """Random subsets of each size."""


class Attributes(Section):
    """What else than identity a run's encoder tells."""

    runs: RunNames
    """Runs that are tested; [all] is every one."""
    tasks: dict[AttributeTask, PathText]
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

    url: Annotated[PathText, AfterValidator(_without_password)]
    """A file, for SQLite, or the address of a PostgreSQL database with pgvector."""
    retention_days: Annotated[int, Field(ge=1, le=1096)]
    """Days after which a person is deleted, unless enrolment says otherwise; three years at most."""
    false_match_rate: Annotated[float, Field(gt=0, lt=1)]
    """Fraction of comparisons of two people that may be taken for one person: it sets the threshold."""
