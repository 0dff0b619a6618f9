import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from facemae.data.alignment import quality
from facemae.data.alignment.warp import template
from facemae.data.sources.orl import orl_photos

# A head from the front, in eye distances: x to the viewer's right, y down, z towards the viewer.
HEAD = np.array(
    [(-0.5, 0, 0), (0.5, 0, 0), (0, 0.58, 0.5), (-0.42, 1.16, 0), (0.42, 1.16, 0)], dtype=np.float64
)


def seen(yaw=0.0, roll=0.0, scale=60.0, shift=(150.0, 120.0)):
    """Return the landmarks of the head turned to the viewer's right by `yaw` degrees, from far away."""
    turn, tilt = math.radians(yaw), math.radians(roll)
    x = HEAD[:, 0] * math.cos(turn) + HEAD[:, 2] * math.sin(turn)
    flat = np.stack([x, HEAD[:, 1]], axis=1)
    rotation = np.array([(math.cos(tilt), -math.sin(tilt)), (math.sin(tilt), math.cos(tilt))])
    return flat @ rotation.T * scale + shift


@pytest.fixture(scope="module")
def face():
    """A sharp (224, 224, 3) face."""
    photo = Image.open(orl_photos()[0].path).convert("RGB").crop((0, 10, 92, 102))
    return photo.resize((224, 224), Image.Resampling.BICUBIC)


# --- yaw ---


@given(st.floats(-60, 60))
def test_the_turn_of_a_head_is_estimated_with_its_sign(yaw):
    assert quality.yaw(seen(yaw)) == pytest.approx(yaw, abs=3)


@given(st.floats(-60, 60), st.floats(-180, 180), st.floats(0.5, 300), st.tuples(*[st.floats(-500, 500)] * 2))
def test_the_turn_does_not_depend_on_size_tilt_or_place(yaw, roll, scale, shift):
    assert quality.yaw(seen(yaw, roll, scale, shift)) == pytest.approx(quality.yaw(seen(yaw)), abs=1e-6)


def test_the_template_looks_straight_ahead_and_its_mirror_image_turns_the_other_way():
    assert abs(quality.yaw(template(112))) < 2
    mirrored = (seen(30) * (-1, 1))[[1, 0, 2, 4, 3]]
    assert quality.yaw(mirrored) == pytest.approx(-quality.yaw(seen(30)))


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), 7.5), HEAD[:, :2] * (-1e-9, 1e-9)])
def test_landmarks_on_one_point_count_as_turned_away(points):
    assert quality.yaw(points.astype(np.float32)) == 90


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3, width=32)] * 2), min_size=5, max_size=5))
def test_any_landmarks_have_a_turn(points):
    assert -90 <= quality.yaw(np.array(points, np.float32)) <= 90


# --- sharpness ---


def test_sharpness_falls_with_every_step_of_blur(face):
    blurred = [face.filter(ImageFilter.GaussianBlur(sigma)) for sigma in (0, 1, 2, 4, 8, 16)]
    values = [quality.sharpness(np.asarray(each)) for each in blurred]
    assert all(first > 1.2 * then for first, then in itertools.pairwise(values))
    assert values[0] > quality.MIN_SHARPNESS > values[-2]


@pytest.mark.parametrize("size", [64, 96, 112, 160, 448])
def test_sharpness_does_not_depend_on_the_size_of_the_aligned_face(face, size):
    soft = face.filter(ImageFilter.GaussianBlur(2))  # as much detail as the smallest can hold
    other = soft.resize((size, size), Image.Resampling.BICUBIC)
    assert quality.sharpness(np.asarray(other)) == pytest.approx(quality.sharpness(np.asarray(soft)), rel=0.3)


def test_a_sharp_background_does_not_hide_a_blurred_face(face):
    pixels = np.asarray(face.filter(ImageFilter.GaussianBlur(8))).copy()
    value = quality.sharpness(pixels)
    pixels[:40] = np.random.default_rng(0).integers(0, 256, (40, 224, 3))
    assert quality.sharpness(pixels) == pytest.approx(value, rel=0.05)


def test_sharpness_by_hand():
    assert quality.sharpness(np.full((112, 112, 3), 77, np.uint8)) == 0
    # A chessboard of 0 and 200 has the Laplacian 4 x 200 on black and its negative on white.
    board = np.where(np.indices((56, 56)).sum(0) % 2, 200, 0).astype(np.uint8)
    assert quality.sharpness(np.stack([board] * 3, axis=2)) == pytest.approx(800**2)


# --- warnings ---

GOOD = {"size": 112, "score": 0.99, "face_px": 80.0, "residual": 3.0, "yaw": 5.0, "sharp": 900.0}


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("SMALL", {"face_px": quality.MIN_FACE_PX - 0.1}),
        ("TURNED", {"yaw": quality.MAX_YAW + 0.1}),
        ("TURNED", {"yaw": -quality.MAX_YAW - 0.1}),
        ("ODD", {"residual": quality.MAX_RESIDUAL_SHARE * 112 + 0.1}),
        ("ODD", {"size": 56, "residual": quality.MAX_RESIDUAL_SHARE * 56 + 0.1}),
        ("BLURRED", {"sharp": quality.MIN_SHARPNESS - 0.1}),
        ("UNSURE", {"score": quality.MIN_SURE_SCORE - 0.001}),
        ("LYING", {"quarter_turns": 3}),
    ],
)
def test_each_poor_number_is_one_warning(code, values):
    assert quality.warnings(**GOOD | values) == [code]


def test_a_good_face_and_one_on_every_limit_have_no_warning():
    limits = {
        "score": quality.MIN_SURE_SCORE,
        "face_px": quality.MIN_FACE_PX,
        "residual": quality.MAX_RESIDUAL_SHARE * 112,
        "yaw": -quality.MAX_YAW,
        "sharp": quality.MIN_SHARPNESS,
    }
    assert quality.warnings(**GOOD) == quality.warnings(**GOOD | limits) == []


def test_what_was_not_measured_is_not_doubted_and_all_warnings_come_in_the_order_of_the_table():
    unknown = dict.fromkeys(("score", "face_px", "residual", "yaw"))
    assert quality.warnings(**GOOD | unknown) == []
    assert quality.warnings(**GOOD | unknown | {"sharp": 0.0}) == ["BLURRED"]
    worst = quality.warnings(112, 0.0, 0.0, 0.0, 1e3, 90.0, 2)
    assert worst == list(quality.WARNINGS)
    assert all(quality.WARNINGS.values())
