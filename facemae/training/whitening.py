"""Whitening of a trained embedding within people, folded into the last layers of its head.

A margin loss does not pull the photos of a person together alike in all directions of the embedding; along
some of them new photos still differ much, and a cosine counts those too. Scaled so that the photos of a
person vary more alike in all directions, embeddings tell new people apart better (within-class covariance
normalisation: Hatch, Kajarekar and Stolcke, Interspeech 2006; docs/design/learning.md has figures). It is
linear, and costs nothing in use.
Shapes: N faces, M dimensions of the embedding.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from facemae.compute.device import Compute
from facemae.models.embedder import AlignedFaces, Embedder, in_batches, with_mirror

LEAST_SPHERE = 0.5  # with less of it, faces that are turned or cut otherwise are told apart worse


def whiten(
    embedder: Embedder, faces: AlignedFaces, people: pd.Series[str], compute: Compute, label: str
) -> None:
    """Whiten an embedder within the people (N,) of faces (N), two or more of each; by none, do nothing.

    The covariance is mixed with a sphere of its size, half and half. Where there are fewer than M photos
    beyond one of each person, the sphere weighs as M photos: what few say of many directions is chance.
    """
    if people.empty:
        return
    vectors = in_batches(partial(with_mirror, embedder.eval()), faces, compute, label).astype(np.float64)
    apart = pd.DataFrame(vectors).groupby(people.to_numpy()).transform(lambda own: own - own.mean())
    variance, axes = np.linalg.eigh(apart.T.to_numpy() @ apart.to_numpy())
    if not (mean := variance.mean()) > 0:
        return  # the photos of each person are the same
    freedom = len(people) - people.nunique()
    sphere = max(LEAST_SPHERE, len(variance) / (len(variance) + freedom))
    variance = (1 - sphere) * variance + sphere * mean
    _fold(embedder, torch.from_numpy((axes * np.sqrt(mean / variance)) @ axes.T))


@torch.no_grad()
def _fold(embedder: Embedder, linear_map: Tensor) -> None:
    """Apply a linear map (M, M) to every embedding, by the weights of the head's last two layers."""
    linear, norm = cast(nn.Linear, embedder.head[-2]), cast(nn.BatchNorm1d, embedder.head[-1])
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    linear_map = linear_map.to(scale)
    norm.bias.copy_(linear_map @ (norm.bias - mean * scale))
    linear.weight.copy_(linear_map @ (scale[:, None] * linear.weight))
    norm.weight.fill_(1)
    mean.zero_()
    variance.fill_(1 - norm.eps)
