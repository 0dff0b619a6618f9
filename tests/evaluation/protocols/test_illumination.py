import os
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from facemae.core.errors import RefusedError
from facemae.evaluation.protocols import illumination as light
from facemae.evaluation.statistics import identity_weights

# The 64 lights of a person, by azimuth and the elevations there.
STANDARD = {
    0: [0, 20, 45, 90, -20, -35], 5: [10, -10], 10: [0, -20], 15: [20], 20: [10, -10, -40], 25: [0],
    35: [15, 40, 65, -20], 50: [0, -40], 60: [20, -20], 70: [0, 45, -35], 85: [20, -20], 95: [0],
    110: [15, 40, 65, -20], 120: [0], 130: [20],
}  # fmt: skip


def standard_lights():
    return [
        (sign * azimuth, elevation)
        for azimuth, elevations in STANDARD.items()
        for sign in ((1, -1) if azimuth else (1,))
        for elevation in elevations
    ]


def test_subsets_are_those_of_the_publication():
    found = light.light_subset(*np.transpose(standard_lights()))
    assert Counter(found.tolist()) == {"S1": 7, "S2": 12, "S3": 12, "S4": 14, "S5": 19}


@pytest.mark.parametrize(
    ("azimuth", "elevation", "angle", "subset"),
    [
        (0, 0, 0, "S1"),
        (-5, 10, 11.169, "S1"),
        (0, 20, 20, "S2"),
        (25, 0, 25, "S2"),
        (-50, 0, 50, "S3"),
        (35, 40, 51.134, "S3"),
        (-70, 45, 76.005, "S4"),
        (0, 90, 90, "S5"),
        (130, 20, 127.159, "S5"),
    ],
)
def test_angles_by_hand(azimuth, elevation, angle, subset):
    assert light.light_angle(azimuth, elevation) == pytest.approx(angle, abs=1e-3)
    assert light.light_subset([azimuth], [elevation]) == [subset]


@pytest.mark.shared_data
def test_the_photos_have_the_standard_lights():
    folder = Path(os.environ["FACEMAE_RAW_DIR"]) / "yaleb"
    archive = next(folder.glob("CroppedYale.*"))
    with tarfile.open(archive) as file:
        names = file.getnames()
    found = [re.fullmatch(r".*(yaleB\d\d)_P00A([+-]\d{3})E([+-]\d{2})\.pgm(\.bad)?", name) for name in names]
    lights = {}
    for match in filter(None, found):
        lights.setdefault(match[1], set()).add((int(match[2]), int(match[3])))
    assert len(lights) == 38
    assert all(each == set(standard_lights()) for each in lights.values())


def lit(people=4, seed=0):
    """Return embeddings of people under the standard lights that get worse with the angle."""
    lights = np.array(standard_lights())
    draw = np.random.default_rng(seed)
    identity = np.repeat(np.arange(people), len(lights))
    angle = np.tile(light.light_angle(*lights.T), people)
    vectors = draw.normal(size=(people, 16))[identity]
    vectors = vectors + draw.normal(size=vectors.shape) * (angle / 40)[:, None]
    return vectors, identity, np.tile(light.light_subset(*lights.T), people)


def test_harder_light_is_harder_and_agrees_with_plain_code():
    vectors, identity, subset = lit()
    weights = identity_weights(4, 100, 0)
    found = {(e.name, e.condition): e for e in light.measure(vectors, identity, subset, weights)}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    gallery = subset == "S1"
    for name in ("S2", "S3", "S4", "S5"):
        cosine = unit[subset == name] @ unit[gallery].T
        right = identity[gallery][cosine.argmax(axis=1)] == identity[subset == name]
        rank1 = found["rank1", name]
        assert rank1.value == pytest.approx(right.mean())
        owners = identity[subset == name]
        expected = (weights[3][owners] * right).sum() / weights[3][owners].sum()
        assert rank1.samples[3] == pytest.approx(expected)
        best = np.stack([cosine[:, identity[gallery] == person].max(axis=1) for person in range(4)], axis=1)
        assert found["eer", name].n == best.size
        assert found["eer", name].value == pytest.approx(plain_eer(best, owners), abs=0.5 / len(owners))
    assert found["rank1", "S2"].value > found["rank1", "S5"].value
    mean = found["illumination_rank1", ""]
    assert mean.value == pytest.approx(np.mean([found["rank1", f"S{n}"].value for n in range(2, 6)]))
    assert len(mean.samples) == 100


def plain_eer(scores, owners):
    own = np.arange(scores.shape[1]) == owners[:, None]
    rates = [((scores[~own] >= cut).mean(), (scores[own] < cut).mean()) for cut in np.unique(scores)]
    far, frr = min(rates, key=lambda pair: abs(pair[0] - pair[1]))
    return (far + frr) / 2


def test_people_without_front_light_are_left_out_and_a_missing_subset_is_refused():
    vectors, identity, subset = lit()
    weights = identity_weights(4, 100, 0)
    kept = ~((identity == 3) & (subset == "S1")) & (subset != "S4")
    found = light.measure(vectors[kept], identity[kept], subset[kept], weights)
    by = {(each.name, each.condition): each for each in found}
    assert by["rank1", "S2"].n == 3 * 12
    for refused in (("rank1", "S4"), ("eer", "S4"), ("illumination_rank1", "")):
        assert by[refused].value is None
        assert by[refused].note
    assert "S4" in by["illumination_rank1", ""].note
    with pytest.raises(RefusedError, match="no photo is lit within 12 degrees"):
        light.measure(vectors, identity, np.full(len(subset), "S3"), weights)
