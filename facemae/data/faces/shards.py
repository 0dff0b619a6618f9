"""The store of aligned faces: Parquet shards, each made whole by one worker, and an index over them.

A shard holds what became of some photos in a row: one row per face with its image as lossless WebP, or one
row without an image where there is none. What is in a shard is never made again; photos that came later get
shards of their own, and rows of photos that are gone are taken out. pandas, pyarrow and other readers of
Parquet can open the shards as they are.
"""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from facemae.core import files, layout
from facemae.core.errors import IntegrityError
from facemae.core.layout import DataFolder
from facemae.data.alignment.align import Outcome
from facemae.data.faces.duplicates import perceptual_hash
from facemae.data.images import ImageError, open_image
from facemae.data.sources import manifest

ROWS = 512  # photos per shard: some 8 MB of faces at 112 px, and what a kill can cost at most
_SUFFIX = ".parquet"
_MEND = "align the photos again (snakemake --forcerun align)"
_PASSING = ["E_PERMISSION", "CHANGED"]  # outcomes that tell of a moment, not of the photo

_PHOTO_FIELDS = [
    *(pa.field(name, pa.string()) for name in ("key", "sample_id", "person", "source", "set", "sha256")),
    pa.field("bytes", pa.int64()),
]
_FACE_FIELDS = [
    *(pa.field(name, pa.string()) for name in ("code", "reason", "hint")),
    *(pa.field(name, pa.int32()) for name in ("found", "face")),
    *(pa.field(name, pa.float32()) for name in ("score", "face_px", "residual", "yaw", "sharpness")),
    pa.field("warnings", pa.list_(pa.string())),
    pa.field("landmarks", pa.list_(pa.float32())),
    *(pa.field(name, pa.binary()) for name in ("hash", "image")),
]
_PLACE_FIELDS = [pa.field("shard", pa.string()), pa.field("row", pa.int32())]
_REPORTED = [
    *("sample_id", "person", "sha256", "bytes", "code", "reason", "hint", "found", "score", "warnings"),
    "face_px",
]


def schema(attributes: list[pa.Field]) -> pa.Schema:
    """Return the columns of a shard, given the manifest's columns of attributes."""
    return pa.schema([*_PHOTO_FIELDS, *attributes, *_FACE_FIELDS])


def write_shard(path: Path, outcomes: list[Outcome], columns: pa.Schema) -> None:
    """Write the outcomes of some photos, and their faces."""
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    _write(path, pa.Table.from_pylist(rows, columns))


def _write(path: Path, table: pa.Table) -> None:
    with files.atomic_file(path) as file:
        # Lossless WebP has no checksum of its own, so the pages that hold it get one.
        pq.write_table(table, file, compression="zstd", compression_level=1, write_page_checksum=True)


def _rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    entry = outcome.entry
    photo = {**entry.photo.attributes, **vars(entry.photo), **vars(entry), **vars(outcome), "face": 0}
    if not outcome.faces:
        yield photo
    for number, face in enumerate(outcome.faces):
        name = f"{photo['sample_id']}#{number + 1}" if number else photo["sample_id"]
        landmarks = None if face.landmarks is None else face.landmarks.ravel().tolist()
        encoded = {"hash": perceptual_hash(face.image), "image": encode_face(face.image)}
        own = {"sample_id": name, "face": number, "landmarks": landmarks}
        yield photo | vars(face) | own | encoded


def encode_face(face: NDArray[np.uint8]) -> bytes:
    """Encode an aligned (H, H, 3) face without loss.

    As WebP, since next to PNG it was measured to take 0.8 of the bytes, 1/6 of the time to write and 2/3 to
    read (LFW at 112 px; benchmarks/README.md).
    """
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "WEBP", lossless=True, method=0)
    return buffer.getvalue()


def shard_paths(folder: Path) -> list[Path]:
    """Return the shards in `folder`, in order."""
    return sorted(folder.glob(f"*{_SUFFIX}"))


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of shard `number`."""
    return folder / f"{number:06}{_SUFFIX}"


def free_numbers(folder: Path) -> Iterator[int]:
    """Return the numbers that no shard has, ascending: a re-run after a kill gives each shard its old one."""
    taken = {int(path.stem) for path in shard_paths(folder)}
    return (number for number in itertools.count() if number not in taken)


def stored_keys(folder: Path) -> NDArray[np.uint64]:
    """Return the keys of all photos that the shards hold, sorted."""
    parts = [np.zeros(0, np.uint64), *(manifest.keys(path) for path in shard_paths(folder))]
    return np.unique(np.concatenate(parts))


def forget_passing(folder: Path) -> None:
    """Take out photos that could not be read when it was their turn, so that they get another."""
    for path in shard_paths(folder):
        keep = pc.invert(pc.is_in(_read(path, ["code"])["code"], pa.array(_PASSING)))
        _keep(path, keep.to_numpy())


def finish(folder: DataFolder, shards: Path) -> Counter[str]:
    """Take out rows of photos that are gone, write index and report, and count the photos by outcome.

    An IntegrityError where a photo of the manifest has no outcome.
    """
    wanted = np.sort(manifest.keys(folder.photos))
    for path in shard_paths(shards):
        _keep(path, np.isin(manifest.keys(path), wanted))
    for left in shards.glob(".*.tmp"):  # of a worker that was killed while writing
        left.unlink()
    stored = stored_keys(shards)
    if len(stored) != len(wanted):
        raise IntegrityError(
            f"{len(wanted) - len(stored)} of {len(wanted)} photos have no outcome in {shards}; align again."
        )
    columns = schema(manifest.attributes_of(folder.photos))
    dropped = {"reason", "hint", "image", "code"}
    index = pa.schema([each for each in columns if each.name not in dropped] + _PLACE_FIELDS)
    counts: Counter[str] = Counter()
    with (
        files.atomic_file(folder.faces) as faces,
        files.atomic_file(folder.outcomes) as report,
        files.atomic_file(folder.rejected) as rejected,
        pq.ParquetWriter(faces, index, compression="zstd") as writer,
    ):
        for path in shard_paths(shards):
            table = _read(path)
            has_image, shard = pc.is_valid(table["image"]), str(path.relative_to(folder.root))
            table = table.drop_columns("image")
            numbered = table.append_column("row", pa.array(range(len(table)), pa.int32()))
            numbered = numbered.append_column("shard", pa.array([shard] * len(table), pa.string()))
            writer.write_table(numbered.filter(has_image).select(index.names).cast(index))
            first_rows = table.filter(pc.equal(table["face"], 0))  # one speaks for each photo
            for row in first_rows.select(_REPORTED).to_pylist():
                rounded = {key: round(row[key], 4) for key in ("score", "face_px") if row[key] is not None}
                counts[row["code"]] += 1
                line = json.dumps(row | rounded, ensure_ascii=True, allow_nan=False).encode() + b"\n"
                report.write(line)
                if row["code"] != "OK":
                    rejected.write(line)
        if counts.total() != len(wanted):
            counted = f"{shards} holds {counts.total()} outcomes for {len(wanted)} photos"
            raise IntegrityError(f"{counted}; delete it and align again.")
    return counts


def _keep(path: Path, keep: NDArray[np.bool_]) -> None:
    """Leave only some rows in a shard, and no shard without rows."""
    if not keep.any():
        path.unlink()
    elif not keep.all():
        _write(path, _read(path).filter(pa.array(keep)))


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return a shard, or some of its columns; every page is checked against its checksum."""
    try:
        with manifest.opened(path, f"delete it and {_MEND}") as shard:
            table = shard.read(columns)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing; {_MEND}.") from error
    return table.rename_columns([layout.RENAMED_COLUMNS.get(name, name) for name in table.column_names])


def read_faces(folder: DataFolder, shard: str, rows: Iterable[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield the faces (H, H, 3) in some rows of a shard; an IntegrityError where one is gone or damaged."""
    path = (folder.root / shard).resolve()
    if not path.is_relative_to(folder.root.resolve()):
        raise IntegrityError(f"{folder.faces} names a shard outside its folder ({shard}); align again.")
    images: list[bytes | None] = _read(path, ["image"])["image"].to_pylist()
    for row in rows:
        try:
            face = np.asarray(open_image(images[row] or b""))
        except (ImageError, IndexError) as error:
            raise IntegrityError(f"{folder.shards} holds a damaged face ({error}); align again.") from error
        yield face
