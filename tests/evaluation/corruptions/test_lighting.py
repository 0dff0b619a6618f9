import numpy as np
import pytest
import torch

from facemae import config
from facemae.compute.seeding import Noise
from facemae.evaluation.corruptions.lighting import LIGHTS, OVER, SHADE, UNDER, relight

KINDS = list(LIGHTS)
COUNT = 16


def faces(count=COUNT):
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def plain(level):
    return np.full((COUNT, 32, 32, 3), level, np.uint8)


def noise(places=range(COUNT)):
    return Noise(places if isinstance(places, range) else torch.tensor(places), "light")


def linear(level):
    """Return the intensity behind an sRGB level, by the standard's formula."""
    share = level / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


def test_the_kinds_are_those_that_the_configuration_offers():
    assert set(KINDS) == set(config.Light.__args__)


@pytest.mark.parametrize("kind", KINDS)
def test_no_strength_changes_no_level(kind):
    images = faces()
    assert len(np.unique(images)) == 256
    assert np.array_equal(relight(images, kind, 0, noise()), images)


@pytest.mark.parametrize("kind", KINDS)
def test_more_strength_goes_further_the_same_way(kind):
    means = [
        relight(plain(120), kind, strength, noise()).mean(axis=(1, 2, 3)) for strength in (0, 0.3, 0.6, 1)
    ]
    steps = np.diff(means, axis=0)
    assert ((steps > 0).all(axis=0) | (steps < 0).all(axis=0)).all()


@pytest.mark.parametrize("kind", ["exposure", "gamma"])
def test_some_become_brighter_and_some_darker(kind):
    brighter = relight(plain(120), kind, 1, noise()).mean(axis=(1, 2, 3)) > 120
    assert 2 < brighter.sum() < COUNT - 2


def test_exposure_is_a_factor_on_linear_light():
    changed = relight(plain(120), "exposure", 0.5, noise())[:, 0, 0, 0]
    for level in np.unique(changed):
        stops = np.log2(linear(level) / linear(120))
        assert min(abs(stops - UNDER / 2), abs(stops - OVER / 2)) < 0.05
    assert relight(plain(200), "exposure", 1, noise()).max() == 255


def test_gamma_keeps_black_and_white():
    for level in (0, 255):
        assert (relight(plain(level), "gamma", 1, noise()) == level).all()
    changed = relight(plain(120), "gamma", 1, noise())
    expected = {round(255 * (120 / 255) ** 3), round(255 * (120 / 255) ** (1 / 3))}
    assert set(np.unique(changed).tolist()) == expected


def test_shade_falls_smoothly_on_one_side():
    changed = relight(plain(200), "side", 1, noise()).astype(int)
    assert (changed == changed[:, :1, :, :1]).all()  # the same from top to bottom, and grey
    columns = changed[:, 0, :, 0]
    dark_right = columns[:, -1] < columns[:, 0]
    assert 2 < dark_right.sum() < COUNT - 2
    falling = np.where(dark_right[:, None], columns, columns[:, ::-1])
    assert (np.diff(falling, axis=1) <= 0).all()
    assert np.abs(np.diff(falling, axis=1)).max() < 20
    assert (falling[:, 0] == 200).all()
    assert np.log2(linear(falling[0, -1]) / linear(200)) == pytest.approx(SHADE, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_light_depends_on_its_sample_alone(kind):
    images = faces()
    whole = relight(images, kind, 0.7, noise())
    assert np.array_equal(whole, relight(images, kind, 0.7, noise()))
    some = [9, 3, 14]
    assert np.array_equal(relight(images[some], kind, 0.7, noise(some)), whole[some])


def test_what_is_no_strength_or_no_match_is_refused():
    with pytest.raises(ValueError, match="a strength lies between 0 and 1"):
        relight(faces(), "gamma", 1.5, noise())
