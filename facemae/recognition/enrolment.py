"""Enrolling people: from photos to templates in a gallery, one outcome for every photo.

Shapes: H side of an aligned face in pixels, D dimensions of an embedding.
"""

from __future__ import annotations

import datetime
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.data.alignment.align import BETTER_PHOTO
from facemae.data.images import ImageError, encode_png, open_image
from facemae.data.sources.base import Place
from facemae.data.sources.folder import folder_source
from facemae.data.sources.orl import orl_photos
from facemae.recognition.gallery.names import normalised
from facemae.recognition.gallery.schema import THUMBNAIL, Candidate, Person, Template
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.recogniser import MIN_ENROLLED_PX, Found, Photo, Recogniser, face_to_enrol
from facemae.recognition.threshold import Threshold
from facemae.report import faces

DEMO_PEOPLE = 20


@dataclass(frozen=True)
class Terms:
    """What a person is enrolled under: consent, until when, and whether a thumbnail is kept.

    With `add` the person may be enrolled already, and gets these photos too.
    """

    consent: bool
    retain_until: datetime.date
    thumbnail: bool = False
    add: bool = False


@dataclass(frozen=True)
class Shot:
    """A photo to enrol from: what messages call it, file or bytes, and which face is meant of several."""

    name: str
    source: Path | bytes = field(repr=False)
    face: int | None = None


@dataclass(frozen=True)
class Refused:
    """A photo that was not used, and why; `photo` where one of several faces on it may be meant."""

    shot: Shot
    reason: str
    photo: Photo | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Outcome:
    """What became of a person's enrolment: nobody was enrolled where `person` is None.

    `refused` are photos that were not used, `known_as` is whom else the face is taken for, if anybody.
    """

    name: str
    person: Person | None
    refused: list[Refused]
    known_as: Candidate | None = None


def not_enrolled(name: str, error: Exception) -> Outcome:
    """Return that somebody was not enrolled, for a reason that is not one photo's."""
    return Outcome(name, None, [Refused(Shot(name, b""), str(error))])


def until(days: int) -> datetime.date:
    """Return the date so many days from today, which is the same everywhere."""
    return datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=days)


def template(
    recogniser: Recogniser, face: NDArray[np.uint8], quality: float | None, thumbnail: bool
) -> Template:
    """Return the template of an aligned face (H, H, 3)."""
    small = Image.fromarray(face).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    picture = encode_png(np.asarray(small)) if thumbnail else None
    return Template(recogniser.embed([face])[0], recogniser.fingerprint, quality, picture)


def face_templates(
    recognisers: Sequence[Recogniser], found: Sequence[Found], thumbnail: bool
) -> list[Template]:
    """Return the templates of one face, as each of several models takes it, the picture with the first."""
    return [
        template(each, face.image, face.face.score, thumbnail and number == 0)
        for number, (each, face) in enumerate(zip(recognisers, found, strict=True))
    ]


def read_templates(
    recognisers: Sequence[Recogniser], shots: Sequence[Shot], thumbnail: bool
) -> tuple[list[Template], list[Refused]]:
    """Return the templates by each model of photos that show one face each, and the photos not used."""
    made: list[Template] = []
    refused: list[Refused] = []
    for shot in shots:
        photo: Photo | None = None
        try:
            found: dict[int, Found] = {}
            for each in recognisers:
                if each.size not in found:
                    photo = each.finder.find(shot.source)
                    found[each.size] = face_to_enrol(photo, shot.face)
        except ImageError as error:
            several = photo if error.code == "SEVERAL_FACES" else None
            refused.append(Refused(shot, f"{error.reason} {error.hint}", several))
            continue
        made += face_templates(recognisers, [found[each.size] for each in recognisers], thumbnail)
    return made, refused


def every_face(recognisers: Sequence[Recogniser], shot: Shot) -> list[list[Template]]:
    """Return for every face of a photo that is large enough its templates, a small picture with the first.

    Raises:
        ImageError: the photo cannot be read, or shows no such face.
    """
    finders = {each.size: each.finder for each in recognisers}
    photos = {size: finder.find(shot.source).faces for size, finder in finders.items()}
    faces = zip(*(photos[each.size] for each in recognisers), strict=True)
    large = [found for found in faces if found[0].width >= MIN_ENROLLED_PX]
    if not large:
        raise ImageError("NO_FACE", f"No face of {MIN_ENROLLED_PX} pixels or more found.", BETTER_PHOTO)
    return [face_templates(recognisers, found, thumbnail=True) for found in large]


def known_as(
    gallery: Gallery, templates: Sequence[Template], name: str, threshold: Threshold
) -> Candidate | None:
    """Return the enrolled person of another name whom the first model's templates match best, or None."""
    if not templates or templates[0].model not in gallery.models():
        return None
    model = templates[0].model
    vectors = np.stack([each.vector for each in templates if each.model == model])
    found = gallery.search(vectors, model, top=2)
    own = normalised(name)
    others = [each for candidates in found for each in candidates if each.person.name != own]
    best = max(others, key=lambda each: each.score, default=None)
    return best if best is not None and threshold.matches(best.score) else None


def enrol(
    recognisers: Sequence[Recogniser], gallery: Gallery, name: str, shots: Sequence[Shot], terms: Terms,
    threshold: Threshold, *, anyway: bool = False,
) -> Outcome:  # fmt: skip
    """Enrol a person from photos that show one face each; each model gives a template of each photo.

    Args:
        recognisers, gallery: The models, and where their templates go.
        name, shots, terms: Who is enrolled, from which photos, and what was agreed.
        threshold: Of the first model, from which the face is taken for somebody else who is enrolled.
        anyway: Enrol although the face is taken for somebody else; without it, nothing is enrolled then.

    Raises:
        UsageError: there is no consent, the date or the name is not fit, or the name is taken.
    """
    templates, refused = read_templates(recognisers, shots, terms.thumbnail)
    if not templates:
        return Outcome(name, None, refused)
    same = known_as(gallery, templates, name, threshold)
    if same is not None and not anyway:
        return Outcome(name, None, refused, same)
    person = gallery.enrol(
        name, templates, consent=terms.consent, retain_until=terms.retain_until, add=terms.add
    )
    return Outcome(person.name, person, refused, same)


def people_in(folder: Path, left_out: Counter[str]) -> dict[str, list[Path]]:
    """Return the photos of a folder of person/photo.jpg, by person; `left_out` counts others by reason.

    Raises:
        UsageError: there is no such folder, or nobody in it.
        DataError: it holds no photos.
    """
    people: dict[str, list[Path]] = {}
    for photo in folder_source(folder, "gallery").photos(Place(folder, {}), left_out):
        if photo.person is not None:
            people.setdefault(photo.person, []).append(photo.path)
        else:
            left_out["not directly in a person's folder"] += 1
    if not people:
        raise UsageError(f"{folder} holds no folder with photos; arrange them as person/photo.jpg.")
    return people


def demo_people(paths: Results) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return people of ORL whom no network was trained on, each with the first of their faces (H, H, 3).

    Only ORL's people agreed to be shown, and the content says whose photo it is: others are nobody's to
    enrol, whatever their data set is called.

    Raises:
        FileNotFoundError: there are no results.
    """
    split = records.read_table(paths.data.split, ["sample_id", "person", "role", "sha256"])
    unseen = split[(split["role"] == layout.ROLE_EVALUATION) & split["sha256"].isin(_orl_contents())]
    unseen = unseen.sort_values("sample_id").drop_duplicates("person").head(DEMO_PEOPLE)
    pictures = faces.aligned(paths, unseen["sample_id"].to_list())
    return [
        (f"Demo {str(row['person']).rpartition('/')[2]}", np.asarray(open_image(pictures[row["sample_id"]])))
        for row in unseen.to_dict("records")
    ]


@functools.cache
def _orl_contents() -> frozenset[str]:
    """Return the SHA-256 of every photo of ORL, none where its package is not installed."""
    try:
        return frozenset(files.sha256_of(each.path) for each in orl_photos())
    except DataError:
        return frozenset()
