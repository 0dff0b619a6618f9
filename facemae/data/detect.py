"""Finding faces: what a detector returns, and MTCNN, the detector that ships with its weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SMALLEST = 20  # pixels: the side of the smallest face, and so of the smallest image, MTCNN can take


@dataclass(frozen=True)
class Face:
    """A face in pixels of its image: box (4,) as left, top, right, bottom; score 0 to 1; landmarks (5, 2).

    The landmarks are eyes, nose and mouth corners, each left to right as the viewer sees them.
    """

    box: NDArray[np.float32]
    score: float
    landmarks: NDArray[np.float32]


class FaceDetector(Protocol):
    """Anything that finds faces in RGB images."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Return the faces of each image, largest first; an empty list where there is none."""
        ...


class MtcnnDetector:
    """MTCNN as packaged by facenet-pytorch, made safe for any RGB images of any sizes."""

    def __init__(
        self, device: str = "cpu", *, batch: int = 32, max_side: int = 1024, batch_pixels: int = 8_000_000
    ) -> None:
        """Load the networks onto `device`.

        At most `batch` images and about `batch_pixels` pixels run at once; longer sides than `max_side`
        are shrunk to it for detection, which bounds memory and still finds faces 2 % as wide as the photo.
        """
        from facenet_pytorch import MTCNN

        # keep_all: choosing one face fails upstream as soon as one image of a batch has none.
        self._networks = MTCNN(keep_all=True, min_face_size=_SMALLEST, device=device)
        self._batch = batch
        self._max_side = max_side
        self._batch_pixels = batch_pixels

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Return the faces of each image, largest first; an empty list where there is none."""
        shrunk = [_fit(image, self._max_side) for image in images]
        faces: list[list[Face]] = [[] for _ in images]
        for members in self._batches(shrunk):
            found = self._run([shrunk[index] for index in members])
            for index, results in zip(members, found, strict=True):
                scale = np.divide(images[index].size, shrunk[index].size).astype(np.float32)
                faces[index] = _faces(*results, scale)
        return faces

    def _batches(self, images: Sequence[Image.Image]) -> Iterator[list[int]]:
        # Upstream stacks a batch into one array, so its images must have equal sizes.
        groups = defaultdict(list)
        for index, image in enumerate(images):
            groups[image.size].append(index)
        for (width, height), members in groups.items():
            step = min(self._batch, max(1, self._batch_pixels // (width * height)))
            for start in range(0, len(members), step):
                yield members[start : start + step]

    def _run(self, images: list[Image.Image]) -> list[tuple[Any, Any, Any]]:
        try:
            return list(zip(*self._networks.detect(images, landmarks=True), strict=True))
        except (IndexError, ValueError):
            # A candidate box wholly outside its image breaks upstream's bookkeeping for the whole batch.
            if len(images) == 1:
                return [(None, [None], None)]
            return [result for image in images for result in self._run([image])]


def _fit(image: Image.Image, max_side: int) -> Image.Image:
    scale = max(max_side / max(image.size), _SMALLEST / min(image.size))
    if scale >= 1:
        return image
    width, height = (math.ceil(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _faces(boxes: Any, scores: Any, landmarks: Any, scale: NDArray[np.float32]) -> list[Face]:
    if boxes is None:
        return []
    boxes = np.asarray(boxes, np.float32) * np.tile(scale, 2)
    landmarks = np.asarray(landmarks, np.float32) * scale
    return [
        Face(box, float(score), points) for box, score, points in zip(boxes, scores, landmarks, strict=True)
    ]
