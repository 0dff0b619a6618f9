"""The gallery page: enrol, be asked, rename, export, merge and delete."""

import contextlib
import html
import io
import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from driving import open_page, run, written
from PIL import Image
from results_folder import HOSTILE
from streamlit.testing.v1 import AppTest

from facemae.app import frame, session
from facemae.app.parts import enrol_people
from facemae.core.layout import Results
from facemae.data.sources.orl import orl_photos
from facemae.recognition.enrolment import Shot, until
from facemae.recognition.gallery import retention
from facemae.recognition.gallery.schema import Template
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.named_models import find_model
from facemae.recognition.recogniser import Recogniser, face_to_enrol
from facemae.recognition.settings import settings
from facemae.recognition.threshold import Threshold
from facemae.recognition.trained_models import models

NAMES = [
    HOSTILE, "[a](javascript:alert(1))", "$\\KaTeX$ :material/home: **bold**", "عمر ❤️ 👩‍👩‍👧", "x" * 100,
]  # fmt: skip


@pytest.fixture
def place(shown, tmp_path, monkeypatch):
    """Let the app keep its gallery in a folder of its own, and return the file."""
    file = tmp_path / "kept" / "faces.sqlite"
    monkeypatch.setenv("FACEMAE_GALLERY", str(file))
    return file


@pytest.fixture(scope="session")
def faces():
    """Return the bytes of a photo of ORL by its name."""
    found = {each.sample_id: each.path.read_bytes() for each in orl_photos()}
    return lambda person, shot=1: (f"{shot}.pgm", found[f"orl/s{person:02}/{shot:02}"], "image/pgm")


def enrol(page: AppTest, name: str, *photos, consent: bool = True, add: bool = False) -> AppTest:
    next(each for each in page.text_input if each.label == "Name").set_value(name)
    page.file_uploader[0].set_value(list(photos))
    for label, wanted in (("The people shown", consent), ("Add to a person", add)):
        next(each for each in page.checkbox if each.label.startswith(label)).set_value(wanted)
    run(page)
    return run(page.button(key="gallery_enrol").click()) if consent else page


def names(file):
    with Gallery(file) as kept:
        return [person.name for person in kept.people()]


def test_an_empty_gallery_offers_demo_people(place):
    page = open_page("gallery")
    assert "Nobody is enrolled yet" in written(page)
    run(page.button(key="gallery_demo").click())
    assert "12 demo people are enrolled." in written(page)
    assert len(names(place)) == 12
    run(page.button(key="gallery_demo").click())
    assert "The demo people are enrolled already." in written(page)


def test_nobody_is_enrolled_without_consent_name_or_photo(place, faces):
    page = open_page("gallery")
    assert page.button(key="gallery_enrol").disabled
    assert "That is biometric data" in written(page)
    enrol(page, "Ann", faces(1), consent=False)
    assert page.button(key="gallery_enrol").disabled
    assert "Needed: a photo, a name, and consent." in written(page)
    enrol(page, "Ann", faces(1))
    assert names(place) == ["Ann"]


def test_a_person_is_enrolled_with_several_photos(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1), faces(1, 2))
    assert "Ann is enrolled with 2 photos, until" in written(page)
    assert "2 photos<br>" in written(page)
    assert page.text_input[0].value == ""
    assert not any(each.value for each in page.checkbox)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_shown_as_it_is(place, faces, name):
    page = enrol(open_page("gallery"), name, faces(1))
    assert names(place) == [name]
    assert f"<bdi>{html.escape(name)}</bdi>" in written(page)
    run(page.selectbox(key="gallery_person_1").select_index(0))
    marked = [each.value for kind in ("markdown", "caption", "info", "warning") for each in page.get(kind)]
    assert not any(name in text for text in marked)
    assert not any(HOSTILE in element.proto.body for element in page.get("html"))


@pytest.mark.parametrize(
    ("name", "said"), [("a\x07b", "control"), ("\u202eevil", "direction"), ("\u200b", "name")]
)
def test_an_unfit_name_is_refused_with_a_sentence(place, faces, name, said):
    page = enrol(open_page("gallery"), name, faces(1))
    assert "This cannot be done:" in written(page)
    assert said in written(page)
    assert names(place) == []


def test_a_name_that_is_taken_says_how_to_add(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    enrol(page, "Ann", faces(1, 2))
    assert "enrolled already" in written(page)
    enrol(page, "Ann", faces(1, 2), add=True)
    assert "Ann is enrolled with 1 photo, until" in written(page)
    assert "2 photos<br>" in written(page)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("pending_add", ["Ann"]), ("pending_new", ["Ann", "Bob"]), ("pending_none", ["Ann"])],
)
def test_a_known_face_under_another_name_is_asked_about(place, faces, answer, expected):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    enrol(page, "Bob", faces(1))
    assert "New: Bob\nEnrolled: Ann (score 1.000)" in written(page)
    assert names(place) == ["Ann"]
    run(page.button(key=answer).click())
    assert names(place) == expected
    assert "This face is taken for" not in written(page)


def test_photos_are_added_to_nobody_who_is_gone_or_misspelt(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    enrol(page, "Anne", faces(2), add=True)
    assert 'Nobody is enrolled as "Anne"; did you mean "Ann"?' in written(page)
    enrol(page, "Bob", faces(1))
    with Gallery(place) as kept:
        kept.remove("Ann")
    run(page.button(key="pending_add").click())
    assert 'Nobody is enrolled as "Ann"' in written(page)
    assert names(place) == []


def test_who_is_deleted_is_who_was_shown(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    run(page.selectbox(key="gallery_person_1").select_index(0))
    with Gallery(place) as kept:  # by another visitor
        kept.rename("Ann", "Ann B.")
        kept.enrol("Ann", [Template(np.ones(2), "model")], consent=True, retain_until=until(3))
    page.button(key="person_delete").click()
    run(page)
    assert "Ann" in names(place)


def test_photos_that_cannot_be_used_are_named(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1), ("notes.jpg", b"hello", "image/jpeg"))
    assert "notes.jpg: This file is not a picture we can read. Use JPEG, PNG or WebP." in written(page)
    assert names(place) == ["Ann"]


def test_a_person_is_renamed_exported_and_deleted(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    run(page.selectbox(key="gallery_person_1").select_index(0))
    run(page.text_input[-2].set_value("Anna"))
    run(page.button(key="person_rename").click())
    assert names(place) == ["Anna"]
    run(page.selectbox(key="gallery_person_2").select_index(0))
    run(page.button(key="person_delete").click())
    assert "Nothing of them is left in the gallery." in written(page)
    assert names(place) == []
    assert b"Ann" not in b"".join(path.read_bytes() for path in place.parent.iterdir())


def test_look_alikes_are_suggested_and_made_one_on_request(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    enrol(page, "Bob", faces(1))
    run(page.button(key="pending_new").click())
    assert "Perhaps one person (1)" not in [each.label for each in page.expander]
    run(page.button(key="gallery_alike").click())
    assert "Perhaps one person (1)" in [each.label for each in page.expander]
    with Gallery(place) as kept:
        one, other = kept.people()
    run(page.button(key=f"merge_{one.id}_{other.id}").click())
    assert names(place) == ["Ann"]
    assert "2 photos<br>" in written(page)


def test_everybody_is_deleted_after_the_word_is_typed(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    assert page.button(key="erase").disabled
    run(page.text_input(key="gallery_word").set_value("ERASE"))
    run(page.button(key="erase").click())
    assert "1 people are deleted" in written(page)
    assert names(place) == []


def test_a_find_narrows_the_table(place):
    with Gallery(place) as kept:
        from test_recognise import template

        for number, name in enumerate(("Ann", "Hannah", "Bob")):
            kept.enrol(name, [template(number)], consent=True, retain_until=until(3))
    page = open_page("gallery")
    run(page.text_input(key="gallery_find").set_value("ANN"))
    assert re.findall("<bdi>(.*?)</bdi>", written(page)) == ["Ann", "Hannah"]
    # They are of another model, which nobody can be compared with; but they can be deleted.
    run(page.button(key="gallery_alike").click())
    assert "another model" in written(page)
    assert "Export or delete everybody" in [each.label for each in page.expander]


def test_an_answer_that_is_refused_asks_again_and_loses_nothing(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    enrol(page, "Bob", faces(1))
    page.text_input(key="pending_name").set_value("Ann")
    run(page.button(key="pending_new").click())
    assert "enrolled already" in written(page)
    assert "New: Bob" in written(page)
    page.text_input(key="pending_name").set_value("Rob")
    run(page.button(key="pending_new").click())
    assert names(place) == ["Ann", "Rob"]


def test_a_folder_is_imported_person_by_person(place, faces):
    data = {person: faces(person)[1] for person in (1, 2)}
    page = open_page("gallery")
    run(page.segmented_control(key="gallery_from").set_value(enrol_people.FOLDER))
    paths = {
        "all/Ann/1.pgm": data[1],
        "all/Bob/x.pgm": data[2],
        "all/loose.pgm": data[2],
        "all/Cid/y.jpg": b"no",
    }
    page.file_uploader[0].set_value([(path, each, "image/pgm") for path, each in paths.items()])
    next(each for each in page.checkbox if each.label.startswith("The people")).set_value(True)
    run(page)
    run(page.button(key="gallery_enrol").click())
    assert names(place) == ["Ann", "Bob"]
    text = written(page)
    assert "1 files do not lie directly in a person's folder and are left out." in text
    assert "2 of 3 people are enrolled" in text
    assert "y.jpg: This file is not a picture we can read." in text


def test_a_folder_that_is_imported_while_others_are_served_stays(place, faces, monkeypatch):
    page = open_page("gallery")
    run(page.segmented_control(key="gallery_from").set_value(enrol_people.FOLDER))
    page.file_uploader[0].set_value([("all/Ann/1.pgm", faces(1)[1], "image/pgm")])
    next(each for each in page.checkbox if each.label.startswith("The people")).set_value(True)
    run(page)
    monkeypatch.setattr(frame, "WAIT", 0.01)
    assert frame._turn.acquire(timeout=1)
    try:
        run(page.button(key="gallery_enrol").click())
        assert "Busy: your turn did not come within 0.01 seconds. Try again." in written(page)
    finally:
        frame._turn.release()
    assert names(place) == []
    run(page.button(key="gallery_enrol").click())
    assert names(place) == ["Ann"]


def test_only_photos_directly_in_a_persons_folder_are_somebodys():
    paths = ["all/Ann/1.jpg", "all/Ann/2019/2.jpg", "all/3.jpg", "4.jpg", "all/Bob/5.jpg"]
    found = enrol_people.people_of([Shot(path, b"") for path in paths])
    assert {name: [shot.name for shot in shots] for name, shots in found.items()} == {
        "Ann": ["all/Ann/1.jpg"], "Bob": ["all/Bob/5.jpg"],
    }  # fmt: skip


def test_a_webcam_shot_is_enrolled_once(place):
    from test_photo import shots

    buffer = io.BytesIO()
    Image.open(io.BytesIO(shots(3))).save(buffer, "JPEG")
    page = open_page("gallery")
    run(page.segmented_control(key="gallery_from").set_value(enrol_people.WEBCAM))
    page.camera_input[0].set_value(("cam.jpg", buffer.getvalue(), "image/jpeg"))
    page.text_input[0].set_value("Cid")
    next(each for each in page.checkbox if each.label.startswith("The people")).set_value(True)
    run(page)
    run(page.button(key="gallery_enrol").click())
    assert names(place) == ["Cid"]
    assert page.camera_input[0].value is None


def test_a_damaged_gallery_is_explained(place):
    place.parent.mkdir()
    place.write_bytes(b"this is no database" * 100)
    page = open_page("gallery")
    assert "This cannot be done:" in written(page)
    assert "sqlite3" not in written(page)


def stored(file, table):
    """Return the rows of a gallery's table as they are in the file, by column."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]


def test_what_is_exported_is_all_that_is_stored(shown, place, faces):
    before = datetime.now(UTC).replace(tzinfo=None)
    enrol(open_page("gallery"), "Ann", faces(1))
    after = datetime.now(UTC).replace(tzinfo=None)
    with Gallery(place) as kept:
        (person,) = json.loads(json.dumps(kept.export()))["people"]
    (row,), (kept_template,) = stored(place, "gallery_people"), stored(place, "gallery_templates")
    (template,) = person.pop("templates")
    assert set(person) == set(row)
    assert set(template) == set(kept_template) - {"id", "person"}

    recogniser = Recogniser(find_model(), "cpu")  # the page's default, too
    face = face_to_enrol(recogniser.finder.find(faces(1)[1]))
    vector = recogniser.embed([face.image])[0]
    np.testing.assert_allclose(template["vector"], vector, atol=1e-6)
    assert np.array_equal(np.float32(template["vector"]), np.frombuffer(kept_template["vector"], ">f4"))
    assert template["model"] == kept_template["model"] == recogniser.fingerprint
    assert template["digest"] == kept_template["digest"]
    assert template["quality"] == kept_template["quality"] == pytest.approx(face.face.score)
    assert template["thumbnail"] is kept_template["thumbnail"] is None

    assert (person["id"], person["name"]) == (row["id"], "Ann") == (kept_template["person"], row["name"])
    assert person["retain_until"] == row["retain_until"] == until(settings().retention_days).isoformat()
    for given, held in ((person, row), (template, kept_template)):
        for date in {"created", "consent"} & set(given):
            said = datetime.fromisoformat(given[date])
            assert said.utcoffset() == timedelta(0)
            assert said.replace(tzinfo=None) == datetime.fromisoformat(held[date])
            assert before - timedelta(seconds=1) <= said.replace(tzinfo=None) <= after


@pytest.mark.parametrize("damaged", [False, True])
def test_without_usable_results_people_are_enrolled_and_recognised(place, tmp_path, monkeypatch, damaged):
    folder = tmp_path / "nothing"
    monkeypatch.setenv("FACEMAE_RESULTS", str(folder))
    if damaged:
        folder.mkdir()
        (folder / "config.json").write_text("{")
    page = open_page("gallery")
    assert page.multiselect(key="model").value == ["dlib"]
    assert ("These results are damaged, and the page does without them." in written(page)) == damaged
    run(page.button(key="gallery_demo").click())
    assert "6 demo people are enrolled." in written(page)
    assert names(place)[0] == "Demo s01"
    page = open_page("recognise")
    assert page.selectbox(key="face").value == "orl/s01/02"
    assert "Face 1: Demo s01" in written(page)
    assert not [each for each in page.button if each.key == "cover_measure"]  # it needs the results' people
    assert "complete results" not in written(page)


def test_people_of_the_users_own_data_are_no_demo_people(everything, tmp_path, monkeypatch):
    for name in ("gallery", "recognise"):
        page = open_page(name)
        assert not [each for each in page.button if each.key and each.key.endswith("_demo")]
        assert "demo" not in written(page)


def test_a_person_is_enrolled_with_every_model_that_is_chosen(place, faces, shown):
    chosen = models(Results(shown))[:2]
    page = open_page("gallery")
    run(page.multiselect(key="model").set_value([each.name for each in chosen]))
    enrol(page, "Ann", faces(1), faces(1, 2))
    assert "Ann is enrolled with 2 photos by 2 models, until" in written(page)
    with Gallery(place) as kept:
        assert kept.models() == {each.fingerprint: 2 for each in chosen}
        assert kept.person("Ann").photos == 2
    run(page.multiselect(key="model").set_value([]))
    assert "No model is chosen; choose one above." in written(page)


def test_what_was_refused_stays_until_it_is_cleared_and_a_face_can_be_chosen(place, faces):
    page = enrol(open_page("gallery"), "Ann", ("notes.jpg", b"hello", "image/jpeg"), together(faces, 1, 2))
    assert names(place) == []
    for _ in range(2):
        assert "2 photos were not used:" in written(page)
        assert "notes.jpg: This file is not a picture we can read." in written(page)
        assert "both.png: 2 faces found; enrolment needs exactly one." in written(page)
        run(page)
    choice = next(each for each in page.segmented_control if each.label == "Which face is it?")
    run(choice.set_value(2))
    run(next(each for each in page.button if each.label == "Enrol this face").click())
    assert names(place) == ["Ann"]
    assert "Ann is enrolled with 1 photo" in written(page)
    assert "1 photo was not used:" in written(page)
    run(page.button(key="refused_clear").click())
    assert "not used" not in written(page)


def test_a_face_that_is_chosen_while_others_are_served_stays_in_the_list(place, faces, monkeypatch):
    page = enrol(open_page("gallery"), "Ann", together(faces, 1, 2))
    run(next(each for each in page.segmented_control if each.label == "Which face is it?").set_value(2))
    monkeypatch.setattr(frame, "WAIT", 0.01)
    assert frame._turn.acquire(timeout=1)
    try:
        run(next(each for each in page.button if each.label == "Enrol this face").click())
        assert "Busy: your turn did not come within 0.01 seconds. Try again." in written(page)
    finally:
        frame._turn.release()
    assert "1 photo was not used:" in written(run(page))
    run(next(each for each in page.button if each.label == "Enrol this face").click())
    assert names(place) == ["Ann"]


def together(faces, *people):
    pictures = [np.asarray(Image.open(io.BytesIO(faces(person)[1]))) for person in people]
    buffer = io.BytesIO()
    wide = Image.fromarray(np.concatenate(pictures, axis=1))
    wide.resize((3 * wide.width, 3 * wide.height)).save(buffer, "PNG")
    return "both.png", buffer.getvalue(), "image/png"


@pytest.fixture
def strict(monkeypatch):
    """Put only copies of a photo into one group: the invented models tell nobody apart."""
    monkeypatch.setattr(session, "threshold", lambda model, rate=None: Threshold(0.9999))


def grouped(faces, *people):
    """Open the page with the faces of unsorted photos grouped: of each person three copies of one photo."""
    page = open_page("gallery")
    run(page.segmented_control(key="gallery_from").set_value(enrol_people.UNSORTED))
    copies = [
        (f"all/{person}-{copy}.pgm", faces(person)[1], "image/pgm") for person in people for copy in "abc"
    ]
    page.file_uploader[0].set_value([*copies, ("all/words.txt.jpg", b"hello", "image/jpeg")])
    run(page)
    return run(page.button(key="gallery_group").click())


def test_unsorted_photos_are_grouped_named_merged_and_left_out(strict, place, faces):
    page = grouped(faces, 1, 2, 3, 4)
    assert "12 faces, 4 groups." in written(page)
    assert names(place) == []  # nothing is stored before it is named
    for group, name in ((0, "Ann"), (1, "Bob"), (2, "Ann")):
        page.text_input(key=f"gallery_group_{group}_0").set_value(name)
    run(page)
    assert page.button(key="groups_enrol").disabled
    run(next(each for each in page.checkbox if each.label.startswith("The people shown")).check())
    run(page.button(key="groups_enrol").click())
    assert "2 of 2 people are enrolled" in written(page)
    assert "words.txt.jpg: This file is not a picture we can read." in written(page)
    with Gallery(place) as kept:
        assert {each.name: each.photos for each in kept.people()} == {"Ann": 6, "Bob": 3}
        assert kept.thumbnails(kept.people()) == {}


def test_few_faces_are_not_grouped_and_groups_can_be_dropped(strict, place, faces):
    assert "9 faces were found and 10 to 10,000 can be grouped" in written(grouped(faces, 1, 2, 3))
    page = grouped(faces, 1, 2, 3, 4)
    run(page.button(key="groups_drop").click())
    assert "The faces are dropped; nothing was stored." in written(page)
    assert names(place) == []


def test_a_clock_that_jumped_is_asked_about(place, monkeypatch):
    with Gallery(place) as kept:
        kept.enrol("Ann", [Template(np.ones(4, np.float32), "model")], consent=True, retain_until=until(30))
    monkeypatch.setattr(retention, "today", lambda: until(900))
    page = open_page("gallery")
    assert "so nobody is deleted" in written(page)
    run(page.button(key="gallery_clock").click())
    assert "1 people are deleted." in written(page)
    assert "so nobody is deleted" not in written(page)


def test_a_card_shows_the_picture_only_where_it_was_agreed_to(place, faces):
    page = enrol(open_page("gallery"), "Ann Lee Smith", faces(1))
    assert ">AS</div>" in written(page)
    next(each for each in page.checkbox if each.label.startswith("Keep a picture")).check()
    enrol(page, "Bob", faces(2))
    if page.button and any(each.key == "pending_new" for each in page.button):
        run(page.button(key="pending_new").click())
    assert written(page).count("data:image/png;base64,") == 1
