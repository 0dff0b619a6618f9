"""What recognition needs of a model, whoever trained it: its weights, its embedding and its thresholds.

Shapes: N faces, H their side in pixels, D dimensions of an embedding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facemae.core import files
from facemae.core.layout import Results
from facemae.data.images import in_grey
from facemae.recognition.threshold import Card

Device = Literal["auto", "cpu", "cuda"]
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From aligned faces (N, H, H, 3) uint8 to embeddings (N, D) of length 1."""

FEW_PEOPLE = 1000  # that a model learnt from, below which it does not tell strangers apart


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
    """What a list of models says of one.

    Attributes:
        name: By which `--model` takes it.
        lfw_view2, ci_low, ci_high: As `View2`.
        trained_on: In words.
        licence: Of its weights.
        faces_per_second: On one processor core, once faces are aligned; None: not measured.
        size: Of its weights, in bytes.
        missing: How to get it where it is not installed, else nothing.
        warning: What a user has to know, or nothing.
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

    def as_json(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Model(ABC):
    """A model by name: `run` and `seed` of a results folder, or `run` alone is the name.

    Attributes:
        run, seed: Which training.
        pretrained: Folder of its `pretrain` stage with a masked autoencoder; None: it has none.
    """

    run: str
    seed: int = 0
    pretrained: Path | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """Return what it is called."""

    @property
    def results(self) -> Results | None:
        """Return the results whose run it is, if any."""
        return None

    @property
    @abstractmethod
    def weights(self) -> Path:
        """Return the file of its weights.

        Raises:
            UsageError: it is not installed.
        """

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Return the side H of the faces that it takes, in pixels."""

    @property
    @abstractmethod
    def trained_on(self) -> TrainingFaces:
        """Return what it was trained on."""

    def as_seen(self, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return faces (..., H, H, 3) as it is given them: in grey where it has learnt from grey ones alone.

        A colour photo would be unlike anything that it was trained on.
        """
        return in_grey(faces) if self.trained_on.grey else faces

    @abstractmethod
    def card(self) -> Card:
        """Return its thresholds by false match rate.

        Raises:
            DataError: there is none.
            IntegrityError: they belong to other weights, or are damaged.
        """

    @property
    @abstractmethod
    def view2(self) -> View2:
        """Return its accuracy on LFW's View 2."""

    @property
    def missing(self) -> str:
        """Return how to get it where it is not installed, else nothing."""
        return ""

    @abstractmethod
    def facts(self) -> Facts:
        """Return what a list of models says of it."""

    @abstractmethod
    def load(self, device: Device = "auto") -> Embed:
        """Return its embedding.

        Raises:
            IntegrityError: the weights are damaged, or do not fit their configuration.
        """

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
