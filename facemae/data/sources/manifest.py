"""The manifest: one typed row per input photo, written and read as a stream, whatever their number.

A row says which photo it is, whom it shows, where its bytes are and what they were when it was listed.
Its `key` is a hash of everything but the place: as long as that stays, so does the aligned face.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facemae.core import files, records
from facemae.core.errors import IntegrityError, UsageError
from facemae.data.images import ImageError, followed, read_file
from facemae.data.sources.base import Attribute, Photo

_BATCH = 2048
_TYPES = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_FIELDS = [
    *(pa.field(name, pa.string()) for name in ("key", "sample_id", "person", "source", "set")),
    pa.field("path", pa.binary()),  # as bytes, since a file name need not be text
    pa.field("offset", pa.int64()),
    pa.field("length", pa.int64()),
    pa.field("sha256", pa.string()),
    pa.field("bytes", pa.int64()),
]
_CORE = {field.name for field in _FIELDS}


@dataclass(frozen=True)
class Entry:
    """One row of the manifest; `sha256` and `bytes` are None where the photo could not be read."""

    key: str
    photo: Photo
    source: str
    set: str
    sha256: str | None
    bytes: int | None


def read_photo(photo: Photo) -> bytes:
    """Return the encoded bytes of a photo; an ImageError where it cannot be read."""
    return read_file(followed(photo.path), photo.offset, photo.length)


def enter(photo: Photo, source: str, set_name: str) -> Entry:
    """Return the row of a photo, having read and hashed its bytes."""
    content, size = None, None
    with contextlib.suppress(ImageError):  # the aligner meets it again and records it as the photo's outcome
        data = read_photo(photo)
        content, size = files.sha256(data), len(data)
    identity = [photo.sample_id, photo.person, source, set_name, content, sorted(photo.attributes.items())]
    return Entry(records.digest(identity), photo, source, set_name, content, size)


def attribute_fields(attributes: Mapping[str, Attribute]) -> list[pa.Field]:
    """Return the columns of attributes, each with its meaning and unit in the column's metadata."""
    return [
        pa.field(name, _TYPES[each.kind], metadata={"meaning": each.meaning, "unit": each.unit})
        for name, each in attributes.items()
    ]


def write(path: Path, entries: Iterable[Entry], attributes: Mapping[str, Attribute]) -> None:
    """Write the manifest, a batch at a time; a UsageError where two photos have the same `sample_id`."""
    schema = pa.schema([*_FIELDS, *attribute_fields(attributes)])
    # Without checksums a flipped bit is only another name.
    options = {"compression": "zstd", "write_page_checksum": True}
    with files.atomic_file(path) as file, pq.ParquetWriter(file, schema, **options) as writer:
        for batch in batched(entries, _BATCH):
            writer.write_batch(pa.RecordBatch.from_pylist([_row(entry) for entry in batch], schema))
    _check_unique(path)


def _row(entry: Entry) -> dict[str, object]:
    photo = entry.photo
    return {**photo.attributes, **vars(photo), **vars(entry), "path": os.fsencode(photo.path.absolute())}


def _check_unique(path: Path) -> None:
    numbers = (int(files.sha256(name.encode())[:16], 16) for name in _column(path, "sample_id"))
    hashes = np.fromiter(numbers, np.uint64)
    if len(np.unique(hashes)) < len(hashes):
        name, times = Counter(_column(path, "sample_id")).most_common(1)[0]
        path.unlink()
        raise UsageError(f"{name} is named {times} times; name each data set or folder only once.")


def read(path: Path) -> Iterator[Entry]:
    """Yield the rows of a manifest, in its order; an IntegrityError where it is damaged."""
    with opened(path) as table:
        if list(table.schema_arrow)[: len(_FIELDS)] != _FIELDS:
            raise pa.ArrowInvalid("its columns are not those of a list of photos")
        for batch in table.iter_batches(_BATCH):
            yield from map(_entry, batch.to_pylist())


def _entry(row: dict[str, Any]) -> Entry:
    attributes = {name: value for name, value in row.items() if name not in _CORE and value is not None}
    place = Path(os.fsdecode(row["path"]))
    photo = Photo(row["sample_id"], row["person"], place, row["offset"], row["length"], attributes)
    return Entry(row["key"], photo, row["source"], row["set"], row["sha256"], row["bytes"])


def attributes_of(path: Path) -> list[pa.Field]:
    """Return the manifest's columns of attributes."""
    with opened(path) as table:
        return list(table.schema_arrow)[len(_FIELDS) :]


def keys(path: Path) -> NDArray[np.uint64]:
    """Return the keys of all rows as numbers, in the manifest's order."""
    return np.fromiter((int(key, 16) for key in _column(path, "key")), np.uint64)


def _column(path: Path, name: str) -> Iterator[str]:
    with opened(path) as table:
        if name not in table.schema_arrow.names:
            raise pa.ArrowInvalid(f"it lacks the column {name}")
        for batch in table.iter_batches(_BATCH, columns=[name]):
            yield from batch[name].to_pylist()


@contextlib.contextmanager
def opened(path: Path, mend: str = "make it again") -> Iterator[pq.ParquetFile]:
    """Open a Parquet file, whose pages are checked against their checksums.

    An IntegrityError where it is damaged, which says what helps to `mend` it; an OSError where it is missing.
    """
    with open(path, "rb") as file:
        try:
            yield pq.ParquetFile(file, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:  # damage is any of them to pyarrow
            reason = " ".join(str(error).split())
            raise IntegrityError(f"{path} is damaged ({reason}); {mend}.") from error


def batched(items: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Yield the items in lists of `size`, the last one shorter."""
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch
