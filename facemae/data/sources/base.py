"""What a source of faces is: where its files lie or come from, and how they become photos.

A source is a value, not a class to inherit from: plain facts, and functions from an unpacked folder to
photos and pairs. Adding one is a module with one `Source` in it and a line in `sources.SOURCES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Value = str | int | float | bool | None
Kind = Literal["text", "integer", "number", "boolean"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Photo:
    """One input: a file, or `length` bytes from `offset` on in a file that holds many.

    It is known everywhere by its `sample_id`; `person` is None where nobody is named.
    """

    sample_id: str
    person: str | None
    path: Path
    offset: int = 0
    length: int | None = None
    """Bytes; None: the whole file."""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    """Values of the attributes that the source declares; those it does not know may be left out."""


@dataclass(frozen=True)
class Pair:
    """Two photos to compare, by sample_id; `protocol` names the list, `fold` counts from 0."""

    protocol: str
    fold: int
    first: str
    second: str
    genuine: bool


@dataclass(frozen=True)
class Attribute:
    """What a column of the manifest means; `unit` is empty where there is none."""

    meaning: str
    kind: Kind
    unit: str = ""


@dataclass(frozen=True)
class Remote:
    """A file that can be downloaded without a form: the same bytes from each of `urls`, tried in order."""

    filename: str
    urls: tuple[str, ...]
    sha256: str
    bytes: int
    """Size, for the time left and the disk; the checksum is what decides."""


@dataclass(frozen=True)
class Limits:
    """What unpacking an archive may cost at most; more is taken for an attack or a mistake."""

    entries: int = 200_000
    total_bytes: int = 2_000_000_000
    file_bytes: int = 50_000_000
    ratio: int = 100
    """Unpacked bytes per byte of archive."""


@dataclass(frozen=True)
class Place:
    """Where a source's photos are, a folder or a file, and by name the files beside it that are there."""

    images: Path
    sides: Mapping[str, Path]


ListPhotos = Callable[[Place, Counter[str]], Iterator[Photo]]
ListPairs = Callable[[Place], Iterator[Pair]]
Convert = Callable[[Path, Path], Path]


@dataclass(frozen=True)
class Source:
    """A data set, or a kind of folder or file.

    Attributes:
        name: What `config.yaml` calls it.
        title: Its full name.
        folder: Where below the folder of raw data its files lie.
        images: What holds the photos: the name without suffix of a folder or archive, or a file's full name.
        photos: Yields the photos in a fixed order and counts by reason the files that are none.
        licence: Terms of use, short.
        credit: Whom to credit.
        address: Where it is described and can be asked for.
        how_to_get: What to fetch, from whom, where there is a form or no stable public address.
        published_images: Photos its own documentation counts; None where that is not fixed.
        published_people: People, likewise; None also where nobody is named.
        sides: Names of files beside the photos that are read if they are there.
        convert: Turns a file that holds photos in a form of its own into a folder of images or of files
            whose byte ranges are images; called once, with the file and the folder to make.
        pairs: Yields the source's own lists of pairs.
        downloads: Files that can be downloaded; empty where there is a form.
        attributes: Columns that its photos fill.
        align: "landmarks" (find the face) or "crop" (the photos are faces already).
        subject: Whose face is meant where there are several: the largest, or the most central.
        crop: For "crop": the square that becomes the aligned face, as shares of width and height (left,
            top, right, bottom); it may reach beyond the photo.
        limits: What unpacking may cost.
    """

    name: str
    title: str
    folder: str
    images: str
    photos: ListPhotos
    licence: str
    credit: str
    address: str
    how_to_get: str = ""
    published_images: int | None = None
    published_people: int | None = None
    sides: tuple[str, ...] = ()
    convert: Convert | None = None
    pairs: ListPairs | None = None
    downloads: tuple[Remote, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    align: Literal["landmarks", "crop"] = "landmarks"
    subject: Literal["largest", "central"] = "largest"
    crop: Box = (0.0, 0.0, 1.0, 1.0)
    limits: Limits = Limits()


AGE = Attribute("age", "integer", "years")
GENDER = Attribute("gender as the data set labels it: female or male", "text")
RACE = Attribute("race as the data set labels it: white, black, asian, indian or other", "text")
EXPRESSION = Attribute("facial expression as the data set labels it", "text")
