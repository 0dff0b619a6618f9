"""How well a frozen encoder tells people apart, while it is trained without knowing them.

Shapes: N faces, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from facemae.compute.device import Compute
from facemae.evaluation.metrics import roc_auc_score
from facemae.evaluation.pairs import Comparisons
from facemae.models.base import Encoder
from facemae.models.embedder import Frozen, embed_faces

MOST_FACES = 500  # 125,000 pairs: enough for two digits, and no minute


def probe(
    encoder: Encoder, faces: NDArray[np.uint8], people: Sequence[str], compute: Compute
) -> dict[str, float]:
    """Return what the frozen encoder's pooled tokens say of who is who; {} where nobody is shown twice.

    `probe_knn` is the share of faces whose nearest other face, by cosine, is of the same person; `probe_auc`
    the area under the ROC curve of all pairs. The people are training people. Faces are (N, H, H, 3) uint8;
    the encoder is in evaluation mode.
    """
    vectors = torch.from_numpy(embed_faces(Frozen(encoder), faces, compute))
    vectors = vectors - vectors.mean(dim=0)  # tokens share a large mean, which would hide every difference
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    cosine = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
    names = np.unique(np.array(people), return_inverse=True)[1]
    same = names[:, None] == names[None, :]
    first, second = np.triu_indices(len(names), k=1)
    pairs = Comparisons(cosine.numpy()[first, second], names[first], names[second])
    if not pairs.genuine.any() or pairs.genuine.all():
        return {}
    nearest = cosine.argmax(dim=1).numpy()
    shown_twice = same.sum(axis=1) > 1
    return {
        "probe_knn": float((names[nearest] == names)[shown_twice].mean()),
        "probe_auc": float(roc_auc_score(pairs)[0]),
    }
