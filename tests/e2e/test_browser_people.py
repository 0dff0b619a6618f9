"""People in a real browser: photos given, refused and found; enrolled, recognised, covered and deleted."""

import shutil
from collections.abc import Callable
from pathlib import Path

import browsing
import pytest
from playwright.sync_api import Page, expect
from results_folder import HOSTILE

from facemae.recognition.gallery.store import Gallery

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browsing.CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]
HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 200
Photographs = Callable[..., Path]


def enrol(page: Page, address: str, name: str, *photos: Path) -> None:
    browsing.show(page, address, "gallery")
    fill(page, name, *photos)


def fill(page: Page, name: str, *photos: Path) -> None:
    browsing.upload(page, *photos)
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Name", exact=True).press("Tab")
    browsing.tick(page, "The people shown have agreed to this")
    browsing.settle(page)
    browsing.press(page, "Enrol")


def recognise(page: Page, address: str, photo: Path, query: str = "") -> None:
    browsing.show(page, address, "recognise", query)
    browsing.choose(page, "Photo", "Your photo")
    browsing.upload(page, photo)


def people(file: Path) -> list[str]:
    with Gallery(file) as kept:
        return [person.name for person in kept.people()]


def test_every_face_of_an_uploaded_photo_is_boxed_and_looked_up(
    page: Page, address: str, nobody: Path, photo: Photographs
) -> None:
    recognise(page, address, photo(1, 2, 3))
    expect(page.get_by_alt_text("Your photo, 3 faces boxed and numbered")).to_be_visible(
        timeout=browsing.LONG
    )
    for number in (1, 2, 3):
        browsing.said(page, f"Face {number}: unknown person")
        expect(page.get_by_alt_text(f"Face {number}, aligned")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "kind", "data", "sentence"),
    [
        ("words.jpg", "image/jpeg", b"hello, this is no picture", "This file is not a picture we can read."),
        ("IMG_1.HEIC", "image/heic", HEIC, "HEIC pictures are not supported. Export"),
        ("IMG_2.HEIC", "unknown", HEIC, "HEIC pictures are not supported. Export"),
        ("empty.png", "image/png", b"", "The file is empty (0 bytes)."),
    ],
)
def test_what_is_no_photo_is_refused_with_a_sentence_and_the_page_goes_on(
    page: Page, address: str, nobody: Path, photo: Photographs,
    tmp_path: Path, name: str, kind: str, data: bytes, sentence: str,
) -> None:  # fmt: skip
    """A telephone's browser knows the kind of its pictures; a computer's does not."""
    browsing.show(page, address, "recognise")
    browsing.choose(page, "Photo", "Your photo")
    if kind == "unknown":
        (tmp_path / name).write_bytes(data)
        browsing.upload(page, tmp_path / name)
    else:
        page.locator("input[type=file]").set_input_files([{"name": name, "mimeType": kind, "buffer": data}])
    browsing.said(page, sentence)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    browsing.upload(page, photo(4))
    browsing.said(page, "Face 1: unknown person")


def test_somebody_is_enrolled_recognised_covered_and_deleted(
    page: Page, address: str, nobody: Path, photo: Photographs
) -> None:
    run = "?model=random%2F0"  # patch drop and reconstruction are a run's
    browsing.show(page, address, "gallery", run)
    fill(page, "Ann", photo(5))
    browsing.said(page, "Ann is enrolled with 1 photo")
    assert people(nobody) == ["Ann"]
    recognise(page, address, photo(5), run)
    browsing.said(page, "Face 1: Ann")
    browsing.settle(page)
    _cover(page)
    browsing.show(page, address, "gallery")
    browsing.pick(page, "Rename, export or delete", "Ann")
    browsing.press(page, "Delete")
    browsing.said(page, "The person is deleted. Nothing of them is left in the gallery.")
    assert people(nobody) == []
    recognise(page, address, photo(5), run)
    browsing.said(page, "Face 1: unknown person")
    left = b"".join(each.read_bytes() for each in nobody.parent.iterdir() if each.is_file())
    assert b"Ann" not in left


def _cover(page: Page) -> None:
    """Put something in front of the recognised face, and see that picture and score follow."""
    covered = page.get_by_alt_text("The face, covered").first
    seen = covered.get_attribute("src")
    assert "uncovered" in browsing.cells(page, 1)
    browsing.choose(page, "In front of the face", "mask")
    assert covered.get_attribute("src") != seen
    browsing.tick(page, "Patch drop")
    browsing.settle(page)
    assert "patch drop" in browsing.cells(page, 1)
    browsing.tick(page, "Reconstruction")
    browsing.said(page, "Reconstruction invents what it cannot see")
    browsing.settle(page)
    expect(page.get_by_alt_text("The face, filled in").first).to_be_visible()
    browsing.choose(page, "In front of the face", "draw it")
    board = page.get_by_role("application")
    expect(board).to_be_visible(timeout=browsing.LONG)
    box = board.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 3 / 4, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    browsing.settle(page)
    expect(page.get_by_alt_text("The face, covered").first).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_a_hostile_name_is_shown_as_it_is(page: Page, address: str, nobody: Path, photo: Photographs) -> None:
    enrol(page, address, HOSTILE, photo(6))
    browsing.said(page, f"{HOSTILE} is enrolled with 1 photo")
    assert people(nobody) == [HOSTILE]
    browsing.said(page, HOSTILE)
    browsing.pick(page, "Rename, export or delete", HOSTILE)
    expect(page.locator("b").filter(has_text=HOSTILE).last).to_be_visible(timeout=browsing.LONG)
    recognise(page, address, photo(6))
    browsing.said(page, f"Face 1: {HOSTILE}")
    assert page.locator("script").filter(has_text="alert(1)").count() == 0


def test_a_person_is_enrolled_with_two_models(
    page: Page, address: str, nobody: Path, photo: Photographs
) -> None:
    browsing.show(page, address, "gallery")
    page.get_by_role("combobox", name="Models that enrol").click()
    page.get_by_role("option", name="random/0", exact=True).click()
    page.keyboard.press("Escape")
    browsing.settle(page)
    fill(page, "Ann", photo(5))
    browsing.said(page, "Ann is enrolled with 1 photo by 2 models")
    with Gallery(nobody) as kept:
        assert list(kept.models().values()) == [1, 1]


def test_of_several_faces_one_is_chosen(page: Page, address: str, nobody: Path, photo: Photographs) -> None:
    enrol(page, address, "Ann", photo(1, 2))
    browsing.said(page, "2 faces found; enrolment needs exactly one.")
    assert people(nobody) == []
    browsing.choose(page, "Which face is it?", "2")
    browsing.press(page, "Enrol this face")
    browsing.said(page, "Ann is enrolled with 1 photo")
    assert people(nobody) == ["Ann"]


def test_unsorted_photos_are_grouped_and_named(
    page: Page, address: str, nobody: Path, photo: Photographs, tmp_path: Path
) -> None:
    folder = tmp_path / "unsorted"
    folder.mkdir()
    for person in (1, 2):
        for copy in range(5):
            shutil.copy(photo(person), folder / f"{person}-{copy}.jpg")
    browsing.show(page, address, "gallery")
    browsing.choose(page, "From", "Unsorted photos")
    browsing.upload(page, folder)
    browsing.settle(page)
    browsing.press(page, "Group the faces")
    browsing.said(page, "10 faces,")
    assert people(nobody) == []
    page.get_by_label("Name of group 1").fill("Ann")
    page.get_by_label("Name of group 1").press("Tab")
    browsing.tick(page, "The people shown have agreed to this")
    browsing.settle(page)
    browsing.press(page, "Enrol the named people")
    browsing.said(page, "1 of 1 people are enrolled")
    assert people(nobody) == ["Ann"]


def test_demo_people_come_with_one_click_and_are_told_apart(page: Page, address: str, nobody: Path) -> None:
    browsing.show(page, address, "recognise")
    browsing.said(page, "The gallery is empty, so everybody is unknown.")
    browsing.press(page, "Enrol the demo people")
    browsing.said(page, "12 people are enrolled with this model.")
    assert len(people(nobody)) == 12


def test_everybody_is_deleted_after_the_word_is_typed(
    page: Page, address: str, nobody: Path, photo: Photographs
) -> None:
    enrol(page, address, "Bob", photo(7))
    browsing.said(page, "Bob is enrolled with 1 photo")
    page.get_by_text("Export or delete everybody").click()
    erase = page.get_by_role("button", name="Delete everybody")
    expect(erase).to_be_disabled()
    word = page.get_by_label("To delete all 1 people, type ERASE")
    word.fill("ERASE")
    word.press("Enter")
    expect(erase).to_be_enabled(timeout=browsing.LONG)
    erase.click()
    browsing.said(page, "Nothing of them is left in the gallery.")
    assert people(nobody) == []


def test_a_refused_webcam_leaves_a_page_that_says_what_to_do(page: Page, address: str, nobody: Path) -> None:
    browsing.show(page, address, "recognise")
    browsing.choose(page, "Photo", "Webcam")
    browsing.said(page, "Allow the camera for this page in the browser, or upload a photo.")
    expect(page.get_by_role("button", name="Take Photo")).to_be_disabled()
    browsing.choose(page, "Photo", "Sample")
    browsing.said(page, "Face 1: unknown person")
