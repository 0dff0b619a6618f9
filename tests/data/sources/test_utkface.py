import os
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.data.sources.base import Place
from facemae.data.sources.utkface import SOURCE

TIME = "20170116174525125"


def listed(folder):
    ignored = Counter()
    return list(SOURCE.photos(Place(folder, {}), ignored)), ignored


def attributes(folder, name):
    (folder / name).touch()
    photos, _ = listed(folder)
    return next(photo.attributes for photo in photos if photo.path.name == name)


@pytest.mark.parametrize("suffix", [".webp", ".jpg", ".JPEG", ".png", ".jpg.chip.jpg"])
def test_the_same_face_has_the_same_name_in_every_form_of_the_release(tmp_path, suffix):
    (tmp_path / f"100_0_0_{TIME}{suffix}").touch()
    (photo,), ignored = listed(tmp_path)
    assert photo.sample_id == f"utkface/100_0_0_{TIME}"
    assert photo.person is None
    assert photo.attributes == {"age": 100, "gender": "male", "race": "white"}
    assert not ignored


def test_codes_become_words(tmp_path):
    for gender in "01":
        for race in "01234":
            (tmp_path / f"7_{gender}_{race}_{TIME}.jpg").touch()
    photos, _ = listed(tmp_path)
    assert Counter(photo.attributes["gender"] for photo in photos) == {"male": 5, "female": 5}
    assert [photo.attributes["race"] for photo in photos[:5]] == [
        "white",
        "black",
        "asian",
        "indian",
        "other",
    ]
    assert set(SOURCE.attributes) == set(photos[0].attributes)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        (f"39_1_{TIME}.jpg.chip.jpg", {"age": 39, "gender": "female"}),  # race is missing
        (f"53_1__0_{TIME}.jpg.chip.jpg", {"age": 53, "gender": "female", "race": "white"}),
        (f"24_0_1_{TIME} .jpg.chip.jpg", {"age": 24, "gender": "male", "race": "black"}),
        (f"55_0_0_{TIME}jpg.chip.jpg", {"age": 55, "gender": "male", "race": "white"}),
        (f"44_3_9_{TIME}.jpg", {"age": 44}),
        (f"1000_1_2_{TIME}.jpg", {"gender": "female", "race": "asian"}),
        (f"{TIME}.jpg", {}),
        ("12_0_0_holiday.jpg", {}),  # no time: not a name of theirs
        ("_.png", {}),
    ],
)
def test_a_name_that_lacks_something_tells_what_it_can(tmp_path, name, known):
    assert attributes(tmp_path, name) == known


def test_names_that_differ_by_a_slip_stay_apart(tmp_path):
    for slip in ("", " ", "jpg.chip"):
        (tmp_path / f"55_0_0_{TIME}{slip}.jpg").touch()
    photos, _ = listed(tmp_path)
    assert len({photo.sample_id for photo in photos}) == 3


def test_other_files_are_counted(tmp_path):
    for name in ("readme.txt", ".jpg", "1_0_0", ".hidden.jpg", f"1_0_0_{TIME}.jpg"):
        (tmp_path / name).touch()
    photos, ignored = listed(tmp_path)
    assert [photo.sample_id for photo in photos] == [f"utkface/1_0_0_{TIME}"]
    assert ignored == {"not a photo": 2, "hidden": 2}


_STEM = st.text("0123_ .\\\udcffjpgchi", min_size=1, max_size=25)


@given(st.sets(_STEM, max_size=15), st.sampled_from([".jpg", ".webp"]))
def test_any_name_is_a_photo_or_counted(stems, suffix):
    with tempfile.TemporaryDirectory() as temporary:
        for stem in stems:
            (Path(temporary) / f"{stem}{suffix}").touch()
        photos, ignored = listed(Path(temporary))
    assert len(photos) + ignored.total() == len(stems)
    assert len(photos) == sum(not stem.startswith(".") for stem in stems)
    for photo in photos:
        photo.sample_id.encode("utf-8")
        assert 0 <= photo.attributes.get("age", 0) <= 999
        assert photo.attributes.get("gender", "male") in ("male", "female")
    stripped = [photo for photo in photos if not photo.path.name.endswith(f".jpg.chip{suffix}")]
    assert len({photo.sample_id for photo in stripped}) == len(stripped)


@pytest.mark.shared_data
def test_the_real_photos(tmp_path):
    archive = Path(os.environ.get("FACEMAE_RAW_DIR", "")) / SOURCE.folder / "UTKFace.tar"
    if not archive.is_file():
        pytest.skip(f"FACEMAE_RAW_DIR holds no {archive.name}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    photos, ignored = listed(tmp_path / SOURCE.images)
    assert len({photo.sample_id for photo in photos}) == 23_706
    assert not ignored
    lacking = [set(SOURCE.attributes) - set(photo.attributes) for photo in photos]
    assert [each for each in lacking if each] == [{"race"}] * 3
    assert {photo.attributes["age"] for photo in photos} <= set(range(1, 117))
