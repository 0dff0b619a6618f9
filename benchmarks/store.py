"""The store at size: `python -m benchmarks.store --images FOLDER --json`.

Two questions. How much faster are faces read from the decoded cache than decoded by Pillow from the JPEG
files that they came from? And does memory stay flat as photos grow in number? For the second, photos are
taken as faces (no detector), as byte ranges of one file, so that a hundred thousand take minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import choose_photos, cores, finish, versions
from facemae.core import files
from facemae.core.layout import SET_LABELLED, DataFolder
from facemae.core.progress import say
from facemae.data.alignment.align import Settings
from facemae.data.faces import shards, workers
from facemae.data.faces.cache import build_cache
from facemae.data.sources import manifest
from facemae.data.sources.base import Photo
from facemae.data.sources.manifest import Entry

FACE = 112  # pixels: the side of an aligned face
WHOLE = (0.0, 0.0, 1.0, 1.0)
BATCH = 64

CHILD = """
import resource, sys
from pathlib import Path
from benchmarks.store import prepare
prepare(Path(sys.argv[1]), int(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure(images: Path, limit: int, rounds: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Return the figures.

    Raises:
        UsageError: the folder has no usable photo.
    """
    photos = choose_photos(images, limit, "store")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _pack(photos, folder)
        memory = {str(size): _peak(folder, size) for size in sizes}
        speed = _speed(DataFolder(folder / str(sizes[0])), photos, rounds)
    return {
        **speed,
        "peak_mb": memory,
        "growth": round(memory[str(sizes[-1])] / memory[str(sizes[0])], 2),
        "cores": cores(),
        "versions": versions("facemae", "pillow", "pyarrow", "numpy"),
    }


def _pack(photos: Sequence[Path], folder: Path) -> None:
    """Write all photos into one file, and where each begins and how long it is."""
    blobs = [path.read_bytes() for path in photos]
    files.atomic_write(folder / "pack", b"".join(blobs))
    files.write_json(folder / "lengths.json", [len(blob) for blob in blobs])


def _peak(folder: Path, size: int) -> float:
    """Return the megabytes that a process of its own holds at most while it prepares `size` photos."""
    say("store", f"preparing {size} photos")
    command = [sys.executable, "-c", CHILD, str(folder), str(size)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return round(float(told.splitlines()[-1]), 1)


def prepare(folder: Path, size: int) -> None:
    """List, align, index and decode `size` photos that are byte ranges of the pack, over and over."""
    data = DataFolder(folder / str(size))
    manifest.write(data.photos, _entries(folder, size), {})
    settings = Settings(FACE, 0.9, {}, {"pack": WHOLE}, "")
    workers.align_all(workers.Plan(data.photos, data.shards / "x", settings, "cpu"), workers=1)
    shards.finish(data, data.shards / "x")
    build_cache(data)


def _entries(folder: Path, size: int) -> Iterator[Entry]:
    lengths = json.loads((folder / "lengths.json").read_text())
    starts = np.cumsum([0, *lengths[:-1]]).tolist()
    for number in range(size):
        which = number % len(lengths)
        photo = Photo(f"pack/{number:07}", None, folder / "pack", starts[which], lengths[which])
        yield manifest.enter(photo, "pack", SET_LABELLED)


def _speed(folder: DataFolder, photos: Sequence[Path], rounds: int) -> dict[str, float]:
    """Compare reading faces at random from the cache with decoding JPEG files of the same size."""
    cache = np.load(folder.cache, mmap_mode="r")
    jpegs = [_jpeg(face) for face in cache[: len(photos)]]
    random = np.random.default_rng(0)
    ratios, ours, theirs, large = [], [], [], []
    for _ in range(rounds):
        order = random.permutation(len(jpegs))
        ours.append(_rate(lambda order=order: _read(cache, order), len(order)))
        theirs.append(_rate(lambda order=order: [_decode(jpegs[each]) for each in order], len(order)))
        blobs = [photos[each].read_bytes() for each in order]
        large.append(_rate(lambda blobs=blobs: [_decode(blob) for blob in blobs], len(order)))
        ratios.append(ours[-1] / theirs[-1])
    return {
        "ratio": round(float(np.median(ratios)), 2),
        "cache_per_s": round(float(np.median(ours))),
        "jpeg_112_per_s": round(float(np.median(theirs))),
        "jpeg_original_per_s": round(float(np.median(large))),
    }


def _read(cache: np.ndarray, order: np.ndarray) -> None:
    for start in range(0, len(order), BATCH):
        cache[order[start : start + BATCH]].copy()


def _jpeg(face: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _decode(blob: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(blob)).convert("RGB"))


def _rate(work: Any, count: int) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of photos, at any depth")
    parser.add_argument("--limit", type=int, default=1000, help="photos taken evenly from it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="photos to prepare")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    finish(lambda: measure(options.images, options.limit, options.rounds, options.sizes), options.json)


if __name__ == "__main__":
    main()
