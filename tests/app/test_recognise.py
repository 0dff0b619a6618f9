"""The recognition page: everybody is unknown, somebody is found, something is in front of the face."""

import io

import numpy as np
import pytest
from driving import open_page, run, written
from PIL import Image
from results_folder import HOSTILE
from streamlit.testing.v1 import AppTest

from facemae.app import frame
from facemae.app.parts import photo_input
from facemae.app.views import recognise
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.recognition import model as models
from facemae.recognition.enrolment import until
from facemae.recognition.gallery.schema import Template
from facemae.recognition.gallery.store import Gallery


def template(number: int, model: str = "f" * 16) -> Template:
    return Template(np.eye(32, dtype=np.float32)[number], model)


@pytest.fixture
def place(shown, tmp_path, monkeypatch):
    file = tmp_path / "kept" / "faces.sqlite"
    monkeypatch.setenv("FACEMAE_GALLERY", str(file))
    return file


def upload(page: AppTest, *photos: bytes) -> AppTest:
    page.segmented_control(key="recognise_from").set_value(photo_input.UPLOAD)
    run(page)
    page.file_uploader[0].set_value(("photo.png", photos[0], "image/png"))
    return run(page)


def picture(*people: int, scale: int = 2) -> bytes:
    """Return faces of ORL side by side as PNG."""
    known = {each.sample_id: each.path for each in orl_photos()}
    faces = [np.asarray(open_image(known[f"orl/s{person:02}/01"])) for person in people]
    wide = Image.fromarray(np.concatenate(faces, axis=1))
    buffer = io.BytesIO()
    wide.resize((wide.width * scale, wide.height * scale)).save(buffer, "PNG")
    return buffer.getvalue()


def decisions(page: AppTest) -> list[str]:
    return [each.proto.body for each in page.get("html") if "Face " in each.proto.body]


def test_with_nobody_enrolled_everybody_is_unknown(place):
    page = open_page("recognise")
    assert "The gallery is empty, so everybody is unknown." in written(page)
    assert decisions(page) == ["<b>Face 1: unknown person</b>"]
    assert "Needed for a match:" in written(page)


def test_demo_people_are_found_by_the_photo_they_were_enrolled_with(place):
    page = run(open_page("recognise").button(key="recognise_demo").click())
    assert "12 people are enrolled with this model." in written(page)
    first = page.selectbox(key="face").options[0]
    run(page.selectbox(key="face").set_value(first))
    table = page.dataframe[0].value
    assert table["score"].iloc[0] == pytest.approx(1, abs=1e-5)
    assert table["match"].tolist()[0]
    assert len(table) == 5
    assert table["score"].is_monotonic_decreasing
    assert f"Face 1: {table['person'].iloc[0]}" in decisions(page)[0]
    assert "With 12 people enrolled by 12 templates, a stranger is taken for one of them in about" in written(
        page
    )


def test_every_face_of_a_photo_is_numbered_and_looked_up(place):
    page = run(open_page("recognise").button(key="recognise_demo").click())
    upload(page, picture(1, 2, 3))
    assert len(decisions(page)) == 3
    (boxed, *_) = page.get("image")
    assert boxed.proto.imgs[0].alt == "Your photo, 3 faces boxed and numbered"
    assert page.selectbox(key="cover_face").options == ["1", "2", "3"]


def test_a_photo_without_a_face_says_what_helps(place):
    buffer = io.BytesIO()
    Image.new("RGB", (200, 200), "white").save(buffer, "PNG")
    page = upload(open_page("recognise"), buffer.getvalue())
    assert "No face found. Try a brighter, front-facing photo that is upright." in written(page)
    assert decisions(page) == []


def test_a_gallery_of_another_model_says_so(place):
    with Gallery(place) as kept:
        kept.enrol("Ann", [template(0)], consent=True, retain_until=until(3))
    page = open_page("recognise")
    assert "Nobody is enrolled with dlib, but with one that is not here (ffff)." in written(page)
    assert decisions(page) == ["<b>Face 1: unknown person</b>"]


def test_names_are_shown_as_they_are(place):
    page = run(open_page("recognise").button(key="recognise_demo").click())
    person = "Demo " + HOSTILE
    with Gallery(place) as kept:
        known = [each.name for each in kept.people()]
        kept.rename(known[0], person)
    first = page.selectbox(key="face").options[0]
    run(page.selectbox(key="face").set_value(first))
    assert page.dataframe[0].value["person"].iloc[0] == person
    assert "&lt;script&gt;" in decisions(page)[0]
    assert HOSTILE not in "".join(decisions(page))


def test_two_photos_are_verified(place):
    page = open_page("recognise", task=recognise.SAME)
    options = page.selectbox(key="first").options
    assert page.selectbox(key="second").value == options[1]
    run(page.selectbox(key="second").set_value(options[0]))
    assert "A match: score 1.000" in written(page)
    run(page.selectbox(key="second").set_value(options[-1]))
    assert "score" in written(page)
    assert len(page.get("image")) == 2


def test_the_threshold_follows_the_false_match_rate(place):
    page = open_page("recognise", model="region/1")
    assert page.selectbox(key="fmr").options == ["1 in 10 comparisons"]
    assert "measured on 12 people that it was not trained on" in written(page)


def test_the_cover_shows_what_an_occluder_and_a_mitigation_change(place):
    page = run(open_page("recognise", model="region/1").button(key="recognise_demo").click())
    assert page.dataframe[1].value["face"].tolist() == ["uncovered", "covered"]
    run(page.toggle(key="cover_drop").set_value(True))
    run(page.toggle(key="cover_fill").set_value(True))
    assert "Reconstruction invents what it cannot see" in written(page)
    second = page.dataframe[2].value
    assert second["face"].tolist() == ["uncovered", "covered", "patch drop", "reconstruction"]
    run(page.segmented_control(key="cover_kind").set_value("nothing"))
    clean = page.dataframe[1].value
    assert clean["score"].iloc[0] == pytest.approx(clean["score"].iloc[1], abs=1e-5)


def test_the_effect_of_the_aids_is_measured_on_unseen_people(place):
    page = open_page("recognise", model="region/1")
    run(page.button(key="cover_measure").click())
    assert "36 faces of 12 people" in "".join(each.proto.body for each in page.get("html"))
    assert "The occluder " in written(page)
    assert "Patch drop " in written(page)
    run(page.slider(key="cover_area").set_value(40))
    assert "The occluder " not in written(page)


def test_a_colour_photo_is_turned_grey_for_a_model_that_learnt_from_grey_ones(place, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    monkeypatch.setattr(photo_input, "sample", lambda *_: photo_input.Chosen(picture, "yours"))
    assert "Turned grey" not in written(open_page("recognise", model="region/1", other="dlib"))
    monkeypatch.setattr(models, "all_grey", lambda *_: True)
    frame._load.clear()
    page = open_page("recognise", model="region/1", other="dlib")
    said = "Turned grey for region/1, trained on grey photos."
    # Of the face, and of the covered one by the first model alone.
    assert [each.value for each in page.caption].count(said) == 2
    assert "It is given every photo in grey." in written(page)
    frame._load.clear()


def test_nothing_of_a_visitor_reaches_another(place):
    one, other = open_page("recognise", model="region/1"), open_page("recognise", model="region/1")
    upload(one, picture(1, 2))
    run(other)
    assert len(decisions(one)) == 2
    assert len(decisions(other)) == 1
    assert "recognise_found" not in other.session_state


def test_too_many_visitors_are_told_so(place, monkeypatch):
    monkeypatch.setattr(frame, "WAIT", 0.01)
    assert frame._turn.acquire(timeout=1)
    try:
        page = AppTest.from_string(
            "from facemae.app.views import recognise\nrecognise.render()", default_timeout=60
        )
        run(page)
        assert "Busy: your turn did not come within 0.01 seconds. Try again." in written(page)
    finally:
        frame._turn.release()
    assert decisions(run(page)) != []


def test_where_a_camera_cannot_work_the_page_says_so(place, monkeypatch):
    class Context:
        url = "http://faces.example.org/recognise"

    monkeypatch.setattr(photo_input.st, "context", Context)
    page = open_page("recognise", model="region/1")
    run(page.segmented_control(key="recognise_from").set_value(photo_input.WEBCAM))
    assert "Browsers give the camera to pages over https or on this machine only" in written(page)
    Context.url = "http://localhost:8501/recognise"
    assert "Browsers give" not in written(run(page))
