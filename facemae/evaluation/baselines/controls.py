"""Controls that this project trains no network for: what a strategy has to beat, and how far one can get.

A baseline is fitted once and embeds often.
Images are (N, H, H, 3) uint8, vectors (N, M). `pixels` and `random_weights` learn nothing and are the floor;
`pca` learns from the training faces, `fisherfaces` and `hog_lda` also from their labels, the same as a run.
`dlib` and `inception` are off-the-shelf recognisers, trained by others on millions of faces: the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from facemae import config
from facemae.compute.device import plain
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import Faces
from facemae.data.faces.subsets import labelled_subset
from facemae.evaluation.baselines.closed_form import Floats, Head, fit, whiten
from facemae.evaluation.baselines.off_the_shelf import Embed, recogniser
from facemae.models.build import build_encoder
from facemae.models.embedder import Frozen, embed_faces

EmbedByPart = Callable[[NDArray[np.uint8], int], NDArray[np.floating]]
"""From aligned faces (N, H, H, 3) and a part of the evaluation people to vectors (N, D)."""

BASELINES: tuple[str, ...] = get_args(config.Baseline)
GREY_SIDE, GREY_COMPONENTS = 32, 300
HOG_SIDE, HOG_COMPONENTS = 64, 400


@dataclass(frozen=True)
class Learner:
    """A control that learns from labelled faces, by features that are the same for every training."""

    features: Embed
    components: int

    def fit(self, features: Floats, people: Sequence[str | None], name: str) -> Head:
        """Return the head that the training faces give; a DataError if they do not allow one."""
        learn = fit if name in config.BASELINES_FROM_LABELS else whiten
        return learn(features, people, self.components, name)


def grey(images: NDArray[np.uint8]) -> Floats:
    """Return the grey values of each image at 32 x 32 pixels, (N, 1024)."""
    return np.stack([np.asarray(_small(image, GREY_SIDE), np.float32).ravel() for image in images])


def gradients(images: NDArray[np.uint8]) -> Floats:
    """Return histograms of oriented gradients of each image at 64 x 64 pixels, (N, 1568).

    8 orientations, cells of 8 pixels, blocks of 2 x 2, square roots of the values; Dalal and Triggs, 2005.
    """
    from skimage.feature import hog

    settings = {"orientations": 8, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}
    found = [hog(np.asarray(_small(image, HOG_SIDE)), transform_sqrt=True, **settings) for image in images]
    return np.array(found, np.float32)


def _small(image: NDArray[np.uint8], side: int) -> Image.Image:
    return Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BILINEAR)


LEARNERS = {
    "pca": Learner(grey, GREY_COMPONENTS),
    "fisherfaces": Learner(grey, GREY_COMPONENTS),
    "hog_lda": Learner(gradients, HOG_COMPONENTS),
}


def learnt_from(name: str, rows: pd.DataFrame, labels: config.Labels) -> pd.DataFrame:
    """Return the training people's rows that a baseline learns from; those with labels are the runs' own."""
    if name not in LEARNERS:
        return rows[:0]
    return labelled_subset(rows, labels) if name in config.BASELINES_FROM_LABELS else rows


def baseline(name: str, training: Faces, experiment: config.Experiment, seed: int) -> Embed:
    """Return a control, fitted to the training people's faces if it learns.

    A DataError: the faces do not allow a learner; a UsageError: a recogniser, or its weights, are not there.
    """
    if name not in LEARNERS:
        return features(name, experiment, seed)
    learner = LEARNERS[name]
    head = learner.fit(learner.features(training.images), training.people, name)
    return lambda images: head(learner.features(images))


def features(name: str, experiment: config.Experiment, seed: int) -> Embed:
    """Return what a control makes of faces before it learns from them, (N, D); errors as `baseline`."""
    if name in LEARNERS:
        return LEARNERS[name].features
    if name == "pixels":
        return correlated
    if name == "random_weights":  # the mean token of the untrained encoder that every run starts from
        torch.manual_seed(seed_of(seed, "weights"))
        network = Frozen(build_encoder(experiment.defaults.model, experiment.data.image_size)).eval()
        return lambda images: embed_faces(network, images, plain("cpu"))
    return recogniser(name)


def correlated(images: np.ndarray) -> np.ndarray:
    """Return the grey values of each image less their mean, so that the cosine is a correlation."""
    grey: np.ndarray = images.reshape(len(images), -1, 3).mean(axis=2)
    centred: np.ndarray = grey - grey.mean(axis=1, keepdims=True)
    return centred
