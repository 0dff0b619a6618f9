"""Enrolling people: from photos to templates in a gallery, one outcome for every photo.

Shapes: H side of an aligned face in pixels, D dimensions of an embedding.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae.core import layout
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.data.images import ImageError, encode_png, open_image
from facemae.recognition.gallery.names import normalised
from facemae.recognition.gallery.schema import Candidate, Person, Template
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.recogniser import Recogniser, face_to_enrol
from facemae.recognition.threshold import Threshold
from facemae.report import faces

THUMBNAIL = 64  # pixels a side
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm")
DEMO_PEOPLE = 20


@dataclass(frozen=True)
class Terms:
    """What a person was enrolled under: consent, until when, and whether a thumbnail is kept."""

    consent: bool
    retain_until: datetime.date
    thumbnail: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a person's enrolment.

    Attributes:
        name: Of the person.
        person: As enrolled; None: not one of the photos could be used.
        refused: By photo, why it was not used.
        known_as: Whom else the face is taken for, if anybody.
    """

    name: str
    person: Person | None
    refused: list[tuple[str, str]]
    known_as: Candidate | None = None


def until(days: int, today: datetime.date | None = None) -> datetime.date:
    """Return the date so many days from today, which is the same everywhere."""
    return (today or datetime.datetime.now(datetime.UTC).date()) + datetime.timedelta(days=days)


def template(
    recogniser: Recogniser, face: NDArray[np.uint8], quality: float | None, thumbnail: bool
) -> Template:
    """Return the template of an aligned face (H, H, 3)."""
    vector = recogniser.embed([face])[0]
    return Template(vector, recogniser.fingerprint, quality, _small(face) if thumbnail else None)


def _small(face: NDArray[np.uint8]) -> bytes:
    return encode_png(np.asarray(Image.fromarray(face).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)))


def read_templates(
    recogniser: Recogniser, photos: Sequence[tuple[str, Path | bytes]], thumbnail: bool
) -> tuple[list[Template], list[tuple[str, str]]]:
    """Return the templates of photos that show one face each, and why the others are not used.

    Args:
        recogniser: Finds and embeds the faces.
        photos: What messages call each, and the photo.
        thumbnail: Keep a picture of `THUMBNAIL` pixels a side.
    """
    made, refused = [], []
    for name, photo in photos:
        try:
            found = face_to_enrol(recogniser.finder.find(photo))
        except ImageError as error:
            refused.append((name, f"{error.reason} {error.hint}"))
            continue
        made.append(template(recogniser, found.image, found.face.score, thumbnail))
    return made, refused


def known_as(
    gallery: Gallery, templates: Sequence[Template], name: str, threshold: Threshold
) -> Candidate | None:
    """Return the enrolled person of another name whom these templates match best, or None."""
    if not templates or templates[0].model not in gallery.models():
        return None
    vectors = np.stack([each.vector for each in templates])
    found = gallery.search(vectors, templates[0].model, top=2)
    own = normalised(name)
    others = [each for candidates in found for each in candidates if each.person.name != own]
    best = max(others, key=lambda each: each.score, default=None)
    return best if best is not None and threshold.matches(best.score) else None


def enrol(
    recogniser: Recogniser,
    gallery: Gallery,
    name: str,
    photos: Sequence[tuple[str, Path | bytes]],
    terms: Terms,
    threshold: Threshold,
    *,
    add: bool = False,
    anyway: bool = False,
) -> Outcome:
    """Enrol a person from photos that show one face each.

    Args:
        recogniser: Finds and embeds the faces.
        gallery: Where the templates go.
        name: Of the person.
        photos: What messages call each, and the photo.
        terms: Consent, until when, and whether a thumbnail is kept.
        threshold: From which the face is taken for somebody else who is enrolled.
        add: The person may be enrolled already, and gets these photos too.
        anyway: Enrol although the face is taken for somebody else; without it, nothing is enrolled then.

    Raises:
        UsageError: there is no consent, the date or the name is not fit, or the name is taken.
    """
    templates, refused = read_templates(recogniser, photos, terms.thumbnail)
    if not templates:
        return Outcome(name, None, refused)
    same = known_as(gallery, templates, name, threshold)
    if same is not None and not anyway:
        return Outcome(name, None, refused, same)
    person = gallery.enrol(name, templates, consent=terms.consent, retain_until=terms.retain_until, add=add)
    return Outcome(person.name, person, refused, same)


def people_in(folder: Path) -> dict[str, list[Path]]:
    """Return the photos of a folder of person/photo.jpg, by person; other files are left alone.

    Raises:
        UsageError: there is no such folder, or nobody in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name one that holds a folder of photos for each person.")
    found = {
        each.name: sorted(path for path in each.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
        for each in sorted(folder.iterdir())
        if each.is_dir() and not each.name.startswith(".")
    }
    people = {name: paths for name, paths in found.items() if paths}
    if not people:
        raise UsageError(f"{folder} holds no folder with photos; arrange them as person/photo.jpg.")
    return people


def demo_faces(paths: Results) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield people whom no network was trained on, each with the first of their faces (H, H, 3).

    Raises:
        FileNotFoundError: there are no results.
        DataError: they hold no such people.
    """
    known = faces.faces(paths)
    unseen = known[known["role"] == layout.ROLE_EVALUATION].drop_duplicates("person").head(DEMO_PEOPLE)
    if unseen.empty:
        raise DataError("The results hold no evaluation people to enrol; enrol photos of your own.")
    pictures = faces.aligned(paths, unseen["sample_id"].to_list())
    for row in unseen.to_dict("records"):
        person = str(row["person"]).rpartition("/")[2]
        yield f"Demo {person}", np.asarray(open_image(pictures[row["sample_id"]]))
