"""Cheap controls that train no network: what any strategy has to beat to be worth its seconds.

A baseline is a function `(training images, images, experiment, seed) -> vectors (N, M)`; images are
(N, H, H, 3) uint8.
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

BaselineFn = Callable[[np.ndarray, np.ndarray, config.Experiment, int], np.ndarray]

PCA_COMPONENTS = 64
BATCH = 64


def pixels(training: np.ndarray, images: np.ndarray, experiment: config.Experiment, seed: int) -> np.ndarray:
    """Return the grey values of each image less their mean, so that the cosine is a correlation."""
    grey = _grey(images)
    centred: np.ndarray = grey - grey.mean(axis=1, keepdims=True)
    return centred


def pca(training: np.ndarray, images: np.ndarray, experiment: config.Experiment, seed: int) -> np.ndarray:
    """Return whitened coordinates in the training faces' principal components.

    Turk and Pentland, Eigenfaces for Recognition, 1991.
    """
    from sklearn.decomposition import PCA

    known = pixels(training, training, experiment, seed)
    components = min(PCA_COMPONENTS, len(known) - 1)
    model = PCA(components, whiten=True, svd_solver="full").fit(known)
    coordinates: np.ndarray = model.transform(pixels(training, images, experiment, seed))
    return coordinates


def random_weights(
    training: np.ndarray, images: np.ndarray, experiment: config.Experiment, seed: int
) -> np.ndarray:
    """Return the mean token of the untrained encoder that every run of this seed starts from."""
    torch.manual_seed(seed_of(seed, "weights"))
    network = Frozen(build_encoder(experiment.defaults.model, experiment.data.image_size)).eval()
    starts = range(0, len(images), BATCH)
    batches = [torch.from_numpy(images[start : start + BATCH]) for start in starts]
    return torch.cat([embed(network, to_input(batch)) for batch in batches]).numpy()


BASELINES: dict[str, BaselineFn] = {"pixels": pixels, "pca": pca, "random_weights": random_weights}


def _grey(images: np.ndarray) -> np.ndarray:
    grey: np.ndarray = images.reshape(len(images), -1, 3).mean(axis=2)
    return grey
