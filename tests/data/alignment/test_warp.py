import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facemae.data.alignment.warp import ARCFACE_TEMPLATE, residual, similarity, template, warp


def make(scale, angle, x, y):
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def umeyama(source, target):
    """Umeyama 1991, eq. 40-43, as printed: the reference for the short form."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    s = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(s) @ vt
    scale = (d * s).sum() / ((source - source_mean) ** 2).sum(1).mean()
    return np.hstack([scale * rotation, (target_mean - scale * rotation @ source_mean)[:, None]])


def test_template_scales_with_the_image():
    assert np.array_equal(template(112), ARCFACE_TEMPLATE)
    assert np.allclose(template(224), 2 * ARCFACE_TEMPLATE)
    left, right, nose, mouth_left, mouth_right = template(112)
    assert left[0] < nose[0] < right[0]
    assert mouth_left[0] < nose[0] < mouth_right[0]
    assert left[1] < nose[1] < mouth_left[1]


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.05, 20),
    st.floats(-math.pi, math.pi),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.integers(2, 8),
)
def test_similarity_recovers_what_was_applied(scale, angle, x, y, count):
    source = np.random.default_rng(count).uniform(0, 100, (count, 2))
    expected = make(scale, angle, x, y)
    assert np.allclose(similarity(source, apply(expected, source)), expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_similarity_is_umeyamas_even_where_nothing_fits(seed):
    source, target = np.random.default_rng(seed).normal(0, 10, (2, 5, 2))
    assert np.allclose(similarity(source, target), umeyama(source, target))


def test_similarity_by_hand():
    # A quarter turn that also doubles and shifts: (x, y) -> (-2y + 3, 2x + 4).
    source = np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
    target = np.array([(3.0, 4.0), (3.0, 6.0), (1.0, 4.0)])
    assert np.allclose(similarity(source, target), [[0, -2, 3], [2, 0, 4]])


def test_similarity_does_not_mirror():
    mirrored = ARCFACE_TEMPLATE * (-1, 1) + (112, 0)
    assert np.linalg.det(similarity(mirrored, ARCFACE_TEMPLATE)[:, :2]) > 0


@pytest.mark.parametrize("side", [0, 1])
def test_degenerate_points_are_refused(side):
    points = [ARCFACE_TEMPLATE, np.ones((5, 2))]
    with pytest.raises(ValueError, match="degenerate"):
        similarity(points[side], points[1 - side])


def dot(size, centre, radius):
    """A white disc with a soft edge on black."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    cover = np.clip(radius + 0.5 - np.hypot(x - centre[0], y - centre[1]), 0, 1)
    return Image.fromarray(np.repeat((cover * 255).round().astype(np.uint8)[..., None], 3, -1))


def centroid(array):
    weight = array[..., 0].astype(float)
    y, x = np.mgrid[: array.shape[0], : array.shape[1]] + 0.5
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize(
    ("scale", "angle"),
    [(1, 0), (1, 0.5), (0.7, -0.3), (2, 1.0), (3.3, 0.1), (0.5, 2.0), (0.25, 0.4), (0.11, -3)],
)
def test_warp_moves_a_dot_to_where_the_matrix_says(scale, angle):
    side = max(round(160 / scale), 100)
    centre = np.array([side * 0.5, side * 0.4])
    matrix = make(scale, angle, 0, 0)
    matrix[:, 2] = (50.3, 61.7) - matrix[:, :2] @ centre
    moved = warp(dot((side, side + 7), centre, 8 / scale), matrix, 112)
    assert moved.shape == (112, 112, 3)
    assert moved.dtype == np.uint8
    assert np.abs(centroid(moved) - (50.3, 61.7)).max() < 0.1


def test_identity_warp_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    assert np.array_equal(warp(Image.fromarray(image), make(1, 0, 0, 0), 60), image)


def test_strong_reduction_averages_instead_of_skipping():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    small = warp(Image.fromarray(stripes), make(0.25, 0, 0, 0), 100)
    assert np.abs(small[5:-5, 5:-5].astype(int) - 128).max() <= 1


def test_outside_continues_the_border():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 0], pixels[:, -1] = (200, 0, 0), (0, 0, 200)
    moved = warp(Image.fromarray(pixels), make(1, 0, 30, 0), 112)
    assert moved[20, 10].tolist() == [200, 0, 0]  # left of the photo: its left column
    assert moved[20, 100].tolist() == [0, 0, 200]  # right of it: its right column
    assert moved[100, 50].tolist() == [0, 0, 0]  # below it: its black middle


def test_residual_is_the_rms_distance():
    landmarks = template(56).copy()
    landmarks[2] += (3, 4)
    assert residual(landmarks, make(1, 0, 0, 0), 56) == pytest.approx(5 / math.sqrt(5))
    assert residual(template(56), make(2, 0, 0, 0), 112) == pytest.approx(0)
