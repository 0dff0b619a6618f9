"""From photos to aligned faces: one outcome for every photo, whatever the photo is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae.core import files
from facemae.core.layout import SET_UNLABELLED
from facemae.data.alignment import quality
from facemae.data.alignment.detect import Face, FaceDetector
from facemae.data.alignment.warp import residual, similarity, template, warp
from facemae.data.images import ImageError, Picture, open_picture
from facemae.data.sources.base import Box
from facemae.data.sources.manifest import Entry, read_photo

BETTER_PHOTO = "Try a brighter, front-facing photo that is upright."
BATCH = 32
BATCH_PIXELS = 16_000_000

Which = Literal["largest", "central", "all"]


@dataclass(frozen=True)
class Settings:
    """What shapes the aligned faces; stored faces are kept apart by it."""

    size: int  # side of an aligned face in pixels
    min_score: float  # of the detector
    faces: Mapping[str, Which]  # which face of a photo, by source
    crops: Mapping[str, Box]  # of sources whose photos are faces already: the face, as shares of the sides
    detector: str  # its name and version
    thorough: bool = False  # look for small faces beside a clear one
    quality: str = quality.VERSION  # of the measures


@dataclass(frozen=True)
class Aligned:
    """One face of a photo; what the detector tells is None where the photo was taken as a face."""

    image: NDArray[np.uint8]  # (H, H, 3)
    sharpness: float
    score: float | None = None
    landmarks: NDArray[np.float32] | None = None  # (5, 2) pixels of the upright file
    face_px: float | None = None  # width of the face in them
    residual: float | None = None  # RMS distance of the moved landmarks from the template, aligned pixels
    yaw: float | None = None  # degrees, estimated
    warnings: list[str] = field(default_factory=list)  # codes of `quality.WARNINGS`


@dataclass(frozen=True)
class Outcome:
    """What became of one photo."""

    entry: Entry
    code: str = "OK"  # or NO_FACE, LOW_SCORE, NO_LANDMARKS, CHANGED, or an image error's E_...
    reason: str = ""
    hint: str = ""
    found: int = 0  # faces of at least the minimum score, or all if none has it
    score: float | None = None
    faces: tuple[Aligned, ...] = ()  # those that were kept


def align_photos(
    entries: Iterable[Entry], detector: FaceDetector | None, settings: Settings
) -> Iterator[Outcome]:
    """Yield one outcome per photo, in order; where every source is cropped, no detector is needed.

    At most `BATCH` photos, and about `BATCH_PIXELS` pixels more than one photo, are held at a time.
    """
    for opened in _batches(entries):
        to_search = [
            picture.image
            for outcome, picture in opened
            if picture and outcome.entry.source not in settings.crops
        ]
        found = iter(detector.detect(to_search) if detector and to_search else [])
        for outcome, picture in opened:
            if picture is None:
                yield outcome
            elif outcome.entry.source in settings.crops:
                yield _crop(outcome, picture.image, settings)
            else:
                yield _choose(outcome, picture, next(found), settings)


def _batches(entries: Iterable[Entry]) -> Iterator[list[tuple[Outcome, Picture | None]]]:
    batch: list[tuple[Outcome, Picture | None]] = []
    pixels = 0
    for entry in entries:
        try:
            data = read_photo(entry.photo)
            if files.sha256(data) != entry.sha256:
                raise ImageError("CHANGED", "The file has changed since it was listed.", "Run again.")
            picture = open_picture(data)
            batch.append((Outcome(entry), picture))
            pixels += picture.image.width * picture.image.height
        except ImageError as error:
            batch.append((Outcome(entry, error.code, error.reason, error.hint), None))
        if len(batch) >= BATCH or pixels >= BATCH_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _crop(outcome: Outcome, image: Image.Image, settings: Settings) -> Outcome:
    """Take the photo as a face: its source's box becomes the aligned square."""
    left, top, right, bottom = np.multiply(
        settings.crops[outcome.entry.source], [image.width, image.height] * 2
    )
    # A square of the same centre and area: a box that is none must not stretch the face.
    side = math.sqrt((right - left) * (bottom - top))
    scale = settings.size / side
    x, y = ((left + right) - side) / 2, ((top + bottom) - side) / 2
    pixels = warp(image, np.array([[scale, 0, -x * scale], [0, scale, -y * scale]]), settings.size)
    sharp = quality.sharpness(pixels)
    face = Aligned(pixels, sharp, warnings=quality.warnings(settings.size, sharp))
    return replace(outcome, found=1, faces=(face,))


def _choose(outcome: Outcome, picture: Picture, faces: list[Face], settings: Settings) -> Outcome:
    if not faces:
        return replace(outcome, code="NO_FACE", reason="No face found.", hint=BETTER_PHOTO)
    sure = [face for face in faces if face.score >= settings.min_score]
    best = max(face.score for face in faces)
    outcome = replace(outcome, found=len(sure or faces), score=best)
    if not sure:
        reason = f"The best face scores {best:.2f}; at least {settings.min_score:.2f} is needed."
        return replace(outcome, code="LOW_SCORE", reason=reason, hint=BETTER_PHOTO)
    which = settings.faces[outcome.entry.source]
    if which == "all" and outcome.entry.set != SET_UNLABELLED:
        which = "largest"  # a name belongs to one face of a photo, not to the passers-by
    kept = [align_face(picture, face, settings.size) for face in _meant(which, sure, picture.image)]
    aligned = tuple(face for face in kept if face is not None)
    if not aligned:  # the detector put all landmarks on one point
        reason = "Eyes, nose and mouth were not told apart."
        return replace(outcome, code="NO_LANDMARKS", reason=reason, hint=BETTER_PHOTO)
    reason, hint = "", ""
    if len(sure) > len(aligned):
        reason = f"{len(sure)} faces found; the {'most central' if which == 'central' else which} is used."
        hint = "Crop the photo if another face is meant."
    return replace(outcome, reason=reason, hint=hint, faces=aligned)


def _meant(which: Which, faces: list[Face], image: Image.Image) -> list[Face]:
    if which != "central":
        return faces if which == "all" else faces[:1]
    centre = np.array(image.size) / 2
    return [min(faces, key=lambda face: float(np.hypot(*((face.box[:2] + face.box[2:]) / 2 - centre))))]


def align_face(picture: Picture, face: Face, size: int) -> Aligned | None:
    """Warp a face, in pixels of `picture.image`, to the template of `size` x `size` and measure it.

    None where its landmarks coincide.
    """
    try:
        matrix = similarity(face.landmarks, template(size))
    except ValueError:
        return None
    pixels = warp(picture.image, matrix, size)
    in_file = face.scaled(picture.scale)
    off = residual(face.landmarks, matrix, size)
    turned, sharp = quality.yaw(face.landmarks), quality.sharpness(pixels)
    return Aligned(
        pixels,
        sharp,
        score=face.score,
        landmarks=in_file.landmarks,
        face_px=in_file.width,
        residual=off,
        yaw=turned,
        warnings=quality.warnings(size, sharp, face.score, in_file.width, off, turned, face.turn),
    )
