"""A recogniser: its weights, its embedding, its thresholds, and what it was trained on.

Shapes: N faces, H their side in pixels, D dimensions of an embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import files, layout, records
from facemae.core.errors import FaceMAEError
from facemae.core.layout import DataFolder, Results
from facemae.data.images import in_grey, is_grey
from facemae.recognition.threshold import Card, card_of
from facemae.report import tables
from facemae.report.phrases import origin, scalars

if TYPE_CHECKING:
    from facemae.compute.device import Compute
    from facemae.models.embedder import Embedder

Device = Literal["auto", "cpu", "cuda"]
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From aligned faces (N, H, H, 3) uint8 to embeddings (N, D) of length 1."""

FEW_PEOPLE = 1000  # that a model learnt from, below which it does not tell strangers apart
LOOKED_AT = 16  # training faces, to tell grey ones from coloured ones
FOLDER = Path()
VIEW2 = "lfw-view2"


@dataclass(frozen=True)
class TrainingFaces:
    """What a model was trained on; None: not known."""

    people: int | None = None
    photos: int | None = None
    grey: bool = False
    origin: str = ""
    """What it started from and was taught by, as `phrases.origin`; nothing where no network was finished."""

    def __str__(self) -> str:
        if self.people is None:
            return "not known"
        kind, more = "grey " if self.grey else "", f", {self.origin}" if self.origin else ""
        return f"{self.photos:,} {kind}photos of {self.people:,} people{more}"

    def warning(self, name: str) -> str:
        """Return a sentence for those who would use the model on their own photos, or nothing."""
        if self.people is None or (self.people >= FEW_PEOPLE and not self.grey):
            return ""
        said = f"{name} was trained on {self}: it will fail on yours."
        return f"{said} It is given every photo in grey." if self.grey else said


class View2(NamedTuple):
    """Accuracy on LFW's View 2 and its 95 % interval over people; None: not measured."""

    lfw_view2: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class Facts:
    """What a list of models says of one, by the name that `--model` takes.

    Attributes:
        trained_on: In words.
        faces_per_second: On one processor core, once faces are aligned; None: not measured.
        size: Of its weights, in bytes.
        missing, warning: How to get it where it is not installed; what a user has to know; or nothing.
        default: Whether it is the one that is taken where none is named.
    """

    name: str
    lfw_view2: float | None
    ci_low: float | None
    ci_high: float | None
    trained_on: str
    licence: str
    faces_per_second: float | None
    size: int
    missing: str = ""
    warning: str = ""
    default: bool = False


@dataclass(frozen=True)
class Model:
    """A recogniser by name: one trained run, "run/seed", unless a subclass says otherwise.

    Attributes:
        run, seed: Which training.
        pretrained: Folder of its `pretrain` stage with a masked autoencoder; None: it has none.
        finetuned: Folder of its `finetune` stage.
    """

    run: str
    seed: int = 0
    pretrained: Path | None = None
    finetuned: Path = FOLDER

    @property
    def name(self) -> str:
        """Return what it is called."""
        return f"{self.run}/{self.seed}"

    @property
    def results(self) -> Results | None:
        """Return the results whose run it is, if any."""
        around = self.finetuned.resolve().parents[2:3]
        return next((Results(root) for root in around if Results(root).config.is_file()), None)

    @property
    def weights(self) -> Path:
        """Return the file of its weights; a UsageError if it is not installed."""
        return self.finetuned / layout.EMBEDDER

    @property
    def image_size(self) -> int:
        """Return the side H of the faces that it takes, in pixels."""
        return int(records.read_json(self.finetuned / layout.CONFIG)["image_size"])

    @functools.cached_property
    def trained_on(self) -> TrainingFaces:
        """Return what it was trained on, as far as the results around it tell."""
        if not self.results:
            return TrainingFaces()
        run = tables.experiment(self.results).run(self.run)
        return replace(training_faces(self.results.data), origin=origin(run))

    def as_seen(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return faces (..., H, H, 3) as it is given them: in grey where it has learnt from grey ones alone.

        A colour photo would be unlike anything that it was trained on.
        """
        return in_grey(faces) if self.trained_on.grey else faces

    def card(self) -> Card:
        """Return its thresholds by false match rate.

        Raises:
            DataError: there is none.
            IntegrityError: they belong to other weights, or are damaged.
        """
        return card_of(self.finetuned / layout.EMBEDDINGS, self.weights_sha256)

    @property
    def view2(self) -> View2:
        """Return its accuracy on LFW's View 2, of a run where the results are of that list."""
        paths = self.results
        if not paths or not paths.leaderboard.is_file() or tables.experiment(paths).split.pairs != VIEW2:
            return View2()
        rows = scalars(tables.leaderboard(paths), "accuracy").dropna(subset="value")
        rows = rows[rows["run"] == self.run]
        return View2(*rows.iloc[0][["value", "ci_low", "ci_high"]].astype(float)) if len(rows) else View2()

    @property
    def missing(self) -> str:
        """Return how to get it where it is not installed, else nothing."""
        return ""

    def facts(self) -> Facts:
        """Return what a list of models says of it."""
        licence, size = "as the photos it was trained on", self.weights.stat().st_size
        known, damage = TrainingFaces(), ""
        try:
            known = self.trained_on
        except FaceMAEError as error:
            damage = str(error)
        warning = known.warning(self.name)
        return Facts(self.name, *self.view2, str(known), licence, None, size, damage, warning)

    def load(self, device: Device = "auto") -> Embed:
        """Return its embedding; an IntegrityError if the weights are damaged or do not fit their settings."""
        from facemae.compute import device as devices
        from facemae.models.weights import load_embedder

        compute, network = devices.plain(device), load_embedder(self.finetuned)
        compute.place(network)
        return TrainedEmbedder(network, compute, self.as_seen)

    @property
    def weights_sha256(self) -> str:
        """Return the SHA-256 of its weights."""
        return files.sha256_of_unchanged(self.weights)

    @property
    def fingerprint(self) -> str:
        """Return what tells its templates from any other model's: the start of its weights' SHA-256."""
        return self.weights_sha256[:16]

    @property
    def warning(self) -> str:
        """Return a sentence for those who would use it on their own photos, or nothing."""
        return self.trained_on.warning(self.name)


@dataclass(frozen=True)
class TrainedEmbedder:
    """The network of a trained run at work, and what makes of faces what it is given."""

    network: Embedder
    compute: Compute
    as_seen: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings (N, D), of length 1, of aligned faces (N, H, H, 3)."""
        from facemae.models.embedder import embed_faces

        return embed_faces(self.network, self.as_seen(faces), self.compute)


def training_faces(folder: DataFolder, *, unlabelled: bool = False) -> TrainingFaces:
    """Return what runs were trained on that were split in this folder; what is not there is not known.

    `unlabelled` counts in the photos that are pretrained on only.
    """
    from facemae.data.faces.split import learnt_from

    try:
        learnt = learnt_from(records.read_table(folder.split, layout.SPLIT_COLUMNS), unlabelled=unlabelled)
        return TrainingFaces(learnt["person"].nunique(), len(learnt), all_grey(folder, learnt))
    except (OSError, LookupError):
        return TrainingFaces()


def all_grey(folder: DataFolder, learnt: pd.DataFrame) -> bool:
    """Tell by some faces of a split's rows whether all are grey, as those of ORL; none are not."""
    from facemae.data.faces.cache import open_faces

    some = learnt.iloc[:: max(1, len(learnt) // LOOKED_AT)]
    return len(some) > 0 and is_grey(open_faces(folder, some)[:])
