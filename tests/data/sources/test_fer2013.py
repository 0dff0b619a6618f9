from collections import Counter

import numpy as np
import pytest

from facemae.core.errors import IntegrityError
from facemae.data.images import open_image
from facemae.data.sources.base import Place
from facemae.data.sources.fer2013 import SOURCE, unpack_csv

FACES = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)


def line(emotion, face, usage):
    return f"{emotion},{' '.join(map(str, face.ravel()))},{usage}\n"


ROWS = [line(3, FACES[0], "Training"), line(6, FACES[1], "PublicTest"), line(0, FACES[2], "PrivateTest")]


@pytest.fixture
def table(tmp_path):
    """Return a function that writes fer2013.csv and returns its path."""

    def write(*lines):
        path = tmp_path / "fer2013.csv"
        path.write_text("".join(lines))
        return path

    return write


def listed(folder):
    ignored = Counter()
    return list(SOURCE.photos(Place(folder, {}), ignored)), ignored


def test_text_becomes_images_of_the_same_pixels(table, tmp_path):
    folder = SOURCE.convert(table("emotion,pixels,Usage\n", *ROWS), tmp_path / "unpacked")
    assert folder == tmp_path / "unpacked"
    photos, ignored = listed(folder)
    assert [(photo.sample_id, photo.person, dict(photo.attributes)) for photo in photos] == [
        ("fer2013/00001", None, {"expression": "happy", "partition": "train"}),
        ("fer2013/00002", None, {"expression": "neutral", "partition": "public test"}),
        ("fer2013/00003", None, {"expression": "angry", "partition": "private test"}),
    ]
    assert set(photos[0].attributes) == set(SOURCE.attributes)
    for photo, face in zip(photos, FACES, strict=True):
        data = photo.path.read_bytes()[photo.offset : photo.offset + photo.length]
        np.testing.assert_array_equal(np.asarray(open_image(data)), np.repeat(face[..., None], 3, axis=2))
    assert sum(photo.length for photo in photos) == photos[0].path.stat().st_size
    assert not ignored


def test_columns_may_come_in_any_order(table, tmp_path):
    emotion, pixels, usage = ROWS[1].strip().split(",")
    text = f"emotion, Usage, pixels\n{emotion},{usage},{pixels}\n"
    photos, _ = listed(unpack_csv(table(text), tmp_path / "unpacked"))
    assert photos[0].attributes == {"expression": "neutral", "partition": "public test"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0].replace("3,", "7,", 1), "line 3: emotion is '7' and Usage 'Training'"),
        (ROWS[0].replace("Training", "Test"), "line 3: emotion is '3' and Usage 'Test'"),
        ("3,1 2 3,Training\n", "line 3: 2304 pixels are needed, and there are 3"),
        (f"3,{'256 ' * 2304},Training\n", "line 3: the pixels are not all whole numbers from 0 to 255"),
        (f"3,{'x ' * 2304},Training\n", "line 3: the pixels are not all whole numbers from 0 to 255"),
        ("3,Training\n", "line 3: 3 values are needed, and it has 2"),
    ],
)
def test_a_malformed_row_is_named_and_leaves_nothing(table, tmp_path, row, message):
    with pytest.raises(IntegrityError, match=rf"fer2013\.csv, {message}"):
        unpack_csv(table("emotion,pixels,Usage\n", ROWS[0], row), tmp_path / "unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["fer2013.csv"]


def test_a_file_of_something_else_is_refused(table, tmp_path):
    with pytest.raises(IntegrityError, match="line 1: the columns emotion, pixels, Usage are needed"):
        unpack_csv(table("hello\n"), tmp_path / "unpacked")


@pytest.mark.parametrize("change", [b"", b"x"])
def test_faces_that_are_not_all_there_are_refused(table, tmp_path, change):
    folder = unpack_csv(table("emotion,pixels,Usage\n", *ROWS), tmp_path / "unpacked")
    faces = folder / "faces.pgm"
    faces.write_bytes(faces.read_bytes() + change if change else faces.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"faces\.pgm has \d+ bytes, and 3 faces need 6951; delete"):
        listed(folder)
