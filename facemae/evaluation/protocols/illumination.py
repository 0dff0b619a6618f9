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
from facemae.evaluation.pairs import Booleans, Comparisons, Floats, Integers, Weights, unit_rows
from facemae.evaluation.protocols import identification
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
    weights: Weights,
    note: str = "",
) -> list[Measurement]:
    """Recognise photos under light from the side by those lit from the front.

    All photos of S1 are the gallery, the photos of each other subset are probes. For the equal error rate
    each probe is compared with each person of the gallery: with the one of the person's photos that is most
    like it. Probes of people without a photo in S1 are left out. Vectors are (N, D), `identity` (N,) people
    counted from 0, `subset` (N,) one of `SUBSETS` each, `weights` (R, P); `note` is said of every value. A
    RefusedError: nothing is in the gallery.
    """
    gallery = subset == GALLERY
    if not gallery.any():
        raise RefusedError(f"no photo is lit within {SUBSETS[GALLERY]:g} degrees of the camera")
    enrolled = np.isin(identity, identity[gallery])
    measured: list[Measurement] = []
    for name in list(SUBSETS)[1:]:
        probes = (subset == name) & enrolled
        if not probes.any():
            measured += refused(PROTOCOL, ("rank1", "eer"), 0, "there is no probe", name)
            continue
        used = gallery | probes
        people, own = np.unique(identity[used], return_inverse=True)
        found = _one_subset(vectors[used], own, gallery[used], weights[:, people])
        measured += [replace(each, protocol=PROTOCOL, condition=name, note=note) for each in found]
    measured.append(_mean([each for each in measured if each.name == "rank1"], note))
    return [replace(each, people=weights.shape[1]) for each in measured]


def _one_subset(
    vectors: NDArray[np.floating], identity: Integers, gallery: Booleans, weights: Weights
) -> list[Measurement]:
    rank1 = identification.rank1(vectors, identity, gallery, weights)
    pairs = _claims(unit_rows(vectors), identity, gallery)
    value, samples = (metrics.equal_error_rate(pairs, each) for each in (None, weights))
    return [rank1, Measurement(PROTOCOL, "eer", float(value[0]), len(pairs), samples=samples)]


def _claims(unit: Floats, identity: Integers, gallery: Booleans) -> Comparisons:
    """Compare each probe with each enrolled person: the best cosine with one of the person's photos."""
    cosine = unit[~gallery] @ unit[gallery].T
    people, owner = np.unique(identity[gallery], return_inverse=True)
    best = np.stack([cosine[:, owner == each].max(axis=1) for each in range(len(people))], axis=1)
    return Comparisons(best.ravel(), np.repeat(identity[~gallery], len(people)), np.tile(people, len(best)))


def _mean(ranks: list[Measurement], note: str) -> Measurement:
    """Return the mean rank 1 over the subsets, which all have to have been measured."""
    name, total = "illumination_rank1", sum(each.n for each in ranks)
    if missing := [each.condition for each in ranks if each.value is None]:
        return Measurement(PROTOCOL, name, None, total, f"there is no probe in {', '.join(missing)}")
    value = float(np.mean([each.value for each in ranks]))
    samples = np.mean([each.samples for each in ranks if each.samples is not None], axis=0)
    return Measurement(PROTOCOL, name, value, total, note, samples)
