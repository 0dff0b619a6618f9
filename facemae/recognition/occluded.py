"""What something in front of a face does to a recogniser, and what helps against it.

Two mitigations are known. *Patch drop* hides the patches behind the occluder from the encoder, which an
encoder that was pretrained on visible patches alone (He et al., CVPR 2022) may bear. *Reconstruction* lets
the run's own masked autoencoder fill the patches in and embeds the completed picture; what it draws is
likely, not true, and may be another person's. `measure` says what each is worth on faces of people who are
known.
Shapes: N faces, H their side in pixels, P patches of a face, D dimensions of an embedding, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from facemae import config
from facemae.compute.device import Compute, fused_attention
from facemae.compute.seeding import Noise
from facemae.core.errors import DataError, UsageError
from facemae.core.seeds import seed_of
from facemae.evaluation.corruptions.occlusion import occlude
from facemae.evaluation.metrics import roc_auc_score
from facemae.evaluation.pairs import Comparisons
from facemae.evaluation.protocols.operating_point import rates
from facemae.evaluation.statistics import estimate, identity_weights
from facemae.evaluation.variance import Resampled
from facemae.masking.mask import PatchMask, hide_highest
from facemae.models.embedder import BATCH, Embedder, embed, embed_faces
from facemae.models.mae import MaskedAutoencoder
from facemae.models.mlp import Mlp
from facemae.models.patches import to_faces, to_input
from facemae.models.reconstruction import reconstruct

Pixels = NDArray[np.uint8]
Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Mitigation = Literal["none", "patch_drop", "reconstruct"]
Autoencoder = tuple[MaskedAutoencoder, config.Pretrain]
"""A masked autoencoder and how it was trained, as `models.weights.load_autoencoder` returns them."""
_Scores = dict[str, Floats]
"""Rates and area by column, (1 + R,): the value, and what it is in the resamples."""

MITIGATIONS: dict[Mitigation, str] = {
    "none": "no mitigation",
    "patch_drop": "patch drop",
    "reconstruct": "reconstruction",
}
CLEAN = "clean"  # the row of `measure` for probes that nothing covers
CELLS = 28  # along a side, of an occluder that is painted by hand
PAINTED = (128, 128, 128)
# A patch is dropped when more than this share of it is covered, so that it shows more occluder than face.
# Of 0, 0.1, 0.25 and 0.5 it gave the best ROC AUC on the training people of ORL in 7 of 9 cases (3 runs,
# under mask, sunglasses and block).
TOUCHED = 0.5
MOST_PROBES = 200
LEAST_SHOTS = 4  # faces of a person, of those who have more, before others' faces are left out
RESAMPLES = 500
LEVEL = 0.95
COLUMNS = ["tar", "far", "roc_auc"]


# --- something in front of a face ---


def cover(face: Pixels, kind: str, area: float, seed: int) -> tuple[Pixels, Booleans]:
    """Lay an occluder over an aligned face (H, H, 3); return it and which pixels are covered, (H, H) bool.

    Kind and area are as `occlusion.occlude` takes them. The seed says which occluder of its kind it is;
    another area of the same one contains it, or lies in it.
    """
    images, hidden = occlude(face[None], kind, area, Noise(range(1), seed, "cover", kind))
    return images[0], hidden[0]


def cover_painted(face: Pixels, cells: Booleans) -> tuple[Pixels, Booleans]:
    """Lay what was painted by hand, such as (28, 28) cells, in grey over a face (H, H, 3); as `cover`."""
    place = np.arange(face.shape[0]) * len(cells) // face.shape[0]
    hidden = np.asarray(cells, np.bool_)[place[:, None], place[None, :]]
    return np.where(hidden[..., None], np.array(PAINTED, np.uint8), face), hidden


# --- the mitigations ---


def obstacle(embedder: Embedder, mitigation: Mitigation, autoencoder: Autoencoder | None) -> str:
    """Return why a mitigation cannot be had of a model, a sentence with what can be done, or nothing."""
    if mitigation == "patch_drop" and isinstance(embedder.encoder, Mlp):
        return (
            "Patch drop needs an encoder of patches, and this model's reads all pixels at once; choose a "
            "model with a vit or cnn encoder."
        )
    if mitigation == "reconstruct" and autoencoder is None:
        return (
            "Reconstruction needs the run's own masked autoencoder, and this run has none; choose a run "
            "with masked pretraining."
        )
    return ""


def embed_covered(
    embedder: Embedder, faces: Pixels, hidden: Booleans, mitigation: Mitigation,
    autoencoder: Autoencoder | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    """Return the unit embeddings (N, D) of covered faces.

    Args:
        embedder: The recogniser.
        faces: (N, H, H, 3) uint8, as covered: no mitigation can look at what was behind the occluder.
        hidden: (N, H, H) bool, which pixels are covered.
        mitigation: "none" embeds the covered picture; "patch_drop" hides patches of which more than
            `TOUCHED` is covered from the encoder; "reconstruct" embeds what `completed` returns.
        autoencoder: The run's own; for "reconstruct".

    Raises:
        UsageError: the model cannot do it (`obstacle`), or the occluder leaves it no patch to see.
    """
    if problem := obstacle(embedder, mitigation, autoencoder):
        raise UsageError(problem)
    if mitigation == "reconstruct":
        assert autoencoder is not None
        faces = completed(autoencoder, faces, hidden)
    if mitigation != "patch_drop":
        return embed_faces(embedder, faces, Compute(next(embedder.parameters()).device, torch.float32))
    places, vectors = [], []
    for alike, images, mask in _alike(embedder, faces, hidden, TOUCHED):
        places.append(alike)
        vectors.append(embed(embedder, images, mask).cpu().numpy())
    return np.concatenate(vectors)[np.argsort(np.concatenate(places))]


def completed(autoencoder: Autoencoder, faces: Pixels, hidden: Booleans) -> Pixels:
    """Return covered faces (N, H, H, 3) uint8 with the covered pixels filled in by a masked autoencoder.

    Every patch that the occluder touches at all is hidden from the encoder and predicted, so that neither the
    occluder nor what it covers has any influence; pixels that are not covered stay as they are. A model of
    normalised patches predicts neither brightness nor contrast: they are taken from the visible patches
    around (`brightness_around`), never from the original, which a real occluder would not show either.

    Raises:
        UsageError: the occluder touches every patch.
    """
    mae, settings = autoencoder
    size, result = mae.encoder.patch_size, faces.copy()
    for places, images, mask in _alike(mae, faces, hidden, 0.0):
        if mask is None:
            continue
        with torch.inference_mode(), fused_attention(mae):
            picture = reconstruct(
                mae(images, mask), images, size, normalised=settings.normalise_target, around=mask
            )
        filled = to_faces(picture).cpu().numpy()
        result[places] = np.where(hidden[places][..., None], filled, faces[places])
    return result


def touched(hidden: Booleans, side: int, share: float) -> Booleans:
    """Return which patches (N, side * side) have more than a share of their pixels in `hidden` (N, H, H)."""
    patch = hidden.shape[1] // side
    covered = hidden.reshape(len(hidden), side, patch, side, patch).mean(axis=(2, 4))
    return np.asarray(covered > share).reshape(len(hidden), side * side)


def _alike(
    network: Embedder | MaskedAutoencoder, faces: Pixels, hidden: Booleans, share: float
) -> Iterator[tuple[NDArray[np.int64], Tensor, PatchMask | None]]:
    """Yield faces that hide equally many patches, at most `BATCH`: places, images, and mask, None of nothing.

    The visible tokens of a batch stack into one tensor only then.
    """
    device = next(network.parameters()).device
    patches = touched(hidden, network.encoder.side, share)
    counts = patches.sum(axis=1)
    if (counts == patches.shape[1]).any():
        raise UsageError(
            f"The occluder reaches every one of the {patches.shape[1]} patches, so the encoder would see "
            "nothing; cover less of the face."
        )
    for count in np.unique(counts).tolist():
        alike = np.flatnonzero(counts == count)
        for start in range(0, len(alike), BATCH):
            places = alike[start : start + BATCH]
            images = to_input(torch.tensor(np.ascontiguousarray(faces[places])).to(device))
            mask = hide_highest(torch.from_numpy(patches[places]).float(), count) if count else None
            yield places, images, None if mask is None else mask.to(device)


# --- what the mitigations are worth ---


def measure(
    embedder: Embedder, autoencoder: Autoencoder | None, faces: Pixels, people: Sequence[str],
    kind: str, area: float, threshold: float, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Measure what an occluder costs this one network, and what each mitigation gives back.

    Each of at most `MOST_PROBES` faces, evenly over people, has an occluder of its own and is compared with
    every other of these faces as it is. The result depends on the arguments alone.

    Args:
        embedder, autoencoder: The recogniser, and its run's masked autoencoder, if any.
        faces, people: (N, H, H, 3) uint8, aligned faces of people that it was not trained on; whose they are.
        kind, area: As of `cover`.
        threshold: Cosine from which on two faces are taken for one person's.
        seed: Of the occluders, the choice of faces and the resamples.

    Returns:
        Rows `CLEAN` and `MITIGATIONS`: tar and far at the threshold and roc_auc, each with `*_low`, `*_high`,
        an interval over people for this network; `*_gain`, `*_gain_low`, `*_gain_high`, the difference from
        "none"; `note`, why there are no values; and the numbers of probes and people.

    Raises:
        DataError: there are no two people of whom there are two faces.
    """
    chosen = _chosen(people, seed)
    names, identity = np.unique(np.asarray(people)[chosen], return_inverse=True)
    weights = identity_weights(len(names), RESAMPLES, seed_of(seed, "cover") % 2**32)
    covered, hidden = occlude(faces[chosen], kind, area, Noise(torch.from_numpy(chosen), seed, "cover", kind))
    reference = embed_covered(embedder, faces[chosen], np.zeros_like(hidden), "none")
    scored: dict[str, _Scores] = {CLEAN: _score(reference, reference, identity, threshold, weights)}
    rows: dict[str, dict[str, Any]] = {name: {"note": ""} for name in (CLEAN, *MITIGATIONS)}
    for name in MITIGATIONS:
        try:
            vectors = embed_covered(embedder, covered, hidden, name, autoencoder)
            scored[name] = _score(vectors, reference, identity, threshold, weights)
        except UsageError as error:
            rows[name]["note"] = str(error)
    for way, own in scored.items():
        rows[way] |= _row(own, scored["none"], len(names))
    return pd.DataFrame.from_dict(rows, orient="index").assign(probes=len(chosen), people=len(names))


def _chosen(people: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the places of at most `MOST_PROBES` faces: of people with two or more, equally many of each."""
    names, identity, counts = np.unique(np.asarray(people), return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    if len(several) < 2:
        raise DataError(
            f"Mitigations are measured on people with two faces or more, and of {len(names)} people there "
            f"are {len(several)}; at least 2 are needed: choose results with more evaluation faces."
        )
    random = np.random.default_rng(seed)
    quota = max(LEAST_SHOTS, MOST_PROBES // len(several))
    kept = [random.permutation(np.flatnonzero(identity == person))[:quota] for person in several]
    kept = [kept[place] for place in random.permutation(len(kept))]
    ends = np.cumsum([len(each) for each in kept]).tolist()
    return np.sort(np.concatenate([each for each, end in zip(kept, ends, strict=True) if end <= MOST_PROBES]))


def _score(
    probes: NDArray[np.float32], references: NDArray[np.float32], identity: NDArray[np.int64],
    threshold: float, weights: NDArray[np.integer],
) -> _Scores:  # fmt: skip
    """Compare every probe with every reference but its own picture."""
    first, second = np.nonzero(~np.eye(len(probes), dtype=np.bool_))
    score = (probes.astype(np.float64) @ references.T.astype(np.float64))[first, second]
    pairs = Comparisons(score, identity[first], identity[second])
    far, fnmr = rates(pairs, [threshold], weights)[:, 0]
    area = np.concatenate([roc_auc_score(pairs), roc_auc_score(pairs, weights)])
    return {"tar": 1 - fnmr, "far": far, "roc_auc": area}


def _row(own: _Scores, none: _Scores, people: int) -> dict[str, float]:
    """Return the columns of one way to embed the probes."""
    row: dict[str, float] = {}
    for name in COLUMNS:
        ours, theirs = (Resampled(each[name][None, 1:], people) for each in (own, none))
        share = estimate(own[name][:1], ours, level=LEVEL)
        gain = estimate(own[name][:1] - none[name][:1], ours - theirs, level=LEVEL)
        ends = np.clip([share.value, share.low, share.high], 0, 1).tolist()
        row |= zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)
        row |= {f"{name}_gain": gain.value, f"{name}_gain_low": gain.low, f"{name}_gain_high": gain.high}
    return row


def verdict(table: pd.DataFrame, mitigation: Mitigation) -> str:
    """Return in one sentence what `measure` found of a mitigation, by the ROC AUC, which no threshold moves.

    Undecided is where the interval of the difference includes 0. For "none": what the occluder costs.
    """
    cells: dict[Any, dict[Any, Any]] = table.to_dict("index")
    row, before, what = cells[mitigation], cells["none"], MITIGATIONS[mitigation].capitalize()
    if row["note"]:
        return str(row["note"])
    low, high = row["roc_auc_gain_low"], row["roc_auc_gain_high"]
    if mitigation == "none":
        before, what = cells[CLEAN], "The occluder"
        low, high = -before["roc_auc_gain_high"], -before["roc_auc_gain_low"]
    change = f"the ROC AUC from {before['roc_auc']:.3f} to {row['roc_auc']:.3f}"
    interval = f"{low:+.3f} to {high:+.3f}"
    if low <= 0 <= high:
        change = f"moves {change}, and the interval of the difference, {interval}, includes 0: undecided"
    else:
        change = f"{'raises' if low > 0 else 'lowers'} {change} (interval of the difference {interval})"
    return (
        f"{what} {change}; at the threshold, genuine pairs accepted go from {before['tar']:.1%} to "
        f"{row['tar']:.1%} and impostor pairs from {before['far']:.1%} to {row['far']:.1%}."
    )
