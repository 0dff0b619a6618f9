"""The gallery page: enrol, be asked, rename, export, merge and delete."""

import json

import pytest
from driving import open_page, run, written
from results_folder import HOSTILE
from streamlit.testing.v1 import AppTest

from facemae.data.sources.orl import orl_photos
from facemae.gallery.store import Gallery
from facemae.recognition.enrolment import until

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
    assert page.dataframe[0].value["photos"].tolist() == [2]
    assert page.text_input[0].value == ""
    assert not any(each.value for each in page.checkbox)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_shown_as_it_is(place, faces, name):
    page = enrol(open_page("gallery"), name, faces(1))
    assert names(place) == [name]
    assert page.dataframe[0].value["name"].tolist() == [name]
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
    assert page.dataframe[0].value["photos"].tolist() == [2]


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
    assert "nothing of them is left in the gallery" in written(page)
    assert names(place) == []
    assert b"Ann" not in b"".join(path.read_bytes() for path in place.parent.iterdir())


def test_look_alikes_are_suggested_and_made_one_on_request(place, faces):
    page = enrol(open_page("gallery"), "Ann", faces(1))
    enrol(page, "Bob", faces(1))
    run(page.button(key="pending_new").click())
    assert "Perhaps one person (1)" in [each.label for each in page.expander]
    run(page.button(key="merge_0").click())
    assert names(place) == ["Ann"]
    assert page.dataframe[0].value["photos"].tolist() == [2]


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
    assert page.dataframe[0].value["name"].tolist() == ["Ann", "Hannah"]


def test_a_damaged_gallery_is_explained(place):
    place.parent.mkdir()
    place.write_bytes(b"this is no database" * 100)
    page = open_page("gallery")
    assert "This cannot be done:" in written(page)
    assert "sqlite3" not in written(page)


def test_what_is_exported_is_all_that_is_stored(place, faces):
    enrol(open_page("gallery"), "Ann", faces(1))
    with Gallery(place) as kept:
        (person,) = json.loads(json.dumps(kept.export()))["people"]
    assert person["name"] == "Ann"
    assert "thumbnail" not in person["templates"][0] or person["templates"][0]["thumbnail"] is None


def test_without_results_the_command_is_named(place, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEMAE_RESULTS", str(tmp_path / "nothing"))
    page = open_page("gallery")
    assert "There are no complete results here yet" in written(page)
