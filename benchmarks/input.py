"""From stored faces to a batch for the network: `python -m benchmarks.input --threads 1 --json`.

Ours reads random faces from the decoded cache, crops, mirrors and scales them. Theirs is the chain of
facebookresearch/mae's pretraining: Pillow decodes a JPEG file of the same face, and torchvision's version 1
transforms crop it with bicubic interpolation, mirror, convert and normalise it. It is also run with bilinear
interpolation, as ours is. Both take the same share of the area, and the peer's files are in memory already.
The time is that of the process on the processor, so that neighbours count little.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from benchmarks.common import choose_photos, cores, finish, versions
from facemae.compute.device import choose
from facemae.compute.seeding import Noise, batch_ids
from facemae.core.progress import say
from facemae.data.faces.cache import FaceFile, OpenFaces
from facemae.data.faces.loader import Feed
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.training.objectives.augment import apply_crops, random_crops

FACE = 112  # pixels: the side of an aligned face
BATCH = 256
LEAST = 0.2  # of the area, as in facebookresearch/mae
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
QUALITY = 95

Contestant = Callable[[int], Tensor]


def measure(images: Path | None, limit: int, rounds: int, threads: int) -> dict[str, Any]:
    """Let all make the same number of batches in turn; return the figures.

    Raises:
        UsageError: the folder has no usable photo.
    """
    compute = choose("cpu", "float32", threads)
    photos = choose_photos(images, limit, "input") if images else [photo.path for photo in orl_photos()]
    faces = np.stack([_central(path) for path in photos])
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "faces.npy", faces)
        file = FaceFile(Path(scratch) / "faces.npy", faces.shape)
        opened = OpenFaces(file, np.arange(len(faces)), [], [])
        with Feed(opened, lambda step: batch_ids(len(faces), BATCH, step, 0), compute, workers=0) as feed:
            jpegs = [_jpeg(face) for face in faces]
            rates = race(
                {
                    "ours": lambda step: _ours(feed, step),
                    "bicubic": _peer(jpegs, InterpolationMode.BICUBIC),
                    "bilinear": _peer(jpegs, InterpolationMode.BILINEAR),
                },
                rounds,
            )
    return {
        **_compare(rates["ours"], rates["bicubic"], ""),
        **_compare(rates["ours"], rates["bilinear"], "_bilinear"),
        **{f"{name}_per_s": round(float(np.median(values))) for name, values in rates.items()},
        "faces": len(faces),
        "rounds": rounds,
        "threads": threads,
        "cores": cores(),
        "versions": versions("facemae", "torch", "torchvision", "pillow", "numpy"),
    }


def race(contestants: dict[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Run all contestants in every round, each time in the other order; return images a second."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for make in contestants.values():
        images = make(0)
        assert images.shape == (BATCH, 3, FACE, FACE)
        assert images.dtype == torch.float32
    for turn in range(rounds):
        for name in sorted(contestants, reverse=turn % 2 == 1):
            started = time.process_time()
            contestants[name](turn)
            rates[name].append(BATCH / (time.process_time() - started))
        latest = ", ".join(f"{name} {values[-1]:.0f}" for name, values in rates.items())
        say("input", f"round {turn + 1}/{rounds}  images a second: {latest}")
    return rates


def _central(path: Path) -> NDArray[np.uint8]:
    """Return the middle of a photo, where LFW has the face, as large as an aligned face."""
    image = open_image(path)
    side = min(image.size) * 0.6 if min(image.size) > 2 * FACE else min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((FACE, FACE), Image.Resampling.BICUBIC, box=box))


def _jpeg(face: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _ours(feed: Feed, step: int) -> Tensor:
    places = range(step * BATCH, (step + 1) * BATCH)
    return apply_crops(feed.batch(step), random_crops(Noise(places, "crop"), LEAST))


def _peer(jpegs: Sequence[bytes], interpolation: InterpolationMode) -> Contestant:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(FACE, scale=(LEAST, 1.0), interpolation=interpolation),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, DEVIATION),
        ]
    )

    def batch(step: int) -> Tensor:
        ids = batch_ids(len(jpegs), BATCH, step, 0).tolist()
        return torch.stack([transform(Image.open(io.BytesIO(jpegs[each])).convert("RGB")) for each in ids])

    return batch


def _compare(ours: list[float], theirs: list[float], name: str) -> dict[str, Any]:
    ratios = np.divide(ours, theirs)
    return {
        f"ratio{name}": round(float(np.median(ratios)), 2),
        f"ratio{name}_range": [round(float(ratios.min()), 2), round(float(ratios.max()), 2)],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=Path, help="folder of photos, at any depth; without it the ORL faces"
    )
    parser.add_argument("--limit", type=int, default=1000, help="photos taken evenly from it")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    finish(lambda: measure(options.images, options.limit, options.rounds, options.threads), options.json)


if __name__ == "__main__":
    main()
