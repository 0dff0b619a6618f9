import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

from facemae.data.align import align_photos
from facemae.data.detect import Face, MtcnnDetector
from facemae.data.images import open_image
from facemae.data.sources import Photo, folder_photos, orl_photos
from facemae.data.warp import template
from facemae.files import sha256


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


def write(folder, name, red):
    path = folder / name
    Image.new("RGB", (60, 60), (red, 0, 0)).save(path)
    return Photo(name, "ann", path)


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
    photos = folder_photos(corpus, labelled=True)
    outcomes, images = zip(*align_photos(photos, MtcnnDetector(), batch=4), strict=True)
    assert [outcome.sample_id for outcome in outcomes] == [photo.sample_id for photo in photos]
    codes = ["OK", "E_EMPTY", "E_NOT_IMAGE", "E_DAMAGED", "E_SPECIAL", "E_SPECIAL", "NO_FACE"]
    codes += ["E_TOO_SMALL", "OK"]
    assert [outcome.code for outcome in outcomes] == codes
    assert [image is not None for image in images] == [code == "OK" for code in codes]
    for outcome in outcomes:
        assert outcome.person == "ann"
        assert (outcome.reason == "") == (outcome.code == "OK") == (outcome.hint == "")
        json.dumps(dataclasses.asdict(outcome), allow_nan=False)
    assert outcomes[6].reason == "No face found."
    assert outcomes[6].hint == "Try a brighter, front-facing photo."


def test_an_outcome_describes_the_file_and_the_face():
    photo = orl_photos()[0]
    ((outcome, image),) = align_photos([photo], MtcnnDetector(), size=64)
    data = photo.path.read_bytes()
    assert (outcome.sha256, outcome.bytes) == (sha256(data), len(data))
    assert (outcome.faces, np.shape(outcome.landmarks)) == (1, (5, 2))
    assert 0.9 < outcome.score <= 1
    assert 40 < outcome.face_px < 92
    assert 0 < outcome.residual < 4
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert 30 < np.asarray(image).mean() < 220


def test_the_largest_sure_face_is_taken(tmp_path):
    photo = write(tmp_path, "crowd.png", 7)
    detector = FakeDetector({7: [face(0.8, 55), face(0.95, 50), face(0.99, 30)]})
    ((outcome, image),) = align_photos([photo], detector)
    assert (outcome.code, outcome.faces, outcome.face_px) == ("OK", 2, 50)
    assert outcome.reason == "2 faces found; the largest is used."
    assert outcome.residual == pytest.approx(0, abs=1e-4)
    assert image is not None


def test_unsure_faces_are_no_faces(tmp_path):
    photo = write(tmp_path, "blurred.png", 7)
    ((outcome, image),) = align_photos([photo], FakeDetector({7: [face(0.75), face(0.83, 30)]}))
    assert (outcome.code, outcome.score, outcome.faces) == ("LOW_SCORE", 0.83, 2)
    assert outcome.reason == "The best face scores 0.83; at least 0.90 is needed."
    assert image is None


def test_photos_stream_a_batch_at_a_time(tmp_path):
    photos = [write(tmp_path, f"{index}.png", 7) for index in range(7)]
    seen = []
    detector = FakeDetector({7: [face(0.99)]})
    stream = align_photos((seen.append(photo) or photo for photo in photos), detector, batch=3)
    next(stream)
    assert len(seen) == 3
    assert len(list(stream)) == 6
    assert detector.calls == [3, 3, 1]


def test_large_photos_make_smaller_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("facemae.data.align.MAX_PIXELS", 7000)
    photos = [write(tmp_path, f"{index}.png", 7) for index in range(5)]
    detector = FakeDetector({7: [face(0.99)]})
    assert len(list(align_photos(photos, detector))) == 5
    assert detector.calls == [2, 2, 1]


def test_a_turned_photo_gives_the_same_face(tmp_path):
    upright = open_image(orl_photos()[0].path).resize((184, 224))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "0.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png", exif=exif)
    (_, first), (_, second) = align_photos(folder_photos(tmp_path, labelled=False), MtcnnDetector())
    assert np.array_equal(first, second)
