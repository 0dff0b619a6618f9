"""A folder of photos of the user's own."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from facemae.core.errors import DataError, UsageError
from facemae.data.images import starts_like_picture
from facemae.data.sources.base import Pair, Photo, Place, Source
from facemae.data.sources.listing import malformed, printable, read_pairs, visible_files

PAIRS = "pairs.csv"
NO_PICTURE = "no picture"

_PICTURE_NAME = re.compile(
    r"\.(?:jpe?g|jpe|jfif|png|webp|gif|bmp|p[bgnp]m|hei[cf]|avif|tiff?|jp2|jxl|dng|cr[23]|nef|arw|orf|raf)",
    re.IGNORECASE,
)


def folder_source(path: Path, set_name: str, number: int = 0) -> Source:
    """Return the source of the photos in a folder or archive; those of `person/photo.jpg` have a person.

    A file is a photo if it begins like a picture, whatever it is called, or if it is called like one. The
    sample_ids start with `set_name`, "labelled" or "unlabelled", and with `number`, if it is not 0.
    """
    name = f"{set_name}-{number}" if number else set_name
    return Source(
        name=name,
        title=printable(path.absolute().name),
        folder="",
        images=".",
        photos=partial(_photos, name),
        pairs=partial(_pairs, name),
        licence="that of the photos' owners",
        credit="the photos' owners",
        address="",
    )


def _photos(name: str, place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    folder, shown = place.images, printable(str(place.images))
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"{shown} is not a folder that can be read; check its spelling and permissions.")
    found = False
    for path in visible_files(folder, ignored):
        relative = path.relative_to(folder)
        if relative == Path(PAIRS):
            ignored["list of pairs"] += 1
        elif _PICTURE_NAME.fullmatch(path.suffix) or starts_like_picture(path):
            found = True
            person = printable(relative.parts[0]) if len(relative.parts) == 2 else None
            yield Photo(f"{name}/{printable(relative.as_posix())}", person, path)
        else:
            ignored[NO_PICTURE] += 1
    if not found:
        others = f", and {ignored[NO_PICTURE]} files that are no pictures" if ignored[NO_PICTURE] else ""
        raise DataError(f"{shown} holds no photos{others}; put some there, or name another folder.")


def _pairs(name: str, place: Place) -> Iterator[Pair]:
    """Yield the pairs of `pairs.csv`, whose photos are paths relative to the folder."""
    path = place.images / PAIRS
    for pair in read_pairs(path) if path.is_file() else ():
        photos = []
        for text in (pair.first, pair.second):
            relative = PurePosixPath(text)
            if not relative.parts or relative.is_absolute() or ".." in relative.parts:
                raise malformed(path, pair.line, f"{text!r} is no path of a photo relative to the folder")
            photos.append(f"{name}/{printable(relative.as_posix())}")
        yield Pair("pairs", pair.fold, photos[0], photos[1], pair.same)
