import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from facemae.data.alignment.warp import ARCFACE_TEMPLATE
from facemae.data.sources.base import Place
from facemae.data.sources.yaleb import SOURCE

# Median landmarks that MTCNN finds in photos of 168 x 192 pixels, in pixels.
LANDMARKS = [(35.3, 46.9), (132.0, 45.3), (79.2, 99.2), (45.2, 154.8), (120.3, 154.7)]


def listed(folder):
    ignored = Counter()
    return list(SOURCE.photos(Place(folder, {}), ignored)), ignored


def test_names_tell_the_person_and_the_light(tmp_path):
    folder = tmp_path / "yaleB01"
    folder.mkdir()
    for name in (
        "yaleB01_P00A+005E-10.pgm",
        "yaleB01_P00A-130E+20.pgm",
        "yaleB01_P00A+000E+00.pgm",
        "yaleB01_P00_Ambient.pgm",
        "yaleB01_P00A+050E-40.pgm.bad",
        "yaleB01_P00.info",
        "WS_FTP.LOG",
        "yaleB01_P00A+05E-10.pgm",
    ):
        (folder / name).touch()
    photos, ignored = listed(tmp_path)
    assert [(photo.sample_id, photo.person, *photo.attributes.values()) for photo in photos] == [
        ("yaleb/yaleB01/+000+00", "yaleB01", 0, 0),
        ("yaleb/yaleB01/+005-10", "yaleB01", 5, -10),
        ("yaleb/yaleB01/-130+20", "yaleB01", -130, 20),
    ]
    assert list(photos[0].attributes) == list(SOURCE.attributes) == ["light_azimuth", "light_elevation"]
    assert ignored == {"ambient light, no flash": 1, "marked bad by the authors": 1, "not a photo": 3}


def test_the_crop_is_a_square_that_puts_the_face_on_the_template():
    left, top, right, bottom = SOURCE.crop * np.array([168, 192, 168, 192])
    assert right - left == pytest.approx(bottom - top)
    moved = (np.array(LANDMARKS) - (left, top)) * 112 / (right - left)
    assert np.sqrt(((moved - ARCFACE_TEMPLATE) ** 2).sum(1).mean()) < 1


@pytest.mark.shared_data
def test_the_real_photos(tmp_path):
    archive = Path(os.environ.get("FACEMAE_RAW_DIR", "")) / SOURCE.folder / "CroppedYale.tar.xz"
    if not archive.is_file():
        pytest.skip(f"FACEMAE_RAW_DIR holds no {archive.name}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    photos, ignored = listed(tmp_path / SOURCE.images)
    assert len({photo.sample_id for photo in photos}) == SOURCE.published_images == 2_414
    assert len({photo.person for photo in photos}) == SOURCE.published_people == 38
    assert ignored == {"ambient light, no flash": 38, "marked bad by the authors": 18, "not a photo": 76}
    assert len({tuple(photo.attributes.values()) for photo in photos}) == 64
