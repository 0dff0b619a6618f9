"""Alignment against facenet-pytorch's MTCNN: `python -m benchmarks.align --images FOLDER --json`.

Both get the same photos and the same cores, in turn, round after round. Ours is the product's path: decode,
detect and warp in one process for each core, with one thread. Theirs decodes with Pillow and detects image
by image, as its documentation shows, with PyTorch's threads on all cores; it does not warp.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.common import choose_photos, cores, finish, versions
from facemae.core.progress import say
from facemae.data.alignment.detect import MtcnnDetector
from facemae.data.alignment.warp import similarity, template, warp
from facemae.data.images import open_image

BATCH = 32
FACE = 112  # pixels: the side of an aligned face
WARM_UP = 64


class Found(NamedTuple):
    """The largest face: landmarks (5, 2) in pixels of a picture of `size`."""

    landmarks: NDArray[np.floating]
    size: tuple[int, int]


Contestant = Callable[[list[Path]], list[Found | None]]
_detector: MtcnnDetector | None = None


def measure(folder: Path, limit: int, rounds: int, threads: int) -> dict[str, Any]:
    """Let both find the faces in the same photos in turn; return the figures.

    Raises:
        UsageError: the folder has no usable photo.
    """
    photos = choose_photos(folder, limit, "align")
    torch.set_num_threads(threads)
    peer = MTCNN(keep_all=True)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(threads, mp_context=context, initializer=_start_worker) as pool:
        contestants: dict[str, Contestant] = {
            "ours": lambda paths: _ours(pool, paths, threads),
            "theirs": lambda paths: [_theirs(peer, path) for path in paths],
        }
        found, rates = race(contestants, photos, rounds)
    return {
        **_speed(rates["ours"], rates["theirs"]),
        **_agreement(found["ours"], found["theirs"]),
        "images": len(photos),
        "rounds": rounds,
        "threads": threads,
        "versions": versions("facemae", "facenet-pytorch", "torch", "pillow", "numpy"),
    }


def race(
    contestants: dict[str, Contestant], photos: list[Path], rounds: int
) -> tuple[dict[str, list[Found | None]], dict[str, list[float]]]:
    """Run all contestants in every round, each time in the other order; return finds and photos a second."""
    found: dict[str, list[Found | None]] = {}
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run(photos[:WARM_UP])
    for turn in range(rounds):
        for name in sorted(contestants, reverse=turn % 2 == 1):
            started = time.perf_counter()
            found[name] = contestants[name](photos)
            rates[name].append(len(photos) / (time.perf_counter() - started))
        latest = ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
        say("align", f"round {turn + 1}/{rounds}  photos a second: {latest}")
    return found, rates


def _start_worker() -> None:
    global _detector
    torch.set_num_threads(1)
    _detector = MtcnnDetector()


def _ours(pool: ProcessPoolExecutor, paths: list[Path], workers: int) -> list[Found | None]:
    step = min(BATCH, -(-len(paths) // workers))
    batches = [paths[start : start + step] for start in range(0, len(paths), step)]
    return [found for batch in pool.map(_align, batches) for found in batch]


def _align(paths: Sequence[Path]) -> list[Found | None]:
    assert _detector is not None
    images = [open_image(path) for path in paths]
    found: list[Found | None] = []
    for image, faces in zip(images, _detector.detect(images), strict=True):
        if faces:
            warp(image, similarity(faces[0].landmarks, template(FACE)), FACE)
        found.append(Found(faces[0].landmarks, image.size) if faces else None)
    return found


def _theirs(peer: MTCNN, path: Path) -> Found | None:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    try:
        _, _, landmarks = peer.detect(image, landmarks=True)
    except (IndexError, RuntimeError, ValueError):  # tiny images, and candidates wholly outside the image
        return None
    return None if landmarks is None else Found(landmarks[0].astype(float), image.size)


def _speed(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return the median rates and ratio, and every round's rates: a round that other jobs disturbed shows."""
    ratios = np.divide(ours, theirs)
    return {
        "ratio": round(float(np.median(ratios)), 2),
        "ratio_low": round(float(ratios.min()), 2),
        "ratio_high": round(float(ratios.max()), 2),
        "ours_per_s": round(float(np.median(ours)), 1),
        "theirs_per_s": round(float(np.median(theirs)), 1),
        "ours_rounds": [round(rate, 1) for rate in ours],
        "theirs_rounds": [round(rate, 1) for rate in theirs],
    }


def _agreement(ours: list[Found | None], theirs: list[Found | None]) -> dict[str, float | None]:
    """Compare the largest faces; None where they found none at all."""
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a and b]
    offsets = [np.linalg.norm(a.landmarks * np.divide(b.size, a.size) - b.landmarks, axis=1) for a, b in both]
    known = sum(b is not None for b in theirs)
    return {
        "found": round(len(both) / known, 4) if known else None,
        "landmark_px": round(float(np.median(np.mean(offsets, axis=1))), 2) if both else None,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.align", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of photos, at any depth")
    parser.add_argument("--limit", type=int, default=300, help="photos taken evenly from it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores(), help="cores for each contestant")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    finish(lambda: measure(options.images, options.limit, options.rounds, options.threads), options.json)


if __name__ == "__main__":
    main()
