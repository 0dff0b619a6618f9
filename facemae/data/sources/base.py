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
    """One input, known everywhere by its `sample_id`: a file, or a range of bytes of one that holds many."""

    sample_id: str
    person: str | None  # None: nobody is named
    path: Path
    offset: int = 0
    length: int | None = None  # None: the whole file
    attributes: Mapping[str, Value] = field(default_factory=dict)  # of those that the source declares


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
    """A file that can be downloaded without a form."""

    filename: str
    url: str
    sha256: str
    bytes: int  # for the time left and the disk; the checksum is what decides


@dataclass(frozen=True)
class Limits:
    """What unpacking an archive may cost at most; more is taken for an attack or a mistake."""

    entries: int = 200_000
    total_bytes: int = 2_000_000_000
    file_bytes: int = 50_000_000
    ratio: int = 100  # unpacked bytes per byte of archive


@dataclass(frozen=True)
class Place:
    """Where a source's photos are, a folder or a file, and by name the files beside it that are there."""

    images: Path
    sides: Mapping[str, Path]


@dataclass(frozen=True)
class Source:
    """A data set, or a kind of folder or file."""

    name: str  # what `config.yaml` calls it
    title: str
    folder: str  # where below the folder of raw data its files lie
    images: str  # what holds the photos: a folder or archive, without suffix, or a file
    photos: Callable[[Place, Counter[str]], Iterator[Photo]]  # in a fixed order; counts what is none
    licence: str
    credit: str
    address: str  # where it is described and can be asked for
    how_to_get: str = ""  # what to fetch from whom, where there is a form or no stable public address
    published_images: int | None = None  # counted by its own documentation; None: not fixed
    published_people: int | None = None  # likewise; None also where nobody is named
    sides: tuple[str, ...] = ()  # files beside the photos that are read if they are there
    # Turns a file that holds photos in a form of its own into a folder, which it makes and returns.
    convert: Callable[[Path, Path], Path] | None = None
    pairs: Callable[[Place], Iterator[Pair]] | None = None  # the source's own lists
    downloads: tuple[Remote, ...] = ()  # none where there is a form
    attributes: Mapping[str, Attribute] = field(default_factory=dict)  # columns that its photos fill
    align: Literal["landmarks", "crop"] = "landmarks"  # find the face, or take the photo as one
    subject: Literal["largest", "central"] = "largest"  # whose face is meant where there are several
    # For "crop": the square that becomes the aligned face, as shares of width and height (left, top, right,
    # bottom); it may reach beyond the photo.
    crop: Box = (0.0, 0.0, 1.0, 1.0)
    limits: Limits = Limits()


AGE = Attribute("age", "integer", "years")
GENDER = Attribute("gender as the data set labels it: female or male", "text")
RACE = Attribute("race as the data set labels it: white, black, asian, indian or other", "text")
EXPRESSION = Attribute("facial expression as the data set labels it", "text")
