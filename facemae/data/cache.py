"""The decoded cache: every aligned face as raw pixels in one memory-mapped file, checked block by block.

Training reads pixels at random thousands of times; decoding an image each time would cost more than the
training step on a GPU. The file is a plain NumPy array in the index's order. Shapes: N faces, H side.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facemae import files, results
from facemae.data import store
from facemae.data.images import ImageError, open_image
from facemae.errors import DataError, IntegrityError
from facemae.progress import Progress, say
from facemae.results import DataFolder

BLOCK = 512  # faces behind one checksum: 19 MB at 112 px


@dataclass(frozen=True)
class Faces:
    """Aligned faces in memory.

    Attributes:
        images: (N, H, H, 3) uint8.
        sample_ids: (N,) names of the photos.
        people: (N,) person of each face, or None where it is not known.
    """

    images: NDArray[np.uint8]
    sample_ids: list[str]
    people: list[str | None]


def build_cache(folder: DataFolder) -> None:
    """Decode the faces that the index lists; a killed build goes on after its last whole block.

    Raises:
        DataError: there are none.
        IntegrityError: a shard is missing or damaged.
        StorageError: the disk is full.
    """
    count = pq.read_metadata(folder.faces).num_rows
    size = _side(folder, count)
    identity = {"index": files.sha256_of(folder.faces), "shape": [count, size, size, 3], "block": BLOCK}
    if _is_built(folder, identity):
        say("cache", f"{count} faces are decoded already")
        return
    folder.cache.unlink(missing_ok=True)  # or a kill below could leave it beside the new checksums
    partial, journal = (folder.cache.with_name(f".faces.npy{end}") for end in (".partial", ".blocks"))
    header = _header(count, size)
    hashes = _resume(partial, journal, identity, header)
    block_bytes = BLOCK * size * size * 3
    progress = Progress("cache", count, "faces", min(len(hashes) * BLOCK, count))
    done = min(len(hashes) * block_bytes, count * size * size * 3)  # the last block is shorter
    with files.resume_file(partial, len(header) + done) as file:
        for block in _blocks(folder, size, skip=len(hashes)):
            file.write(block)
            file.flush()
            hashes.append(files.sha256(block))
            files.append_line(journal, hashes[-1])
            progress.update(min(len(hashes) * BLOCK, count))
    files.write_json(folder.cache_hashes, identity | {"sha256": hashes})
    files.publish(partial, folder.cache)
    journal.unlink()


def _side(folder: DataFolder, count: int) -> int:
    if not count:
        raise DataError(f"{folder.faces} lists no face; see {folder.outcomes} for the reasons.")
    first = pd.read_parquet(folder.faces, columns=["shard", "row"]).iloc[0]
    return len(_decode(store.read_images(folder, first["shard"])[first["row"]], folder))


def _is_built(folder: DataFolder, identity: dict[str, Any]) -> bool:
    if not folder.cache.exists() or not folder.cache_hashes.exists():
        return False
    try:
        known = results.read_json(folder.cache_hashes)
    except IntegrityError:  # then it is made again
        return False
    return {name: known.get(name) for name in identity} == identity


def _header(count: int, size: int) -> bytes:
    buffer = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    return buffer.getvalue()


def _resume(partial: Path, journal: Path, identity: dict[str, Any], header: bytes) -> list[str]:
    """Return the checksums of the blocks that an earlier build left whole, and make ready to go on."""
    lines = journal.read_text().splitlines() if journal.exists() and partial.exists() else []
    hashes = []
    if lines and lines[0] == json.dumps(identity):
        block_bytes = BLOCK * int(np.prod(identity["shape"][1:]))
        with open(partial, "rb") as file:
            if file.read(len(header)) == header:
                for known in lines[1:]:
                    if files.sha256(file.read(block_bytes)) != known:
                        break
                    hashes.append(known)
    if not hashes:
        files.atomic_write(partial, header)
    files.atomic_write(journal, "".join(f"{each}\n" for each in [json.dumps(identity), *hashes]).encode())
    return hashes


def _blocks(folder: DataFolder, size: int, skip: int) -> Iterator[bytes]:
    """Yield the pixels of `BLOCK` faces at a time, after the first `skip` blocks."""
    index = pd.read_parquet(folder.faces, columns=["shard", "row"]).iloc[skip * BLOCK :]
    block: list[bytes] = []
    for shard, rows in groupby(zip(index["shard"], index["row"], strict=True), key=lambda each: each[0]):
        images = store.read_images(folder, shard)
        for _, row in rows:
            pixels = _decode(images[row], folder)
            if pixels.shape != (size, size, 3):
                raise IntegrityError(f"{folder.root / shard} holds a face of another size; align again.")
            block.append(pixels.tobytes())
            if len(block) == BLOCK:
                yield b"".join(block)
                block = []
    if block:
        yield b"".join(block)


def _decode(image: bytes | None, folder: DataFolder) -> NDArray[np.uint8]:
    try:
        return np.asarray(open_image(image or b""))
    except ImageError as error:
        raise IntegrityError(f"{folder.shards} holds a damaged face ({error}); align again.") from error


def load_faces(folder: DataFolder, rows: pd.DataFrame) -> Faces:
    """Return the faces that `rows` (with a column sample_id) names, in its order.

    Raises:
        IntegrityError: the cache is damaged, belongs to another index or lacks a face.
    """
    known = results.read_json(folder.cache_hashes)
    if known.get("index") != files.sha256_of(folder.faces):
        raise IntegrityError(f"{folder.cache} was made for other faces; delete it and run again.")
    index = results.read_table(folder.faces, ["sample_id", "person"])
    places = pd.Index(index["sample_id"]).get_indexer(rows["sample_id"])
    if (places < 0).any():
        missing = rows["sample_id"].iloc[int(np.argmin(places))]
        raise IntegrityError(f"{folder.faces} lacks the face {missing} of the split; align the photos again.")
    chosen = index.iloc[places]
    people = [person if isinstance(person, str) else None for person in chosen["person"]]
    return Faces(_read(folder, known, places), chosen["sample_id"].to_list(), people)


def _read(folder: DataFolder, known: dict[str, Any], places: NDArray[np.intp]) -> NDArray[np.uint8]:
    try:
        pixels = np.load(folder.cache, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(f"{folder.cache} is damaged ({error}); delete it and run again.") from error
    if list(pixels.shape) != known["shape"]:
        raise IntegrityError(f"{folder.cache} is not what its checksums are for; delete it and run again.")
    for block in np.unique(places // known["block"]).tolist():
        start = block * known["block"]
        if files.sha256(memoryview(pixels[start : start + known["block"]])) != known["sha256"][block]:
            raise IntegrityError(
                f"{folder.cache} is damaged (wrong checksum of block {block}); delete it and run again."
            )
    chosen: NDArray[np.uint8] = pixels[places]
    return chosen
