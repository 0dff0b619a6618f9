"""Recognition under real light from the side: people enrolled under light from the front.

The Extended Yale Face Database B shows each person under 64 directions of light, in five subsets by the angle
between light and camera.

Shapes: N photos, P people, R resamples, D features.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from facemae.core import layout, records
from facemae.core.errors import DataError, UsageError
from facemae.evaluation import metrics
from facemae.evaluation.metrics import Comparisons, Floats, Integers, Measurement
from facemae.evaluation.statistics import identity_weights
from facemae.stages.embed import Recogniser
from facemae.stages.task import Task

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


def real_light(task: Task, source: str, recognise: Recogniser) -> list[Measurement]:
    """Return how photos of a tested source are recognised by the direction of their light.

    With rotations the first part's model recognises them, since none of the models knows these people.

    Raises:
        DataError: nothing of the source is tested, or too little to measure.
        UsageError: its photos do not say where the light is.
    """
    rows = lit_rows(task, source)
    vectors = recognise(task.load_rows(rows).images, 0)
    people, identity = np.unique(rows["person"].to_numpy(str), return_inverse=True)
    if len(people) < 2:
        raise DataError(f"robustness.illumination: {source} shows {len(people)} person, and 2 are needed.")
    evaluate, split = task.experiment.evaluate, task.experiment.split
    weights = identity_weights(len(people), evaluate.resamples, split.seed)
    note = f"by the model of part 1 of {split.rotations}" if split.rotations > 1 else ""
    try:
        return illumination(vectors, identity, rows["subset"].to_numpy(str), weights, note)
    except ValueError as error:
        raise DataError(f"The light of {source} cannot be evaluated: {error}.") from error


def lit_rows(task: Task, source: str) -> pd.DataFrame:
    """Return the split's rows of a tested source with their `subset` by the angle of the light.

    Raises:
        DataError: nothing of it is tested.
        UsageError: its photos do not say where the light is.
    """
    name = source.partition(":")[0]
    faces = records.read_table(task.data.faces)
    rows = task.rows(layout.ROLE_TESTED).merge(faces[faces["source"] == name][["sample_id"]], on="sample_id")
    if rows.empty:
        raise DataError(
            f"robustness.illumination: no face of {name} is there to be tested only; name it in data.tested."
        )
    light = ["light_azimuth", "light_elevation"]
    known = faces.set_index("sample_id").reindex(rows["sample_id"]).reindex(columns=light)
    if known.isna().any(axis=None):
        raise UsageError(
            f"robustness.illumination: the photos of {name} do not name the direction of their light; "
            "take yaleb or null."
        )
    azimuth, elevation = (known[each].to_numpy(float) for each in light)
    return rows.assign(subset=light_subset(azimuth, elevation))


def illumination(
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
        ValueError: a vector has no direction, or nothing is in the gallery.
    """
    gallery = subset == GALLERY
    if not gallery.any():
        raise ValueError(f"no photo is lit within {SUBSETS[GALLERY]:g} degrees of the camera")
    enrolled = np.isin(identity, identity[gallery])
    measured: list[Measurement] = []
    for name in list(SUBSETS)[1:]:
        probes = (subset == name) & enrolled
        measured += _one_subset(vectors, identity, gallery, probes, weights, (name, note))
    ranks = [each for each in measured if each.name == "rank1"]
    missing = [each.condition for each in ranks if each.value is None]
    total = sum(each.n for each in ranks)
    if missing:
        why = f"there is no probe in {', '.join(missing)}"
        mean = Measurement(PROTOCOL, "illumination_rank1", None, total, why, None)
    else:
        value = float(np.mean([each.value for each in ranks]))
        samples = np.mean([each.samples for each in ranks if each.samples is not None], axis=0)
        mean = Measurement(PROTOCOL, "illumination_rank1", value, total, note, samples)
    return [replace(each, people=weights.shape[1]) for each in (*measured, mean)]


def _one_subset(
    vectors: NDArray[np.floating],
    identity: Integers,
    gallery: NDArray[np.bool_],
    probes: NDArray[np.bool_],
    weights: NDArray[np.integer],
    named: tuple[str, str],
) -> list[Measurement]:
    subset, note = named
    if not probes.any():
        why = "there is no probe"
        return [Measurement(PROTOCOL, each, None, 0, why, None, subset) for each in ("rank1", "eer")]
    used = gallery | probes
    hits, asked = metrics.rank1_hits(vectors[used], identity[used], gallery[used])
    hits, asked = (np.pad(each, (0, weights.shape[1] - len(each))) for each in (hits, asked))
    rank1 = [metrics.rank1_score(hits, asked, each) for each in (None, weights)]
    pairs = _claims(vectors, identity, gallery, probes)
    eer = [metrics.equal_error_rate(pairs, each) for each in (None, weights)]
    return [
        Measurement(
            PROTOCOL, "rank1", float(rank1[0][0]), int(probes.sum()), note, rank1[1], condition=subset
        ),
        Measurement(PROTOCOL, "eer", float(eer[0][0]), len(pairs), note, eer[1], condition=subset),
    ]


def _claims(
    vectors: NDArray[np.floating], identity: Integers, gallery: NDArray[np.bool_], probes: NDArray[np.bool_]
) -> Comparisons:
    """Compare each probe with each enrolled person: the best cosine with one of the person's photos."""
    cosine = _unit(vectors[probes]) @ _unit(vectors[gallery]).T
    people, owner = np.unique(identity[gallery], return_inverse=True)
    best = np.stack([cosine[:, owner == each].max(axis=1) for each in range(len(people))], axis=1)
    return Comparisons(best.ravel(), np.repeat(identity[probes], len(people)), np.tile(people, len(best)))


def _unit(vectors: NDArray[np.floating]) -> Floats:
    rows = np.asarray(vectors, dtype=np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
