"""Finding faces: what a detector returns, and MTCNN, the detector that ships with its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae.compute.compiler import without_compiler

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """A face in pixels of its image."""

    box: Floats  # (4,) left, top, right, bottom; it may reach beyond the image
    score: float  # 0 to 1
    landmarks: Floats  # (5, 2) eyes, nose, mouth corners, left to right as seen in the upright face
    turn: int = 0  # quarter turns to the left that set the image upright

    @property
    def width(self) -> float:
        """Return the width of the upright face in pixels."""
        return float((self.box[2:] - self.box[:2])[self.turn % 2])

    def scaled(self, factors: NDArray[np.floating]) -> Face:
        """Return the face in an image with `factors` (2,) times as many pixels along x and y."""
        by = factors.astype(np.float32)
        return replace(self, box=self.box * np.tile(by, 2), landmarks=self.landmarks * by)


class FaceDetector(Protocol):
    """Anything that finds faces in RGB images."""

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Return the faces of each image, the largest in view first; an empty list where there is none."""
        ...


class Search(NamedTuple):
    """How closely to look."""

    smallest: int  # pixels of a face
    factor: float  # by which the image is shrunk again and again
    scores: tuple[float, float, float]  # that a candidate needs of the three networks


COARSE = Search(60, 0.5, (0.8, 0.8, 0.9))
THOROUGH = Search(20, 0.709, (0.6, 0.7, 0.7))  # the defaults of facenet-pytorch

# A picture may lie on its side or its head. MTCNN reads most such faces too, with eyes on the mouth, but is
# less sure of them: a reading is doubtful below SURE, or if the third network likes the face about as much
# when it is turned. Then all four ways are searched, and another way is taken if it is sure enough and at
# most half as far from certainty. Of 300 upright photos of LFW and UTKFace with the lowest scores none is
# turned then.
SURE = 0.99
_SURE_TURNED = 0.998
_LIKED_TURNED = -0.005
_LEFT = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}

BATCH = 32  # images that share the networks' calls
_MAX_SIDE = 1024  # pixels: bounds time and memory, and still finds faces 2 % as wide as the photo
_WINDOW, _STEP = 12, 2  # pixels: what the first network sees at once, and from there to the next window
_SWAPPED = [1, 0, 2, 4, 3]  # the landmarks in a mirrored face
_NO_PIXEL = 127  # grey, which the networks read as zero

# Candidates are rows of an array: the box (left, top, right, bottom), the score and, once the third network
# has seen them, the landmarks (five x, five y).
_BOX, _SCORE, _LANDMARKS = slice(0, 4), 4, slice(5, 15)
_NOBODY: Floats = np.zeros((0, 15), np.float32)


def mtcnn_version(*, thorough: bool = False) -> str:
    """Return a name that changes with whatever changes what the detector finds, to keep its results under."""
    searches = [tuple(search) for search in _searches(thorough)]
    return f"mtcnn 5, facenet-pytorch {metadata.version('facenet-pytorch')}, {_MAX_SIDE} px, {searches}"


class MtcnnDetector:
    """MTCNN (Zhang et al., 2016) with the networks of facenet-pytorch, for RGB images of any sizes.

    A first network scans the image in several sizes; a second and a third look closer at what it proposes.
    Beyond the original, the third looks at a face three times, each time better centred and at last
    mirrored, and the mean counts; and what reaches beyond the image is not stretched into it. Together this
    takes almost half of the landmarks' error away (`benchmarks/alignment.py`). An image that lies on its side
    or its head is read as if it were upright. What is found in an image does not depend on the images beside
    it.
    """

    def __init__(self, device: str = "cpu", *, thorough: bool = False) -> None:
        """Load the networks onto `device`.

        `thorough`: find all faces of 20 pixels or more. Without it an image is searched that thoroughly only
        if a search for clear faces of 60 pixels or more, in a third of the time, finds none: the largest face
        is found, but smaller ones beside it may not be.
        """
        import torch

        with without_compiler():
            from facenet_pytorch import MTCNN

        networks = MTCNN(device=device).to(memory_format=torch.channels_last)  # takes half the time on a CPU
        self._scan, self._refine, self._locate = networks.pnet, networks.rnet, networks.onet
        self._device = torch.device(device)
        # A call always has this many crops, filled up with empty ones: not a bit of a result may depend on
        # how many others there are. On a CPU no other of 1, 2, 4, ... 256 is much faster.
        self._crops = 16 if self._device.type == "cpu" else 256
        self._searches = _searches(thorough)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Return the faces of each image, the largest in view first; an empty list where there is none."""
        starts = range(0, len(images), BATCH)
        return [faces for start in starts for faces in self._detect(images[start : start + BATCH])]

    def _detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        shrunk = [_fit(image) for image in images]
        found = self._find(shrunk, self._searches)
        turns = self._set_upright(shrunk, found)
        return [
            [face.scaled(np.divide(image.size, small.size)) for face in _faces(rows, small.size, turn)]
            for rows, turn, image, small in zip(found, turns, images, shrunk, strict=True)
        ]

    def _find(self, images: Sequence[Image.Image], searches: Sequence[Search]) -> list[Floats]:
        """Return what the first search finds that finds anything."""
        found = [_NOBODY] * len(images)
        for search in searches:
            left = [index for index, rows in enumerate(found) if len(rows) == 0]
            for index, rows in zip(left, self._search([images[each] for each in left], search), strict=True):
                found[index] = rows
        return found

    def _set_upright(self, images: Sequence[Image.Image], found: list[Floats]) -> list[int]:
        """Search doubtful images turned, put what is surer in `found`, and return the turns of each."""
        turns, upright = [0] * len(images), [_best(rows) for rows in found]
        limit = [max(_SURE_TURNED, 1 - (1 - score) / 2) for score in upright]
        doubtful = self._doubtful(images, found)
        for places, searches in (
            ([place for place in doubtful if upright[place] == 0], self._searches),
            ([place for place in doubtful if upright[place] > 0], self._searches[:1]),
        ):
            for turn, how in _LEFT.items():
                turned = self._find([images[place].transpose(how) for place in places], searches)
                for place, rows in zip(places, turned, strict=True):
                    if _best(rows) > limit[place]:
                        found[place], turns[place], limit[place] = rows, turn, _best(rows)
        return turns

    def _doubtful(self, images: Sequence[Image.Image], found: Sequence[Floats]) -> list[int]:
        """Return the places of images whose surest face may be upright only when it is turned."""
        best = [rows[rows[:, _SCORE].argsort()[-1:]] for rows in found]
        looks = []
        for turn in range(4):
            run = partial(self._run, turn=turn)
            looks.append([_best(rows) for rows in self._look(self._locate, 48, images, best, run)])
        liked = np.max(looks[1:], axis=0) - looks[0]  # (N,) how much more when it is turned
        sure = np.array([_best(rows) for rows in found])
        return [int(place) for place in np.flatnonzero((sure < SURE) | (liked > _LIKED_TURNED))]

    def _search(self, images: Sequence[Image.Image], search: Search) -> list[Floats]:
        candidates = [self._propose(image, search) for image in images]
        candidates = self._look(self._refine, 24, images, candidates, self._run)
        candidates = [_apart(rows[rows[:, _SCORE] > search.scores[1]], 0.85) for rows in candidates]
        candidates = self._look(self._locate, 48, images, candidates, self._run)
        looks = [[_not_nested(rows[rows[:, _SCORE] > search.scores[2]], 0.7) for rows in candidates]]
        for run in (self._run, self._run_mirrored):
            looks.append(self._look(self._locate, 48, images, looks[-1], run))
        return [_combined(np.stack(rows)) for rows in zip(*looks, strict=True)]

    def _propose(self, image: Image.Image, search: Search) -> Floats:
        """Scan the image for candidates in sizes from the smallest to the whole image."""
        found = [_NOBODY[:, :5]]
        scale = _WINDOW / search.smallest
        while min(image.size) * scale >= _WINDOW:
            size = int(image.width * scale + 1), int(image.height * scale + 1)
            moves, scores = self._run(
                self._scan, np.asarray(image.resize(size, Image.Resampling.BOX))[np.newaxis]
            )
            y, x = np.nonzero(scores[0, 1] >= search.scores[0])
            windows = _STEP * np.stack([x, y, x, y], 1) + (1, 1, _WINDOW, _WINDOW)
            boxes = windows // scale - (1, 1, 0, 0)  # whole pixels from the first to the last, as trained
            found.append(_rows(boxes, moves[0][:, y, x].T, scores[0, 1, y, x]))
            scale *= search.factor
        return _apart(np.concatenate(found), 0.7)

    def _look(
        self,
        network: Any,
        side: int,
        images: Sequence[Image.Image],
        candidates: Sequence[Floats],
        run: Callable[[Any, NDArray[np.uint8]], list[Floats]],
    ) -> list[Floats]:
        """Show a network the square around each candidate; return the candidates as it sees them."""
        counts = [len(rows) for rows in candidates]
        if sum(counts) == 0:
            return [_NOBODY] * len(candidates)
        squares = _squares(np.concatenate(candidates))
        owners = np.repeat(np.arange(len(images)), counts)
        outputs = []
        for start in range(0, len(squares), self._crops):
            crops = np.full((self._crops, side, side, 3), _NO_PIXEL, np.uint8)
            part = slice(start, start + self._crops)
            for crop, square, owner in zip(crops, squares[part].tolist(), owners[part], strict=False):
                _draw(crop, images[owner], square)
            outputs.append(run(network, crops))
        moves, *landmarks, scores = (
            np.concatenate(each)[: len(squares)] for each in zip(*outputs, strict=True)
        )
        return np.split(_rows(squares, moves, scores[:, 1], *landmarks), np.cumsum(counts)[:-1])

    def _run(self, network: Any, pixels: NDArray[np.uint8], turn: int = 0) -> list[Floats]:
        """Run a network on (N, H, W, 3) and return its outputs: moves, landmarks if any, scores.

        Of crops turned to the left only the scores have a meaning.
        """
        import torch

        with torch.inference_mode():
            batch = torch.tensor(np.rot90(pixels, turn, axes=(1, 2)).copy(), device=self._device)
            return [out.cpu().numpy() for out in network((batch.permute(0, 3, 1, 2).float() - 127.5) / 128)]

    def _run_mirrored(self, network: Any, pixels: NDArray[np.uint8]) -> list[Floats]:
        """Run the third network on mirrored crops and return its outputs for the crops as they are."""
        moves, landmarks, scores = self._run(network, pixels[:, :, ::-1])
        x, y = 1 - landmarks[:, :5], landmarks[:, 5:]
        left, top, right, bottom = moves.T
        return [
            np.stack([-right, top, -left, bottom], 1),
            np.concatenate([x[:, _SWAPPED], y[:, _SWAPPED]], 1),
            scores,
        ]


def _searches(thorough: bool) -> tuple[Search, ...]:
    return (THOROUGH,) if thorough else (COARSE, THOROUGH)


def _fit(image: Image.Image) -> Image.Image:
    scale = max(_MAX_SIDE / max(image.size), THOROUGH.smallest / min(image.size))
    if scale >= 1:
        return image
    width, height = (math.ceil(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _rows(boxes: NDArray[Any], moves: Floats, scores: Floats, landmarks: Floats | None = None) -> Floats:
    """Put candidates together; `moves` (N, 4) and `landmarks` (N, 10) come in shares of the boxes' sides."""
    corner, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    columns = [boxes + moves * np.tile(size, 2), scores]
    if landmarks is not None:
        columns.append(np.repeat(corner, 5, axis=1) + landmarks * np.repeat(size, 5, axis=1))
    return np.column_stack(columns).astype(np.float32)


def _squares(rows: Floats) -> Floats:
    """Return the squares of the same centres and longer sides, of a pixel at least, as (N, 4)."""
    size = rows[:, 2:4] - rows[:, :2]
    centre, half = rows[:, :2] + size / 2, size.max(1, keepdims=True).clip(1) / 2
    return np.concatenate([centre - half, centre + half], 1)


def _draw(crop: NDArray[np.uint8], image: Image.Image, square: Sequence[float]) -> None:
    """Fill a (side, side, 3) crop with a square of the image; what is outside the image is left as it is."""
    left, top, right, _ = square
    pixel = (right - left) / len(crop)
    x, x_end, x_source = _inside(left, pixel, len(crop), image.width)
    y, y_end, y_source = _inside(top, pixel, len(crop), image.height)
    if x < x_end and y < y_end:
        source = (x_source[0], y_source[0], x_source[1], y_source[1])
        part = image.resize((x_end - x, y_end - y), Image.Resampling.BOX, source)
        crop[y:y_end, x:x_end] = np.asarray(part)


def _inside(start: float, pixel: float, count: int, length: int) -> tuple[int, int, tuple[float, float]]:
    """Return which of `count` pixels from `start` on are wholly within 0 to `length`, and where they lie."""
    first = math.ceil(max(0, -start / pixel))
    last = math.floor(min(count, (length - start) / pixel))
    return first, last, (max(start + first * pixel, 0), min(start + last * pixel, length))


def _apart(rows: Floats, limit: float) -> Floats:
    """Of candidates that share more than `limit` of their union keep the one with the best score."""
    import torch

    with without_compiler():
        from torchvision.ops import nms

    table = torch.from_numpy(rows)
    kept: NDArray[np.int64] = nms(table[:, _BOX], table[:, _SCORE], limit).numpy()
    return rows[kept]


def _not_nested(rows: Floats, limit: float) -> Floats:
    """Of candidates that share more than `limit` of the smaller one keep the one with the best score."""
    left = rows[np.argsort(-rows[:, _SCORE], kind="stable")]
    kept = [_NOBODY]
    while len(left):
        best, left = left[:1], left[1:]
        kept.append(best)
        shared = np.minimum(best[:, 2:4], left[:, 2:4]) - np.maximum(best[:, :2], left[:, :2])
        smaller = np.minimum(*((rows[:, 2:4] - rows[:, :2]).prod(1) for rows in (best, left)))
        left = left[shared.clip(0).prod(1) <= limit * smaller]
    return np.concatenate(kept)


def _combined(looks: Floats) -> Floats:
    """Return the mean of several looks (L, N, 15), but the best score: the least centred look has no veto."""
    rows: Floats = looks.mean(0)
    rows[:, _SCORE] = looks[:, :, _SCORE].max(0)
    return rows


def _best(rows: Floats) -> float:
    return float(rows[:, _SCORE].max(initial=0))


def _faces(rows: Floats, size: tuple[int, int], turn: int) -> list[Face]:
    """Return the faces in an image of `size`, largest first, that were found after quarter turns to the left.

    Only what is in view counts: a passer-by whom the border cuts off is not the one who was photographed.
    """
    seen = np.minimum(rows[:, 2:4], size[:: -1 if turn % 2 else 1]) - np.maximum(rows[:, :2], 0)
    found = []
    for row in rows[np.argsort(-seen.clip(0).prod(1), kind="stable")]:
        corners = _unturned(row[_BOX].reshape(2, 2), size, turn)
        box = np.concatenate([corners.min(0), corners.max(0)])
        landmarks = _unturned(row[_LANDMARKS].reshape(2, 5).T, size, turn)
        found.append(Face(box, float(row[_SCORE]), landmarks, turn))
    return found


def _unturned(points: Floats, size: tuple[int, int], turn: int) -> Floats:
    """Return where points (N, 2) lay in an image of `size` before its quarter turns to the left."""
    for step in range(turn, 0, -1):
        points = np.column_stack([size[(step + 1) % 2] - points[:, 1], points[:, 0]])
    return points
