import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from facemae.data.alignment.warp import ARCFACE_TEMPLATE
from facemae.data.sources.base import Place
from facemae.data.sources.ck48 import SOURCE

# Median landmarks that MTCNN finds in the crops of 48 x 48 pixels, in pixels.
LANDMARKS = [(15.3, 19.5), (33.0, 19.1), (24.2, 28.7), (17.1, 38.3), (32.0, 37.8)]


def listed(folder):
    ignored = Counter()
    return list(SOURCE.photos(Place(folder, {}), ignored)), ignored


def test_the_folder_is_the_expression_and_the_name_begins_with_the_person(tmp_path):
    for name in (
        "happy/S010_006_00000013.png",
        "anger/S999_001_00000018.png",
        "bored/S010_006_00000014.png",
        "happy/readme.txt",
        "happy/S10_006_00000013.png",
        "S010_006_00000013.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    photos, ignored = listed(tmp_path)
    assert [(photo.sample_id, photo.person, photo.attributes) for photo in photos] == [
        ("ck48/S999/001/00000018", "S999", {"expression": "anger"}),
        ("ck48/S010/006/00000014", "S010", {}),
        ("ck48/S010/006/00000013", "S010", {"expression": "happy"}),
    ]
    assert ignored == {"not a photo": 3}


def test_the_crop_is_a_square_that_puts_the_face_on_the_template():
    left, top, right, bottom = np.multiply(SOURCE.crop, 48)
    assert right - left == pytest.approx(bottom - top)
    moved = (np.array(LANDMARKS) - (left, top)) * 112 / (right - left)
    assert np.sqrt(((moved - ARCFACE_TEMPLATE) ** 2).sum(1).mean()) < 1.5


@pytest.mark.shared_data
def test_the_real_photos(tmp_path):
    archive = Path(os.environ.get("FACEMAE_RAW_DIR", "")) / SOURCE.folder / "CK+48.tar"
    if not archive.is_file():
        pytest.skip(f"FACEMAE_RAW_DIR holds no {archive.name}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    photos, ignored = listed(tmp_path / SOURCE.images)
    assert len({photo.sample_id for photo in photos}) == SOURCE.published_images == 981
    assert len({photo.person for photo in photos}) == SOURCE.published_people == 118
    assert not ignored
    assert Counter(photo.attributes["expression"] for photo in photos) == {
        "anger": 135,
        "contempt": 54,
        "disgust": 177,
        "fear": 75,
        "happy": 207,
        "sadness": 84,
        "surprise": 249,
    }
