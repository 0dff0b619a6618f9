"""How exact the alignment is: `python -m benchmarks.alignment --images FOLDER --json`.

Known answers: every photo is turned by up to 25 degrees, scaled by 0.5 to 2 and shifted, and its landmarks
are looked for again: they must have moved along. Spread: aligned faces lie on a template, so when the eyes
are looked for again in the aligned faces, the less their places vary, the better. Both are measured for ours
and for facenet-pytorch's MTCNN with its defaults, in the same photos.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import choose_photos, finish, versions
from facemae.core.progress import track
from facemae.data.alignment.detect import MtcnnDetector
from facemae.data.alignment.warp import similarity, template, warp
from facemae.data.images import open_image

FACE = 112  # pixels: the side of an aligned face
MARGIN = 40  # pixels around it, for a detector to see all of the head
Points = NDArray[np.float64]
Find = Callable[[Image.Image], list[Points]]


def measure(folder: Path, limit: int) -> dict[str, Any]:
    """Return the figures of both detectors.

    Raises:
        UsageError: the folder has no usable photo.
    """
    torch.set_num_threads(1)  # more only wait for each other with one image at a time
    photos = choose_photos(folder, limit, "alignment")
    finders: dict[str, Find] = {"ours": _ours(MtcnnDetector()), "theirs": _theirs(MTCNN(keep_all=True))}
    figures = {name: _figures(name, find, photos) for name, find in finders.items()}
    used = versions("facemae", "facenet-pytorch", "torch", "pillow", "numpy")
    return {**figures, "images": len(photos), "versions": used}


def _ours(detector: MtcnnDetector) -> Find:
    return lambda image: [face.landmarks.astype(np.float64) for face in detector.detect([image])[0]]


def _theirs(detector: MTCNN) -> Find:
    def find(image: Image.Image) -> list[Points]:
        landmarks = detector.detect(image, landmarks=True)[2]
        return [] if landmarks is None else [each.astype(np.float64) for each in landmarks]

    return find


def _figures(name: str, find: Find, photos: Sequence[Path]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    errors, shares, moved, aligned = [], [], [], []
    for path in track(photos, len(photos), f"alignment {name}", "photos"):
        image = open_image(path)
        matrix, side = _movement(random, image.size)
        faces = find(image)
        if not faces:
            continue
        expected = faces[0] @ matrix[:, :2].T + matrix[:, 2]
        again = _nearest(find(Image.fromarray(warp(image, matrix, side))), expected)
        moved.append(again is not None)
        if again is not None:
            errors.append(float(np.linalg.norm(again - expected, axis=1).mean()))
            shares.append(errors[-1] / float(np.linalg.norm(expected[0] - expected[1])))
        onto = template(FACE) + MARGIN
        canvas = warp(image, similarity(faces[0], onto), FACE + 2 * MARGIN)
        seen = _nearest(find(Image.fromarray(canvas)), onto)
        if seen is not None:
            aligned.append(seen - MARGIN)
    return {
        "found": len(moved),
        "found_again": round(float(np.mean(moved)), 4),
        "error_px": _quantiles(errors),
        "error_percent_of_eye_distance": _quantiles(100 * np.array(shares)),
        "eyes": _spread(np.array(aligned)),
    }


def _movement(random: np.random.Generator, size: tuple[int, int]) -> tuple[Points, int]:
    """Return a (2, 3) similarity transform and the side of the square that it moves the photo into."""
    angle, scale = math.radians(random.uniform(-25, 25)), 2 ** random.uniform(-1, 1)
    side = round(max(size) * scale)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shift = side / 2 + random.uniform(-0.05, 0.05, 2) * side - turn @ np.divide(size, 2)
    return np.column_stack([turn, shift]), side


def _nearest(faces: list[Points], expected: Points) -> Points | None:
    """Return the face whose nose is next to where it should be, if that is within the face."""
    reach = float(np.linalg.norm(expected[0] - expected[1]))
    near = min(faces, key=lambda face: float(np.linalg.norm(face[2] - expected[2])), default=None)
    return None if near is None or np.linalg.norm(near[2] - expected[2]) > reach else near


def _quantiles(values: Sequence[float] | Points) -> dict[str, float]:
    """Return median, mean, and the bounds of 90 and 99 % of the values."""
    named = {"median": np.median(values), "mean": np.mean(values)}
    named |= {"p90": np.quantile(values, 0.9), "p99": np.quantile(values, 0.99)}
    return {name: round(float(value), 2) for name, value in named.items()}


def _spread(landmarks: Points) -> dict[str, list[float]]:
    """Return mean and standard deviation of left x, left y, right x, right y of (N, 5, 2), in pixels."""
    eyes = landmarks[:, :2].reshape(-1, 4)
    return {
        "template": template(FACE)[:2].ravel().round(2).tolist(),
        "mean": eyes.mean(0).round(2).tolist(),
        "std": eyes.std(0).round(2).tolist(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alignment", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photos, at any depth")
    parser.add_argument("--limit", type=int, default=300, help="photos taken evenly from it")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    finish(lambda: measure(options.images, options.limit), options.json)


if __name__ == "__main__":
    main()
