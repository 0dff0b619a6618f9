"""The decoded cache: every aligned face as raw pixels in one file, checked block by block.

Training reads pixels at random thousands of times; decoding an image each time would cost more than the
training step on a GPU. The file is a plain NumPy array in the index's order. Whatever reads it raises an
IntegrityError where it is damaged, cut short or of another index, or lacks a face. Shapes: N faces, H side.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import files, records
from facemae.core.errors import DataError, IntegrityError
from facemae.core.layout import DataFolder
from facemae.core.progress import Progress, say
from facemae.data.faces import shards

BLOCK = 512  # faces behind one checksum: 19 MB at 112 px
SILENT_SECONDS = 5.0  # a check that takes longer shows its progress


@dataclass(frozen=True)
class Faces:
    """Aligned faces in memory: (N, H, H, 3) uint8, names of photos, and people, None where unknown."""

    images: NDArray[np.uint8]
    sample_ids: list[str]
    people: list[str | None]


def build_cache(folder: DataFolder) -> None:
    """Decode the faces that the index lists; a killed build goes on after its last whole block.

    A DataError where there are none, an IntegrityError where a shard is missing or damaged.
    """
    index = records.read_table(folder.faces, ["shard", "row"])
    count = len(index)
    if not count:
        raise DataError(f"{folder.faces} lists no face; see {folder.outcomes} for the reasons.")
    face = next(_decoded(folder, index))
    identity = {"index": files.sha256_of(folder.faces), "shape": [count, *face.shape], "block": BLOCK}
    if _is_built(folder, identity):
        say("cache", f"{count} faces are decoded already")
        return
    folder.cache.unlink(missing_ok=True)  # or a kill below could leave it beside the new checksums
    partial, journal = (folder.cache.with_name(f".faces.npy{end}") for end in (".partial", ".blocks"))
    header = _header([count, *face.shape])
    hashes = _resume(partial, journal, identity, header)
    partial.chmod(0o600)
    done = min(len(hashes) * BLOCK, count)  # the last block is shorter
    progress = Progress("cache", count, "faces", done)
    with files.resume_file(partial, len(header) + done * face.nbytes) as file:
        faces = _decoded(folder, index.iloc[done:], face.shape)
        while block := b"".join(each.tobytes() for each in itertools.islice(faces, BLOCK)):
            file.write(block)
            file.flush()
            hashes.append(files.sha256(block))
            files.append_line(journal, hashes[-1])
            progress.update(min(len(hashes) * BLOCK, count))
    files.write_json(folder.cache_hashes, identity | {"sha256": hashes})
    files.publish(partial, folder.cache)
    journal.unlink()


def _is_built(folder: DataFolder, identity: dict[str, Any]) -> bool:
    if not folder.cache.exists() or not folder.cache_hashes.exists():
        return False
    try:
        known = records.read_json(folder.cache_hashes)
    except IntegrityError:  # then it is made again
        return False
    return {name: known.get(name) for name in identity} == identity


def _header(shape: Sequence[int]) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _resume(partial: Path, journal: Path, identity: dict[str, Any], header: bytes) -> list[str]:
    """Return the checksums of the blocks that an earlier build left whole, and make ready to go on."""
    lines = journal.read_text().splitlines() if journal.exists() and partial.exists() else []
    hashes = []
    if lines and lines[0] == json.dumps(identity):
        with open(partial, "rb") as file:
            known = lines[1:] if file.read(len(header)) == header else []
            found = (files.sha256(file.read(BLOCK * math.prod(identity["shape"][1:]))) for _ in known)
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(known, found, strict=True))
            hashes = [each for each, _ in same]
    if not hashes:
        files.atomic_write(partial, header)
    files.atomic_write(journal, "".join(f"{each}\n" for each in [json.dumps(identity), *hashes]).encode())
    return hashes


def _decoded(
    folder: DataFolder, index: pd.DataFrame, shape: tuple[int, ...] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield the faces that rows of the index name, (H, H, 3), all of one shape if that is given."""
    places = zip(index["shard"], index["row"], strict=True)
    for shard, rows in itertools.groupby(places, key=lambda place: place[0]):
        for face in shards.read_faces(folder, shard, (row for _, row in rows)):
            if face.shape != (shape or face.shape):
                raise IntegrityError(f"{folder.root / shard} holds a face of another size; align again.")
            yield face


class FaceFile:
    """The decoded faces on disk, read at random without being brought into memory.

    They are read and not mapped: a file that is cut short or a disk that fails is then an error with a
    message, where a mapping would kill the process. The file stays open as long as the object lives, so that
    a cache that is rebuilt meanwhile changes nothing. `shape` is (count, H, H, 3), of uint8 pixels.
    """

    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        self.path, self.shape = path, tuple(shape)
        self._face_bytes = math.prod(self.shape[1:])
        header = _header(shape)
        self._start = len(header)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            found = os.pread(self._descriptor, len(header), 0)
        except OSError as error:
            raise IntegrityError(f"{path} is damaged ({error}); delete it and run again.") from error
        if found != header:
            raise IntegrityError(f"{path} is not what its checksums are for; delete it and run again.")

    def read(self, places: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Read the faces at `places` (B,) into `out` (B, H, H, 3); several threads may at a time."""
        firsts = places.tolist()
        if hasattr(os, "posix_fadvise"):  # not on macOS; a cold disk finds them together, 4 times as fast
            for first in firsts:
                start = self._start + first * self._face_bytes
                os.posix_fadvise(self._descriptor, start, self._face_bytes, os.POSIX_FADV_WILLNEED)
        for first, face in zip(firsts, out, strict=True):
            self.read_from(first, face)

    def read_from(self, first: int, out: NDArray[np.uint8]) -> None:
        """Read what lies from face `first` on into `out`, as much as it holds."""
        start, left = self._start + first * self._face_bytes, out.data.cast("B")
        while left:
            try:
                count = os.preadv(self._descriptor, [left], start)
            except OSError as error:
                raise IntegrityError(
                    f"{self.path} cannot be read ({error.strerror}); check the disk, delete it and run again."
                ) from error
            if not count:
                raise IntegrityError(f"{self.path} is cut short; delete it and run again.")
            start, left = start + count, left[count:]


@dataclass(frozen=True)
class OpenFaces:
    """Aligned faces on disk, checked: those at `places` (N,) of a `file`, otherwise like `Faces`."""

    file: FaceFile
    places: NDArray[np.intp]
    sample_ids: list[str]
    people: list[str | None]

    @property
    def size(self) -> int:
        """Return how many bytes the chosen faces would take in memory."""
        return len(self.places) * math.prod(self.file.shape[1:])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, chosen: slice) -> NDArray[np.uint8]:
        places = self.places[chosen]
        images = np.empty((len(places), *self.file.shape[1:]), np.uint8)
        self.file.read(places, images)
        return images

    def loaded(self) -> Faces:
        """Return them in memory."""
        return Faces(self[:], self.sample_ids, self.people)

    def some(self, ids: NDArray[np.integer]) -> OpenFaces:
        """Return the chosen faces `ids` (B,), from 0 to N - 1."""
        names, people = ([each[place] for place in ids] for each in (self.sample_ids, self.people))
        return OpenFaces(self.file, self.places[ids], names, people)

    def read(self, ids: NDArray[np.integer], out: NDArray[np.uint8]) -> None:
        """Read the chosen faces `ids` (B,), from 0 to N - 1, into `out` (B, H, H, 3)."""
        self.file.read(self.places[ids], out)


def open_faces(folder: DataFolder, rows: pd.DataFrame) -> OpenFaces:
    """Find the faces that `rows` (with a column sample_id) names, in its order, and check their blocks."""
    known = records.read_json(folder.cache_hashes)
    if known.get("index") != files.sha256_of(folder.faces):
        raise IntegrityError(f"{folder.cache} was made for other faces; delete it and run again.")
    index = records.read_table(folder.faces, ["sample_id", "person"])
    places = pd.Index(index["sample_id"]).get_indexer(rows["sample_id"])
    if (places < 0).any():
        missing = rows["sample_id"].iloc[int(np.argmin(places))]
        raise IntegrityError(f"{folder.faces} lacks the face {missing} of the split; align the photos again.")
    file = FaceFile(folder.cache, known["shape"])
    _check_blocks(file, known, np.unique(places // known["block"]).tolist())
    chosen = index.iloc[places]
    people = [person if isinstance(person, str) else None for person in chosen["person"]]
    return OpenFaces(file, places, chosen["sample_id"].to_list(), people)


def _check_blocks(file: FaceFile, known: dict[str, Any], blocks: list[int]) -> None:
    buffer = np.empty((known["block"], *file.shape[1:]), np.uint8)
    started, progress = time.monotonic(), Progress("cache", len(blocks), "blocks checked")
    for done, block in enumerate(blocks, start=1):
        first = block * known["block"]
        pixels = buffer[: file.shape[0] - first]  # the last block is shorter
        file.read_from(first, pixels)
        if files.sha256(pixels.data) != known["sha256"][block]:
            raise IntegrityError(
                f"{file.path} is damaged (wrong checksum of block {block}); delete it and run again."
            )
        if time.monotonic() - started > SILENT_SECONDS:
            progress.update(done)
