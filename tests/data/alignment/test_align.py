import os

import numpy as np
import pytest
from PIL import Image

from facemae.core.layout import SET_LABELLED, SET_UNLABELLED
from facemae.data import images
from facemae.data.alignment import align
from facemae.data.alignment.align import Settings, align_photos
from facemae.data.alignment.detect import Face, MtcnnDetector
from facemae.data.alignment.warp import template
from facemae.data.images import open_image
from facemae.data.sources.base import Photo
from facemae.data.sources.listing import printable
from facemae.data.sources.manifest import enter
from facemae.data.sources.orl import orl_photos

LARGEST = {"folder": "largest", "packed": "largest", "orl": "largest", "pack": "largest"}
SETTINGS = Settings(size=112, min_score=0.9, faces=LARGEST, crops={}, detector="a detector")


class FakeDetector:
    """Finds the faces it was told, by the red value of an image's first pixel."""

    def __init__(self, answers):
        self.answers = answers
        self.calls = []

    def detect(self, images):
        self.calls.append(len(images))
        return [self.answers[image.getpixel((0, 0))[0]] for image in images]


def face(score, width=50):
    return Face(np.float32([0, 0, width, width]), score, np.float32(template(112) * width / 112))


def write(folder, name, red, set_name=SET_LABELLED):
    path = folder / name
    Image.new("RGB", (60, 60), (red, 0, 0)).save(path)
    return enter(Photo(name, "ann", path), "folder", set_name)


def listed(folder):
    """Return the rows of all files of a folder, the way a source would list them."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return [enter(Photo(printable(path.name), "ann", path), "folder", SET_LABELLED) for path in paths]


def one(entry, detector, **changes):
    settings = Settings(**{**vars(SETTINGS), **changes})
    (outcome,) = align_photos([entry], detector, settings)
    return outcome


@pytest.fixture
def corpus(tmp_path):
    """Good, bad and strange files: what a folder of photos really holds."""
    good = orl_photos()[0].path.read_bytes()
    person = tmp_path / "ann"
    person.mkdir()
    (person / "1 good.pgm").write_bytes(good)
    (person / "2 empty.jpg").touch()
    (person / "3 text.jpg").write_text("hello")
    (person / "4 cut.pgm").write_bytes(good[:5000])
    (person / "5 link.jpg").symlink_to("1 good.pgm")
    os.mkfifo(person / "6 pipe.jpg")
    Image.new("RGB", (64, 64), "grey").save(person / "7 blank.png")
    Image.new("RGB", (1, 1)).save(person / "8 tiny.png")
    (person / "9 again.jpg").write_bytes(good)
    return tmp_path


def test_every_file_has_one_outcome_in_order(corpus):
    entries = listed(corpus)
    outcomes = list(align_photos(entries, MtcnnDetector(), SETTINGS))
    assert [outcome.entry for outcome in outcomes] == entries
    codes = ["OK", "E_EMPTY", "E_NOT_IMAGE", "E_DAMAGED", "OK", "E_SPECIAL", "NO_FACE"]
    codes += ["E_TOO_SMALL", "OK"]
    assert [outcome.code for outcome in outcomes] == codes
    assert [len(outcome.faces) for outcome in outcomes] == [int(code == "OK") for code in codes]
    assert all(
        (outcome.reason == "") == (outcome.code == "OK") == (outcome.hint == "") for outcome in outcomes
    )
    assert outcomes[6].reason == "No face found."


def test_a_face_is_described(tmp_path):
    entry = enter(orl_photos()[0], "orl", SET_LABELLED)
    outcome = one(entry, MtcnnDetector(), size=64)
    (face,) = outcome.faces
    assert face.landmarks.shape == (5, 2)
    assert 0.9 < face.score <= 1
    assert 40 < face.face_px < 92
    assert 0 < face.residual < 4
    assert abs(face.yaw) < 40
    assert face.image.shape == (64, 64, 3)
    assert face.image.dtype == np.uint8
    assert 30 < face.image.mean() < 220


def test_the_largest_sure_face_is_taken(tmp_path):
    entry = write(tmp_path, "crowd.png", 7)
    outcome = one(entry, FakeDetector({7: [face(0.8, 55), face(0.95, 50), face(0.99, 30)]}))
    assert (outcome.code, outcome.found, outcome.faces[0].face_px) == ("OK", 2, 50)
    assert outcome.reason == "2 faces found; the largest is used."
    assert outcome.faces[0].residual == pytest.approx(0, abs=1e-4)


def test_the_most_central_face_is_taken_where_that_is_asked_for(tmp_path):
    entry = write(tmp_path, "crowd.png", 7)
    large, small = face(0.95, 50), face(0.99, 10)
    small = Face(small.box + 25, small.score, small.landmarks + 25)  # its middle is the photo's, at (30, 30)
    outcome = one(entry, FakeDetector({7: [large, small]}), faces={"folder": "central"})
    assert outcome.faces[0].face_px == 10
    assert outcome.reason == "2 faces found; the most central is used."


def test_all_faces_are_taken_only_where_nobody_is_named(tmp_path):
    detector = FakeDetector({7: [face(0.95, 50), face(0.99, 30), face(0.5, 20)]})
    outcome = one(write(tmp_path, "a.png", 7, SET_UNLABELLED), detector, faces={"folder": "all"})
    assert [each.face_px for each in outcome.faces] == [50, 30]
    outcome = one(write(tmp_path, "a.png", 7, SET_LABELLED), detector, faces={"folder": "all"})
    assert [each.face_px for each in outcome.faces] == [50]


def test_unsure_faces_are_no_faces(tmp_path):
    entry = write(tmp_path, "blurred.png", 7)
    outcome = one(entry, FakeDetector({7: [face(0.75), face(0.83, 30)]}))
    assert (outcome.code, outcome.score, outcome.found) == ("LOW_SCORE", 0.83, 2)
    assert outcome.reason == "The best face scores 0.83; at least 0.90 is needed."
    assert outcome.faces == ()


def test_a_face_whose_landmarks_coincide_is_refused(tmp_path):
    flat = Face(np.float32([0, 0, 9, 9]), 0.99, np.zeros((5, 2), np.float32))
    assert one(write(tmp_path, "a.png", 7), FakeDetector({7: [flat]})).code == "NO_LANDMARKS"


def test_a_file_that_changed_since_it_was_listed_is_told(tmp_path):
    entry = write(tmp_path, "a.png", 7)
    Image.new("RGB", (60, 60), (8, 0, 0)).save(entry.photo.path)
    outcome = one(entry, FakeDetector({}))
    assert (outcome.code, outcome.reason) == ("CHANGED", "The file has changed since it was listed.")


def test_a_byte_range_of_a_pack_is_a_photo(tmp_path):
    data = orl_photos()[0].path.read_bytes()
    (tmp_path / "pack").write_bytes(b"before" + data + b"after")
    entry = enter(Photo("a", "ann", tmp_path / "pack", 6, len(data)), "pack", SET_LABELLED)
    whole = one(enter(orl_photos()[0], "orl", SET_LABELLED), MtcnnDetector())
    assert np.array_equal(one(entry, MtcnnDetector()).faces[0].image, whole.faces[0].image)


@pytest.mark.parametrize("size", [32, 112])
def test_a_crop_takes_the_box_and_no_detector(tmp_path, size):
    """The left half of a picture is red, the right half blue; the box is the middle of the right half."""
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :100, 0] = pixels[:, 100:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    entry = enter(Photo("a", "ann", tmp_path / "a.png"), "packed", SET_LABELLED)
    outcome = one(entry, None, crops={"packed": (0.625, 0.25, 0.875, 0.75)}, size=size)
    (face,) = outcome.faces
    assert face.image.shape == (size, size, 3)
    assert (face.image == (0, 0, 255)).all()
    assert (face.score, face.landmarks, face.yaw) == (None, None, None)


def test_a_box_that_is_no_square_does_not_stretch_the_face(tmp_path):
    """A disc stays a disc: as wide as high in the crop."""
    y, x = np.mgrid[:100, :200]
    disc = ((x - 100) ** 2 + (y - 50) ** 2 < 30**2).astype(np.uint8)[..., None] * np.uint8([255] * 3)
    Image.fromarray(disc).save(tmp_path / "a.png")
    entry = enter(Photo("a", "ann", tmp_path / "a.png"), "packed", SET_LABELLED)
    image = one(entry, None, crops={"packed": (0.0, 0.0, 1.0, 1.0)}).faces[0].image[..., 0] > 127
    assert abs(int(image.any(axis=0).sum()) - int(image.any(axis=1).sum())) <= 1


def test_found_faces_go_to_the_photos_they_were_found_on(tmp_path, corpus):
    """Unreadable and cropped photos between the others must not shift the answers."""
    good, bad = write(tmp_path, "good.png", 7), write(tmp_path, "bad.png", 8)
    bad.photo.path.write_text("no picture")
    crop = enter(good.photo, "packed", SET_LABELLED)
    other = write(tmp_path, "other.png", 9)
    detector = FakeDetector({7: [face(0.99, 40)], 9: [face(0.98, 30)]})
    settings = Settings(112, 0.9, LARGEST, {"packed": (0.0, 0.0, 1.0, 1.0)}, "")
    outcomes = list(align_photos([bad, crop, good, crop, other], detector, settings))
    widths = [each.faces[0].face_px if each.faces else None for each in outcomes]
    assert widths == [None, None, 40, None, 30]
    assert detector.calls == [2]


def test_photos_stream_a_batch_at_a_time(tmp_path, replaced):
    entries = [write(tmp_path, f"{index}.png", 7) for index in range(7)]
    seen = []
    detector = FakeDetector({7: [face(0.99)]})
    with replaced(align, "BATCH", 3):
        stream = align_photos((seen.append(entry) or entry for entry in entries), detector, SETTINGS)
        next(stream)
        assert len(seen) == 3
        assert len(list(stream)) == 6
    assert detector.calls == [3, 3, 1]


def test_large_photos_make_smaller_batches(tmp_path, replaced):
    entries = [write(tmp_path, f"{index}.png", 7) for index in range(5)]
    detector = FakeDetector({7: [face(0.99)]})
    with replaced(align, "BATCH_PIXELS", 7000):
        assert len(list(align_photos(entries, detector, SETTINGS))) == 5
    assert detector.calls == [2, 2, 1]


def test_a_photo_on_its_side_gives_the_same_face_and_says_so(tmp_path):
    upright = open_image(orl_photos()[0].path).resize((184, 224))
    upright.save(tmp_path / "0.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png")
    first, second = align_photos(listed(tmp_path), MtcnnDetector(), SETTINGS)
    off = first.faces[0].image.astype(int) - second.faces[0].image
    assert np.abs(off).mean() < 1
    assert (first.faces[0].warnings, second.faces[0].warnings) == ([], ["LYING"])


def test_places_are_in_pixels_of_the_file_however_small_it_was_decoded(tmp_path, monkeypatch):
    canvas = Image.new("RGB", (601, 800), "grey")
    canvas.paste(open_image(orl_photos()[0].path).resize((276, 336)), (250, 300))
    exif = Image.Exif()
    exif[0x0112] = 8  # stored on its side
    canvas.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "0.jpg", exif=exif, quality=95)
    (whole,) = align_photos(listed(tmp_path), MtcnnDetector(), SETTINGS)
    monkeypatch.setattr(images, "KEPT_PIXELS", 160_000)
    assert open_image(tmp_path / "0.jpg").size == (301, 400)
    (halved,) = align_photos(listed(tmp_path), MtcnnDetector(), SETTINGS)
    assert np.abs(whole.faces[0].landmarks - halved.faces[0].landmarks).max() < 6
    assert halved.faces[0].face_px == pytest.approx(whole.faces[0].face_px, rel=0.05)


def test_a_turned_photo_gives_the_same_face(tmp_path):
    upright = open_image(orl_photos()[0].path).resize((184, 224))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "0.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png", exif=exif)
    first, second = align_photos(listed(tmp_path), MtcnnDetector(), SETTINGS)
    assert np.array_equal(first.faces[0].image, second.faces[0].image)
