"""From photos to aligned faces: one outcome for every photo, whatever the photo is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae.data.detect import Face, FaceDetector
from facemae.data.images import MAX_PIXELS, ImageError, open_image, read_file
from facemae.data.sources import Photo
from facemae.data.warp import residual, similarity, template, warp
from facemae.files import sha256

_BETTER_PHOTO = "Try a brighter, front-facing photo."


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    `code` is "OK", "NO_FACE", "LOW_SCORE", "NO_LANDMARKS" or an image error's "E_...".
    `sha256` and `bytes` describe the file, if it was read. `faces` counts those of at least the minimum
    score, or all if none has it; the values after it describe the chosen one: `landmarks` (5 pairs) and
    `face_px`, the box width, in pixels of the upright photo, `residual` in pixels of the aligned face.
    """

    sample_id: str
    person: str | None
    code: str = "OK"
    reason: str = ""
    hint: str = ""
    sha256: str | None = None
    bytes: int | None = None
    faces: int = 0
    score: float | None = None
    landmarks: list[list[float]] | None = None
    residual: float | None = None
    face_px: float | None = None


Aligned = tuple[Outcome, NDArray[np.uint8] | None]


def align_photos(
    photos: Iterable[Photo],
    detector: FaceDetector,
    *,
    size: int = 112,
    min_score: float = 0.9,
    batch: int = 32,
) -> Iterator[Aligned]:
    """Yield one outcome per photo, in order, and the largest face as (size, size, 3), or None without one.

    Photos stream through: at most `batch` of them, and about `MAX_PIXELS` pixels, are held at a time.
    """
    for opened in _batches(photos, batch):
        images = [image for _, image in opened if image is not None]
        found = iter(detector.detect(images))
        for outcome, image in opened:
            yield (outcome, None) if image is None else _align(outcome, image, next(found), size, min_score)


def _batches(photos: Iterable[Photo], limit: int) -> Iterator[list[tuple[Outcome, Image.Image | None]]]:
    batch, pixels = [], 0
    for photo in photos:
        outcome, image = _open(photo)
        batch.append((outcome, image))
        pixels += image.width * image.height if image else 0
        if len(batch) >= limit or pixels >= MAX_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _open(photo: Photo) -> tuple[Outcome, Image.Image | None]:
    outcome = Outcome(photo.sample_id, photo.person)
    try:
        data = read_file(photo.path)
        outcome = replace(outcome, sha256=sha256(data), bytes=len(data))
        return outcome, open_image(data)
    except ImageError as error:
        return replace(outcome, code=error.code, reason=error.reason, hint=error.hint), None


def _align(outcome: Outcome, image: Image.Image, faces: list[Face], size: int, min_score: float) -> Aligned:
    if not faces:
        return replace(outcome, code="NO_FACE", reason="No face found.", hint=_BETTER_PHOTO), None
    sure = [face for face in faces if face.score >= min_score]
    face = sure[0] if sure else max(faces, key=lambda face: face.score)
    outcome = replace(
        outcome,
        faces=len(sure or faces),
        score=face.score,
        landmarks=face.landmarks.tolist(),
        face_px=float(face.box[2] - face.box[0]),
    )
    if not sure:
        reason = f"The best face scores {face.score:.2f}; at least {min_score:.2f} is needed."
        return replace(outcome, code="LOW_SCORE", reason=reason, hint=_BETTER_PHOTO), None
    if len(sure) > 1:
        reason = f"{len(sure)} faces found; the largest is used."
        outcome = replace(outcome, reason=reason, hint="Crop the photo if another face is meant.")
    try:
        matrix = similarity(face.landmarks, template(size))
    except ValueError:  # the detector put all landmarks on one point
        return replace(
            outcome,
            code="NO_LANDMARKS",
            reason="Eyes, nose and mouth were not told apart.",
            hint=_BETTER_PHOTO,
        ), None
    return replace(outcome, residual=residual(face.landmarks, matrix, size)), warp(image, matrix, size)
