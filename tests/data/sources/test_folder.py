import os
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.data.sources.base import Pair, Place
from facemae.data.sources.folder import folder_source


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(folder, set_name="labelled", number=0):
    ignored = Counter()
    source = folder_source(folder, set_name, number)
    return list(source.photos(Place(folder, {}), ignored)), ignored


def names(folder, **kwargs):
    return [photo.sample_id for photo in listed(folder, **kwargs)[0]]


def test_the_folder_right_below_the_top_names_the_person(tmp_path):
    fill(tmp_path, "zoe/2.jpg", "zoe/10.jpg", "adam/a.JPEG", "root.png", "zoe/old/3.jpg")
    photos, ignored = listed(tmp_path)
    assert [(photo.sample_id, photo.person) for photo in photos] == [
        ("labelled/adam/a.JPEG", "adam"),
        ("labelled/root.png", None),
        ("labelled/zoe/10.jpg", "zoe"),
        ("labelled/zoe/2.jpg", "zoe"),
        ("labelled/zoe/old/3.jpg", None),
    ]
    assert all(photo.path == tmp_path / photo.sample_id.removeprefix("labelled/") for photo in photos)
    assert not ignored


PICTURES = {
    "jpeg": b"\xff\xd8\xff\xe0",
    "gif": b"GIF89a",
    "png": b"\x89PNG\r\n\x1a\n",
    "heic": b"\0\0\0\x18ftypheic",
}


def test_what_begins_like_a_picture_is_a_photo_whatever_it_is_called(tmp_path):
    (tmp_path / "ann").mkdir()
    for kind, start in PICTURES.items():
        (tmp_path / "ann" / kind).write_bytes(start + bytes(50))
        (tmp_path / "ann" / f"{kind}.txt").write_bytes(start + bytes(50))
    assert len(listed(tmp_path)[0]) == 2 * len(PICTURES)


def test_files_beside_photos_are_counted_and_broken_pictures_listed(tmp_path):
    fill(tmp_path, "ann/1.jpg", "ann/Icon\r", "ann/2.PNG", "README")
    beside = {
        "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(99),
        "desktop.ini": b"[ViewState]",
        "1.jpg.xmp": b"<x:xmpmeta>",
        "live.mov": b"\0\0\0\x14ftypqt  ",
        "more.zip": b"PK\3\4",
        "BM.txt": b"BM is no picture",
    }
    for name, content in beside.items():
        (tmp_path / "ann" / name).write_bytes(content)
    photos, ignored = listed(tmp_path)
    assert [photo.sample_id for photo in photos] == ["labelled/ann/1.jpg", "labelled/ann/2.PNG"]
    assert ignored == {"no picture": len(beside) + 2}


def test_what_cannot_be_looked_into_is_listed_to_be_reported(tmp_path):
    (tmp_path / "ann").mkdir()
    os.mkfifo(tmp_path / "ann" / "pipe")
    (tmp_path / "ann" / "gone").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == ["labelled/ann/gone", "labelled/ann/pipe"]


def test_sets_and_their_folders_have_names_of_their_own(tmp_path):
    fill(tmp_path, "a/1.jpg")
    assert names(tmp_path, set_name="unlabelled") == ["unlabelled/a/1.jpg"]
    assert names(tmp_path, set_name="unlabelled", number=2) == ["unlabelled-2/a/1.jpg"]
    source = folder_source(tmp_path / "album", "unlabelled", 2)
    assert (source.name, source.title, source.folder) == ("unlabelled-2", "album", "")
    assert tmp_path / source.images == tmp_path  # whatever is inside, the folder itself holds the photos


def test_hidden_entries_are_counted(tmp_path):
    fill(tmp_path, "a/1.jpg", ".DS_Store", "a/.thumb.jpg", ".cache/2.jpg", ".cache/deep/3.jpg")
    photos, ignored = listed(tmp_path)
    assert [photo.sample_id for photo in photos] == ["labelled/a/1.jpg"]
    assert ignored == {"hidden": 4}


def test_strange_names_survive_and_stay_apart(tmp_path):
    strange = [
        "é.jpg".encode(),  # one code point
        "e\u0301.jpg".encode(),  # the same letter in two
        "😀 \u202egpj.x".encode(),
        b"-rf.jpg",
        b"new\nline.jpg",
        b"\xff.jpg",  # not UTF-8
        b"\\udcff.jpg",  # the escaped spelling of the one before
        b"=cmd().jpg",
        b"x" * 255,
    ]
    folder = tmp_path / "person \\ "
    folder.mkdir()
    for name in strange:
        (folder / os.fsdecode(name)).write_bytes(PICTURES["jpeg"])
    photos, _ = listed(tmp_path)
    assert {os.fsencode(photo.path.name) for photo in photos} == set(strange)
    assert len({photo.sample_id for photo in photos}) == len(strange)
    assert all(photo.path.exists() for photo in photos)
    assert {photo.person for photo in photos} == {"person \\\\ "}
    "".join(photo.sample_id for photo in photos).encode("utf-8")


_NAME = st.binary(min_size=1, max_size=8).filter(
    lambda name: not {0, ord("/")} & set(name) and name not in (b".", b"..")
)


@given(st.sets(st.lists(_NAME, min_size=1, max_size=3).map(tuple), max_size=12))
def test_every_file_is_a_photo_or_counted(paths):
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        fill(root, "x.jpg")  # an empty folder is an error
        for parts in paths:
            path = root.joinpath(*map(os.fsdecode, parts))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError:  # one name for a file and a folder
                continue
        photos, ignored = listed(root)
        assert len(photos) + ignored.total() == sum(path.is_file() for path in root.rglob("*"))
        assert len({photo.sample_id for photo in photos}) == len(photos)
        assert all(photo.path.is_file() for photo in photos)


@pytest.mark.parametrize("name", ["missing", "file.jpg"])
def test_not_a_folder(tmp_path, name):
    fill(tmp_path, "file.jpg")
    with pytest.raises(UsageError, match=f"{name} is not a folder"):
        listed(tmp_path / name)


def test_empty_folder(tmp_path):
    fill(tmp_path, "photos/.hidden")
    (tmp_path / "photos" / "nobody").mkdir()
    with pytest.raises(DataError, match="photos holds no photos; put some"):
        listed(tmp_path / "photos")
    fill(tmp_path, "photos/a.txt", "photos/b/c.txt")
    with pytest.raises(DataError, match="holds no photos, and 2 files that are no pictures; put some"):
        listed(tmp_path / "photos")


def pairs(folder, text):
    (folder / "pairs.csv").write_bytes(text)
    return list(folder_source(folder, "labelled").pairs(Place(folder, {})))


def test_pairs_csv_is_a_list_and_no_photo(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/pairs.csv", "b/1, 2.jpg")
    found = pairs(
        tmp_path,
        b"\xef\xbb\xbffirst,second,same,fold\r\n"
        b"a/1.jpg,./a//2.jpg,1,0\r\n"
        b"\r\n"
        b'a/1.jpg,"b/1, 2.jpg",False,3\r\n'
        b"a/\xff.jpg,a/1.jpg,yes,0\r\n",
    )
    assert found == [
        Pair("pairs", 0, "labelled/a/1.jpg", "labelled/a/2.jpg", True),
        Pair("pairs", 3, "labelled/a/1.jpg", "labelled/b/1, 2.jpg", False),
        Pair("pairs", 0, "labelled/a/\\udcff.jpg", "labelled/a/1.jpg", True),
    ]
    photos, ignored = listed(tmp_path)
    assert [photo.sample_id for photo in photos] == ["labelled/a/1.jpg", "labelled/b/1, 2.jpg"]
    assert ignored == {"list of pairs": 1, "no picture": 1}


def test_the_list_may_be_left_out(tmp_path):
    fill(tmp_path, "a/1.jpg")
    assert list(folder_source(tmp_path, "labelled").pairs(Place(tmp_path, {}))) == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../b", ""])
def test_a_pair_names_photos_of_the_folder(tmp_path, name):
    with pytest.raises(IntegrityError, match=rf"pairs\.csv, line 2: '{re.escape(name)}' is no path"):
        pairs(tmp_path, f"first,second,same\na,{name},1\n".encode())
