"""Recognition under real light from the side: people enrolled under light from the front.

The Extended Yale Face Database B shows each person under 64 directions of light, in five subsets by the angle
between light and camera.

Shapes: N photos, P people, R resamples, D features.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemae.core.errors import RefusedError
from facemae.evaluation import metrics
from facemae.evaluation.pairs import Comparisons, Floats, Integers, unit_rows
from facemae.evaluation.protocols.identification import rank1_hits, rank1_score
from facemae.evaluation.records import Measurement, refused

PROTOCOL = "illumination"
# The subsets of the Yale Face Database B by the angle in degrees between light and camera, up to and with
# (Georghiades et al., From Few to Many, 2001; Lee et al., 2005). The published bound of S3 is 50, but its 12
# photos of a person include the two at azimuth +-35 and elevation 40, whose angle is 51.1.
SUBSETS = {"S1": 12.0, "S2": 25.0, "S3": 52.0, "S4": 77.0, "S5": 180.0}
GALLERY = "S1"
_ROUNDED = 6  # decimals of an angle: 25 degrees shall be 25


def light_angle(azimuth: ArrayLike, elevation: ArrayLike) -> Floats:
    """Return the angle between light and camera, both and the result in degrees."""
    cosine = np.cos(np.deg2rad(azimuth)) * np.cos(np.deg2rad(elevation))
    return np.asarray(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))).round(_ROUNDED))


def light_subset(azimuth: ArrayLike, elevation: ArrayLike) -> NDArray[np.str_]:
    """Return which of `SUBSETS` each photo belongs to."""
    place = np.searchsorted(list(SUBSETS.values()), light_angle(azimuth, elevation))
    return np.array(list(SUBSETS))[place]


def measure(
    vectors: NDArray[np.floating],
    identity: Integers,
    subset: NDArray[np.str_],
    weights: NDArray[np.integer],
    note: str = "",
) -> list[Measurement]:
    """Recognise photos under light from the side by those lit from the front.

    All photos of S1 are the gallery, the photos of each other subset are probes. For the equal error rate
    each probe is compared with each person of the gallery: with the one of the person's photos that is most
    like it. Probes of people without a photo in S1 are left out.

    Args:
        vectors: (N, D) embeddings.
        identity: (N,) people counted from 0.
        subset: (N,) one of `SUBSETS` each.
        weights: (R, P) resamples of the people.
        note: What to say of every value.

    Raises:
        RefusedError: nothing is in the gallery.
        ValueError: a vector has no direction.
    """
    gallery = subset == GALLERY
    if not gallery.any():
        raise RefusedError(f"no photo is lit within {SUBSETS[GALLERY]:g} degrees of the camera")
    enrolled = np.isin(identity, identity[gallery])
    measured: list[Measurement] = []
    for name in list(SUBSETS)[1:]:
        found = _one_subset(vectors, identity, gallery, (subset == name) & enrolled, weights)
        measured += [replace(each, condition=name, note=each.note or note) for each in found]
    ranks = [each for each in measured if each.name == "rank1"]
    missing = [each.condition for each in ranks if each.value is None]
    value, samples = None, None
    if missing:
        note = f"there is no probe in {', '.join(missing)}"
    else:
        value = float(np.mean([each.value for each in ranks]))
        samples = np.mean([each.samples for each in ranks if each.samples is not None], axis=0)
    total = sum(each.n for each in ranks)
    mean = Measurement(PROTOCOL, "illumination_rank1", value, total, note, samples)
    return [replace(each, people=weights.shape[1]) for each in (*measured, mean)]


def _one_subset(
    vectors: NDArray[np.floating],
    identity: Integers,
    gallery: NDArray[np.bool_],
    probes: NDArray[np.bool_],
    weights: NDArray[np.integer],
) -> list[Measurement]:
    if not probes.any():
        return refused(PROTOCOL, ("rank1", "eer"), 0, "there is no probe")
    used = gallery | probes
    people, own = np.unique(identity[used], return_inverse=True)
    found = np.zeros((2, weights.shape[1]), np.int64)
    found[:, people] = rank1_hits(vectors[used], own, gallery[used])
    rank1 = [rank1_score(found[0], found[1], each) for each in (None, weights)]
    pairs = _claims(vectors, identity, gallery, probes)
    eer = [metrics.equal_error_rate(pairs, each) for each in (None, weights)]
    return [
        Measurement(PROTOCOL, "rank1", float(rank1[0][0]), int(probes.sum()), samples=rank1[1]),
        Measurement(PROTOCOL, "eer", float(eer[0][0]), len(pairs), samples=eer[1]),
    ]


def _claims(
    vectors: NDArray[np.floating], identity: Integers, gallery: NDArray[np.bool_], probes: NDArray[np.bool_]
) -> Comparisons:
    """Compare each probe with each enrolled person: the best cosine with one of the person's photos."""
    cosine = unit_rows(vectors[probes]) @ unit_rows(vectors[gallery]).T
    people, owner = np.unique(identity[gallery], return_inverse=True)
    best = np.stack([cosine[:, owner == each].max(axis=1) for each in range(len(people))], axis=1)
    return Comparisons(best.ravel(), np.repeat(identity[probes], len(people)), np.tile(people, len(best)))
