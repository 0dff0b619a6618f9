"""The recogniser: find the faces of a photo, align, embed and compare them; used by the app and the commands.

Shapes: N faces, H their side in pixels, D dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae import config
from facemae.core.errors import UsageError
from facemae.data.alignment.align import BETTER_PHOTO, Aligned, align_face
from facemae.data.alignment.detect import Face, MtcnnDetector
from facemae.data.images import ImageError, Picture, followed, open_picture
from facemae.recognition.model import Device, Embed, Model, TrainedEmbedder
from facemae.recognition.settings import settings
from facemae.recognition.threshold import Threshold, at_rate

if TYPE_CHECKING:
    from facemae.models.embedder import Embedder
    from facemae.models.mae import MaskedAutoencoder
    from facemae.recognition.gallery.schema import Candidate
    from facemae.recognition.gallery.store import Gallery

MIN_SCORE = 0.9  # confidence of the detector; the default of data.min_score
MIN_ENROLLED_PX = 40  # width of a face that is enrolled; below, most of the aligned face is interpolation
TOP = 5
COLUMNS = [
    "photo", "face", "left", "top", "right", "bottom", "decision", "person", "score", "needed", "note"
]  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A face of a photo: its number from 1, the largest first; its box (4,) in pixels of the upright file."""

    number: int
    box: NDArray[np.float32]
    face: Aligned

    @property
    def image(self) -> NDArray[np.uint8]:
        """Return the aligned face (H, H, 3)."""
        return self.face.image

    @property
    def width(self) -> int:
        """Return how wide the face is in the upright file, in pixels."""
        return round(self.face.face_px if self.face.face_px is not None else float(self.box[2] - self.box[0]))


@dataclass(frozen=True)
class Photo:
    """A photo, upright, and the faces that were found on it.

    Attributes:
        image: The photo, perhaps smaller than its file.
        size: Width and height of the upright file in pixels, in which the faces' boxes are.
        faces: The largest first.
    """

    image: Image.Image
    size: tuple[int, int]
    faces: list[Found]


@dataclass(frozen=True)
class Identified:
    """Who a face may be: the people it is most like, best first, and who it is taken for, if anybody."""

    found: Found
    candidates: list[Candidate]
    match: Candidate | None


class FaceFinder:
    """Finds and aligns the faces of photos; an ImageError tells of a file that is no picture."""

    def __init__(self, size: int, device: str = "cpu") -> None:
        """Prepare for aligned faces of side `size`."""
        self._detector, self.size = MtcnnDetector(device, thorough=True), size

    def find(self, source: Path | bytes) -> Photo:
        """Return a photo's faces, the largest first; `Photo.faces` is empty where there is none."""
        return self.find_all([source])[0]

    def find_all(self, sources: Sequence[Path | bytes]) -> list[Photo]:
        """Return the faces of several photos."""
        files = [followed(each) if isinstance(each, Path) else each for each in sources]
        pictures = [open_picture(each) for each in files]
        found = self._detector.detect([picture.image for picture in pictures])
        return [self._aligned(picture, faces) for picture, faces in zip(pictures, found, strict=True)]

    def _aligned(self, picture: Picture, faces: list[Face]) -> Photo:
        kept: list[Found] = []
        for face in faces:
            aligned = align_face(picture, face, self.size) if face.score >= MIN_SCORE else None
            if aligned is not None:
                kept.append(Found(len(kept) + 1, face.scaled(picture.scale).box, aligned))
        return Photo(picture.image, picture.size, kept)


def some_faces(photo: Photo) -> list[Found]:
    """Return the faces of a photo that has to show one at least; else an ImageError tells."""
    if not photo.faces:
        raise ImageError("NO_FACE", "No face found.", BETTER_PHOTO)
    return photo.faces


def only_face(photo: Photo, purpose: str) -> Found:
    """Return the face of a photo that has to show exactly one; else an ImageError tells."""
    if len(some_faces(photo)) > 1:
        reason = f"{len(photo.faces)} faces found; {purpose} needs exactly one."
        raise ImageError("SEVERAL_FACES", reason, "Crop the photo.")
    return photo.faces[0]


def face_to_enrol(photo: Photo, number: int | None = None) -> Found:
    """Return the only face of a photo, or that of a number, if it is large enough to enrol."""
    chosen = [each for each in photo.faces if each.number == number]
    found = chosen[0] if chosen else only_face(photo, "enrolment")
    if found.width < MIN_ENROLLED_PX:
        raise ImageError(
            "SMALL_FACE",
            f"The face is {found.width} pixels wide; enrolment needs at least {MIN_ENROLLED_PX}.",
            "112 or more work best: use a larger photo.",
        )
    return found


class Recogniser:
    """One model at work. It keeps nothing of the photos that it is given.

    Attributes:
        model, fingerprint: Which model, and what its templates are kept under.
        size: Side of its faces in pixels.
    """

    def __init__(self, model: Model, device: Device = "auto", finder: FaceFinder | None = None) -> None:
        """Load the model; the detector is loaded when a photo comes, unless a `finder` has one.

        Raises:
            IntegrityError: the weights are damaged, or do not fit their configuration.
        """
        self.model, self.fingerprint, self.size = model, model.fingerprint, model.image_size
        self._embed, self._device, self._finder = model.load(device), device, finder

    @cached_property
    def finder(self) -> FaceFinder:
        """Return what finds and aligns faces, loaded at the first use."""
        return self._finder or FaceFinder(self.size, self.device)

    @property
    def device(self) -> str:
        """Return where its networks run."""
        from facemae.compute import device

        return device.plain(self._device).device.type

    @property
    def network(self) -> Embedder | Embed:
        """Return the network of a trained run, and of a model by others its embedding."""
        return self._embed.network if isinstance(self._embed, TrainedEmbedder) else self._embed

    @property
    def embedder(self) -> Embedder:
        """Return the network, for those who look into it; a UsageError if others have trained the model."""
        from facemae.models.embedder import Embedder

        if not isinstance(self.network, Embedder):
            raise UsageError(
                f"{self.model.name} shows nothing but its embeddings; choose a run of the results to look "
                "into its network."
            )
        return self.network

    @cached_property
    def autoencoder(self) -> tuple[MaskedAutoencoder, config.Pretrain] | None:
        """Return the run's masked autoencoder, if it has one, and how it was trained; loaded at first use."""
        if self.model.pretrained is None:
            return None
        from facemae.compute import device
        from facemae.models.weights import load_autoencoder

        network, pretrain = load_autoencoder(self.model.pretrained)
        device.plain(self._device).place(network)
        return network, pretrain

    def align(self, photo: Path | bytes) -> Photo:
        """Return a photo's faces, the largest first; an ImageError where the file cannot be read."""
        return self.finder.find(photo)

    def embed(self, faces: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings (N, D), of length 1, of aligned faces (N, H, H, 3), as evaluation does."""
        return self._embed(np.stack(list(faces))) if len(faces) else np.zeros((0, 0), np.float32)

    def threshold(self, rate: float | None = None) -> Threshold:
        """Return the threshold at a false match rate; None: at the configured one, or the nearest known.

        Raises:
            UsageError: the people behind the model's thresholds can tell of no rate, or not of this one.
            DataError, IntegrityError: the model has no thresholds of its own.
        """
        wanted = settings().false_match_rate if rate is None else rate
        return at_rate(*self.model.card(), wanted, strictly=rate is not None)

    def identify(
        self, faces: Sequence[Found], gallery: Gallery, threshold: Threshold, top: int = TOP
    ) -> list[Identified]:
        """Search a gallery for faces; an IntegrityError if it holds templates of other models only."""
        if not faces:
            return []
        vectors = self.embed([each.image for each in faces])
        found = gallery.search(vectors, self.fingerprint, top)
        return [
            Identified(face, candidates, decide(candidates, threshold))
            for face, candidates in zip(faces, found, strict=True)
        ]

    def similarity(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
        """Return the cosine similarity of two aligned faces (H, H, 3)."""
        one, other = self.embed([first, second])
        return float(one @ other)


def decide(candidates: Sequence[Candidate], threshold: Threshold) -> Candidate | None:
    """Return the best candidate if it reaches the threshold; nobody else is ever named."""
    return candidates[0] if candidates and threshold.matches(candidates[0].score) else None


def as_json(identified: Sequence[Identified]) -> list[dict[str, Any]]:
    """Return what was found on a photo as plain values."""
    return [
        {
            "number": each.found.number,
            "box": [round(float(edge), 1) for edge in each.found.box],
            "confidence": each.found.face.score,
            "warnings": each.found.face.warnings,
            "decision": "unknown" if each.match is None else "match",
            "person": None if each.match is None else each.match.person.name,
            "candidates": [
                {"name": candidate.person.name, "score": candidate.score} for candidate in each.candidates
            ],
        }
        for each in identified
    ]


def rows_of(photo: str, found: Sequence[Identified], limit: Threshold, note: str) -> list[dict[str, Any]]:
    """Return a table's rows for the faces of a photo, or one that says why there is none."""
    if not found:
        return [{"photo": photo, "face": None, "decision": None, "note": note}]
    return [
        {
            "photo": photo, "face": each["number"],
            **dict(zip(("left", "top", "right", "bottom"), each["box"], strict=True)),
            "decision": each["decision"], "person": each["person"] or "",
            "score": each["candidates"][0]["score"] if each["candidates"] else None, "needed": limit.score,
            "note": ", ".join(each["warnings"]),
        }
        for each in as_json(found)
    ]  # fmt: skip
