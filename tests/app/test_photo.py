"""Choosing a face: what is kept of a photo, and where its boxes are drawn."""

import io

import numpy as np
import pytest
from driving import run, written
from PIL import Image
from streamlit.testing.v1 import AppTest

from facemae.app.parts import photo_input
from facemae.data.alignment.align import BETTER_PHOTO, Aligned
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.recognition.recogniser import Found, Photo

SCRIPT = """
import streamlit as st
from facemae.app.parts import photo_input as photo
chosen = photo.aligned_face("face", 112)
st.text("nothing" if chosen is None else f"{chosen.name} {chosen.image.shape} {chosen.sample_id}")
"""


def png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def shots(*people: int, scale: int = 2) -> bytes:
    known = {each.sample_id: each.path for each in orl_photos()}
    faces = [np.asarray(open_image(known[f"orl/s{person:02}/01"])) for person in people]
    wide = Image.fromarray(np.concatenate(faces, axis=1))
    return png(wide.resize((wide.width * scale, wide.height * scale)))


@pytest.fixture
def page(shown):
    return run(AppTest.from_string(SCRIPT, default_timeout=60))


def test_a_sample_is_there_at_once(page):
    name = page.selectbox(key="face").value
    assert page.text[-1].value == f"{name} (112, 112, 3) {name}"


def test_a_photo_of_ones_own_is_aligned(page):
    run(page.segmented_control(key="face_from").set_value(photo_input.UPLOAD))
    assert page.text[-1].value == "nothing"
    page.file_uploader[0].set_value(("a.png", shots(1), "image/png"))
    assert run(page).text[-1].value == "face 1 of your photo (112, 112, 3) None"


def test_of_several_faces_one_is_chosen(page):
    run(page.segmented_control(key="face_from").set_value(photo_input.UPLOAD))
    page.file_uploader[0].set_value(("a.png", shots(1, 2), "image/png"))
    assert run(page).text[-1].value.startswith("face 1 ")
    assert run(page.segmented_control(key="face_number").set_value(2)).text[-1].value.startswith("face 2 ")


def test_a_webcam_shot_is_aligned(page):
    run(page.segmented_control(key="face_from").set_value(photo_input.WEBCAM))
    assert "Allow the camera for this page" in written(page)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(shots(3))).save(buffer, "JPEG")
    page.camera_input[0].set_value(("cam.jpg", buffer.getvalue(), "image/jpeg"))
    assert run(page).text[-1].value == "face 1 of your photo (112, 112, 3) None"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello", "This file is not a picture we can read. Use JPEG, PNG or WebP."),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC pictures are not supported. Export the picture as JPEG"),
        (png(Image.new("RGB", (300, 300), "white")), f"No face found. {BETTER_PHOTO}"),
        (png(Image.new("RGB", (10, 10))), "The picture is 10 x 10 pixels; at least 20 a side are needed."),
    ],
)
def test_a_photo_that_cannot_be_used_is_explained(page, data, said):
    run(page.segmented_control(key="face_from").set_value(photo_input.UPLOAD))
    page.file_uploader[0].set_value(("a.jpg", data, "image/jpeg"))
    assert said in written(run(page))
    assert page.text[-1].value == "nothing"


def test_a_session_keeps_a_photo_no_larger_than_it_is_shown(page):
    run(page.segmented_control(key="face_from").set_value(photo_input.UPLOAD))
    page.file_uploader[0].set_value(("a.png", shots(1, scale=12), "image/png"))
    run(page)
    kept = page.session_state["face_found"][1]
    assert max(kept.image.size) == photo_input.PHOTO_SIDE < max(kept.size)
    left, top, right, bottom = kept.faces[0].box
    assert 0 < right - left < kept.size[0]
    assert 0 < bottom - top < kept.size[1] * 1.1


def test_boxes_are_drawn_around_the_faces():
    image = Image.new("RGB", (200, 100), "white")
    box = np.array([50, 40, 90, 90], np.float32)
    face = Aligned(np.zeros((112, 112, 3), np.uint8), 1.0)
    drawn = np.asarray(
        Image.open(io.BytesIO(photo_input.boxed(Photo(image, image.size, [Found(1, box, face)]))))
    )
    colour = np.array([0, 229, 255])
    assert (drawn[65, 50] == colour).all()
    assert (drawn[65, 90] == colour).all()
    assert (drawn[65, 70] == 255).all()
    assert (drawn[90, 70] == colour).all()


@pytest.mark.parametrize(("side", "width"), [(250, 500), (900, 900)])
def test_a_small_photo_is_shown_no_more_than_twice_as_large(
    monkeypatch: pytest.MonkeyPatch, side: int, width: int
) -> None:
    shown: list[int] = []
    monkeypatch.setattr(photo_input.st, "image", lambda *_, **how: shown.append(how["width"]))
    photo_input.show(Photo(Image.new("RGB", (side, side)), (side, side), []))
    assert shown == [width]
