"""Controls that this project trains no network for: what a strategy has to beat, and how far one can get.

A baseline is fitted once and embeds often: `(training images, experiment, seed) -> (images -> vectors)`.
Images are (N, H, H, 3) uint8, vectors (N, M). `pixels`, `pca` and `random_weights` are the floor; `dlib` and
`inception` are off-the-shelf recognisers, trained by others on millions of faces, and the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from facemae import config
from facemae.models.embedder import Frozen, embed
from facemae.models.encoder import build_encoder
from facemae.models.patches import to_input
from facemae.randomness import seed_of
from facemae.recognisers import Embed, recogniser

BaselineFn = Callable[[np.ndarray, config.Experiment, int], Embed]

PCA_COMPONENTS = 64
MOST_FACES = 2000  # that a baseline is fitted on: enough for so few components, and little memory
BATCH = 64


def pixels(training: np.ndarray, experiment: config.Experiment, seed: int) -> Embed:
    """Embed as the grey values of each image less their mean, so that the cosine is a correlation."""
    return _centred


def pca(training: np.ndarray, experiment: config.Experiment, seed: int) -> Embed:
    """Embed as whitened coordinates in the training faces' principal components.

    Turk and Pentland, Eigenfaces for Recognition, 1991.
    """
    from sklearn.decomposition import PCA

    components = min(PCA_COMPONENTS, len(training) - 1)
    model = PCA(components, whiten=True, svd_solver="full").fit(_centred(training))

    def coordinates(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = model.transform(_centred(images))
        return found

    return coordinates


def random_weights(training: np.ndarray, experiment: config.Experiment, seed: int) -> Embed:
    """Embed as the mean token of the untrained encoder that every run of this seed starts from."""
    torch.manual_seed(seed_of(seed, "weights"))
    network = Frozen(build_encoder(experiment.defaults.model, experiment.data.image_size)).eval()

    def tokens(images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), BATCH)
        batches = [torch.from_numpy(images[start : start + BATCH]) for start in starts]
        found: np.ndarray = torch.cat([embed(network, to_input(batch)) for batch in batches]).numpy()
        return found

    return tokens


def dlib(training: np.ndarray, experiment: config.Experiment, seed: int) -> Embed:
    """Embed with dlib's network, which learns nothing from the training faces (facemae/recognisers.py).

    Raises:
        UsageError: the extra `baselines` is not installed.
    """
    return recogniser("dlib")


def inception(training: np.ndarray, experiment: config.Experiment, seed: int) -> Embed:
    """Embed with facenet-pytorch's network, which learns nothing from the training faces either.

    Raises:
        UsageError: nobody has said where its weights are.
    """
    return recogniser("inception")


BASELINES: dict[str, BaselineFn] = {
    "pixels": pixels,
    "pca": pca,
    "random_weights": random_weights,
    "dlib": dlib,
    "inception": inception,
}


def _centred(images: np.ndarray) -> np.ndarray:
    grey: np.ndarray = images.reshape(len(images), -1, 3).mean(axis=2)
    centred: np.ndarray = grey - grey.mean(axis=1, keepdims=True)
    return centred
