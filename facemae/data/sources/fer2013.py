"""FER2013: small grey faces with an expression, published as text in one CSV file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from facemae.core import files
from facemae.core.errors import IntegrityError
from facemae.core.progress import track
from facemae.data.sources.base import EXPRESSION, Attribute, Limits, Photo, Place, Source
from facemae.data.sources.listing import malformed, rows

ADDRESS = (
    "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge"
)
FACES, LABELS = "faces.pgm", "labels.csv"
_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
EXPRESSIONS = {str(code): name for code, name in enumerate(_NAMES)}
PARTS = {"Training": "train", "PublicTest": "public test", "PrivateTest": "private test"}

_SIDE = 48
_HEADER = f"P5\n{_SIDE} {_SIDE}\n255\n".encode()
_RECORD = len(_HEADER) + _SIDE**2
_PUBLISHED = 35_887


def unpack_csv(csv: Path, target: Path) -> Path:
    """Turn fer2013.csv into the folder `target`, which is returned: all faces as PGM images, and labels."""
    labels = ["expression,partition\n"]
    with files.atomic_folder(target) as folder:
        files.write_blocks(folder / FACES, _faces(csv, labels))
        files.write_blocks(folder / LABELS, (label.encode() for label in labels))
    return target


def _faces(csv: Path, labels: list[str]) -> Iterator[bytes]:
    numbered = rows(csv, ("emotion", "pixels", "Usage"))
    for line, row in track(numbered, _PUBLISHED, csv.name, "faces"):
        expression, part = EXPRESSIONS.get(row["emotion"].strip()), PARTS.get(row["Usage"].strip())
        if expression is None or part is None:
            what = f"emotion is {row['emotion']!r} and Usage {row['Usage']!r}, which are not both known"
            raise malformed(csv, line, what)
        yield _HEADER + _pixels(csv, line, row["pixels"])
        labels.append(f"{expression},{part}\n")


def _pixels(csv: Path, line: int, text: str) -> bytes:
    try:
        pixels = bytes(map(int, text.split()))
    except ValueError as error:
        raise malformed(csv, line, "the pixels are not all whole numbers from 0 to 255") from error
    if len(pixels) != _SIDE**2:
        raise malformed(csv, line, f"{_SIDE**2} pixels are needed, and there are {len(pixels)}")
    return pixels


def _photos(place: Place, _: Counter[str]) -> Iterator[Photo]:
    """Yield the faces that `unpack_csv` wrote, in the order of the CSV file."""
    faces, count = place.images / FACES, 0
    for count, (_line, known) in enumerate(rows(place.images / LABELS, ("expression", "partition")), start=1):
        yield Photo(f"fer2013/{count:05}", None, faces, (count - 1) * _RECORD, _RECORD, known)
    size = faces.stat().st_size
    if size != count * _RECORD:
        raise IntegrityError(
            f"{faces} has {size} bytes, and {count} faces need {count * _RECORD}; delete {place.images} and "
            "run the same command again."
        )


SOURCE = Source(
    name="fer2013",
    title="FER2013",
    folder="fer2013",
    images="fer2013.csv",
    photos=_photos,
    convert=unpack_csv,
    licence="research, under the rules of the Kaggle competition; the photos belong to their owners",
    credit="FER2013; Goodfellow and others, Challenges in Representation Learning, 2013",
    address=ADDRESS,
    how_to_get=f"Join the Kaggle competition at {ADDRESS}, accept its rules, get fer2013.tar.gz and put the "
    "fer2013.csv inside into the folder fer2013 of the raw data.",
    published_images=_PUBLISHED,
    attributes={
        "expression": EXPRESSION,
        "partition": Attribute("part of the data set, as its authors divide it", "text"),
    },
    align="crop",
    limits=Limits(file_bytes=500_000_000),
)
