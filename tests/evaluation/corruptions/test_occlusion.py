import numpy as np
import pytest
import torch

from facemae import config
from facemae.compute.seeding import Noise
from facemae.data.alignment.warp import template
from facemae.evaluation.corruptions.occlusion import OCCLUSIONS, occlude

KINDS = list(OCCLUSIONS)
AREAS = [0.1, 0.2, 0.3, 0.5, 0.7]
COUNT = 12


def faces(size=112, count=COUNT):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def noise(places=range(COUNT), key="a"):
    return Noise(places if isinstance(places, range) else torch.tensor(places), key)


def hidden(kind, area, size=112):
    return occlude(faces(size), kind, area, noise())[1]


def covered_at(kind, area, point):
    """Return for each face whether a point of the template is covered."""
    x, y = (round(each) for each in point)
    return hidden(kind, area)[:, y, x]


def test_the_kinds_are_those_that_the_configuration_offers():
    assert set(KINDS) == set(config.Occlusion.__args__)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [32, 70, 112])
def test_the_area_is_exact_and_only_it_is_changed(kind, size):
    images = faces(size)
    for area in AREAS:
        changed, where = occlude(images, kind, area, noise())
        assert where.sum(axis=(1, 2)).tolist() == [round(area * size * size)] * COUNT
        assert changed.dtype == np.uint8
        assert np.array_equal(changed[~where], images[~where])
        assert (changed[where] != images[where]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_no_area_leaves_the_face_and_all_of_it_covers_it(kind):
    images = faces()
    changed, where = occlude(images, kind, 0, noise())
    assert np.array_equal(changed, images)
    assert not where.any()
    assert occlude(images, kind, 1, noise())[1].all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_occluder_contains_the_smaller_one_and_looks_the_same(kind):
    images = faces()
    small, inner = occlude(images, kind, 0.1, noise())
    for area in AREAS[1:]:
        large, outer = occlude(images, kind, area, noise())
        assert outer[inner].all()
        assert np.array_equal(large[inner], small[inner])
        small, inner = large, outer


@pytest.mark.parametrize("kind", KINDS)
def test_an_occluder_depends_on_its_sample_alone(kind):
    images = faces()
    whole, where = occlude(images, kind, 0.3, noise())
    again, _ = occlude(images, kind, 0.3, noise())
    assert np.array_equal(whole, again)
    some = [7, 2, 9]
    part, part_where = occlude(images[some], kind, 0.3, noise(some))
    assert np.array_equal(part, whole[some])
    assert np.array_equal(part_where, where[some])
    assert not np.array_equal(whole, occlude(images, kind, 0.3, noise(key="b"))[0])


@pytest.mark.parametrize("kind", ["block", "sunglasses", "mask", "scarf", "hand"])
def test_every_sample_has_another_occluder(kind):
    images = np.zeros((COUNT, 112, 112, 3), np.uint8)
    changed, where = occlude(images, kind, 0.2, noise())
    assert len({each.tobytes() for each in where}) == COUNT
    assert len({each.tobytes() for each in changed}) == COUNT


def test_they_cover_what_they_are_named_after():
    eye, other_eye, nose, corner, other_corner = template(112)
    for point in (eye, other_eye):
        assert covered_at("sunglasses", 0.1, point).all()
        assert not covered_at("mask", 0.3, point).any()
        assert not covered_at("scarf", 0.3, point).any()
    for point in (corner, other_corner):
        assert not covered_at("sunglasses", 0.3, point).any()
        assert covered_at("mask", 0.3, point).all()
        assert covered_at("scarf", 0.3, point).all()
    assert covered_at("mask", 0.1, nose).all()
    assert not covered_at("scarf", 0.1, corner).any()
    mouth = (corner + other_corner) / 2
    assert covered_at("hand", 0.3, mouth).mean() > 0.5


@pytest.mark.parametrize("kind", ["left", "right"])
def test_a_half_grows_from_its_side(kind):
    where = hidden(kind, 0.5)
    half = where[:, :, :56] if kind == "left" else where[:, :, 56:]
    assert half.all()


def test_a_block_is_a_rectangle():
    where = hidden("block", 0.1)
    for each in where:
        rows, columns = np.flatnonzero(each.any(axis=1)), np.flatnonzero(each.any(axis=0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert each.sum() > 0.9 * box  # the last lines of pixels may be begun


@pytest.mark.parametrize("kind", KINDS)
def test_some_are_plain_and_some_are_of_noise(kind):
    colours, _ = occlude(np.zeros((40, 112, 112, 3), np.uint8), kind, 1.0, Noise(range(40), "c"))
    plain = [len(np.unique(each.reshape(-1, 3), axis=0)) == 1 for each in colours]
    assert 8 < sum(plain) < 32


def test_what_is_no_share_or_no_match_is_refused():
    with pytest.raises(ValueError, match="an area is a share"):
        occlude(faces(), "block", 1.1, noise())
