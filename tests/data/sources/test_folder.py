import os
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.data.sources.base import Pair, Place
from facemae.data.sources.folder import (
    folder_source,
    folder_state,
    lines,
    malformed,
    printable,
    rows,
    visible_files,
)


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
    fill(tmp_path, "zoe/2.jpg", "zoe/10.jpg", "adam/a.txt", "root.png", "zoe/old/3.jpg", "README")
    photos, ignored = listed(tmp_path)
    assert [(photo.sample_id, photo.person) for photo in photos] == [
        ("labelled/README", None),
        ("labelled/adam/a.txt", "adam"),
        ("labelled/root.png", None),
        ("labelled/zoe/10.jpg", "zoe"),
        ("labelled/zoe/2.jpg", "zoe"),
        ("labelled/zoe/old/3.jpg", None),
    ]
    assert all(photo.path == tmp_path / photo.sample_id.removeprefix("labelled/") for photo in photos)
    assert not ignored


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


def test_links_and_pipes_are_listed_but_links_not_followed(tmp_path):
    outside = tmp_path / "outside"
    fill(outside, "secret.jpg")
    folder = tmp_path / "photos"
    fill(folder, "a/1.jpg")
    (folder / "a" / "link.jpg").symlink_to(outside / "secret.jpg")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "people").symlink_to(outside)
    os.mkfifo(folder / "a" / "pipe.jpg")
    expected = ["a/1.jpg", "a/link.jpg", "a/loop", "a/pipe.jpg", "people"]
    assert names(folder) == [f"labelled/{name}" for name in expected]


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
        (folder / os.fsdecode(name)).touch()
    photos, _ = listed(tmp_path)
    assert {os.fsencode(photo.path.name) for photo in photos} == set(strange)
    assert len({photo.sample_id for photo in photos}) == len(strange)
    assert all(photo.path.exists() for photo in photos)
    assert {photo.person for photo in photos} == {"person \\\\ "}
    "".join(photo.sample_id for photo in photos).encode("utf-8")


@given(st.sets(st.binary(min_size=1, max_size=20), max_size=20))
def test_printable_names_are_text_and_as_different_as_the_names(raw):
    shown = [printable(os.fsdecode(name)) for name in raw]
    assert len(set(shown)) == len(raw)
    assert all(name.encode("utf-8").decode("utf-8") == name for name in shown)


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


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    fill(tmp_path, *(f"{person}/{shot}" for person in "cab" for shot in "312"))
    once = names(tmp_path)
    scandir = os.scandir

    class Reversed:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert names(tmp_path) == once == sorted(once)
    assert len(once) == 9


def test_a_folder_that_cannot_be_listed_is_listed_itself(tmp_path, monkeypatch):
    fill(tmp_path, "a/1.jpg", "locked/2.jpg", "z.jpg")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(tmp_path) == ["labelled/a/1.jpg", "labelled/locked", "labelled/z.jpg"]


def test_folders_may_be_deeper_than_recursion_goes(tmp_path):
    folders, depth = [tmp_path], sys.getrecursionlimit() + 100
    for _ in range(depth):
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    (folders[-1] / "1.jpg").touch()
    try:
        assert [path.name for path in visible_files(tmp_path)] == ["1.jpg"]
    finally:
        (folders[-1] / "1.jpg").unlink()
        for folder in reversed(folders[1:]):
            folder.rmdir()


@pytest.mark.parametrize("name", ["missing", "file.jpg"])
def test_not_a_folder(tmp_path, name):
    fill(tmp_path, "file.jpg")
    with pytest.raises(UsageError, match=f"{name} is not a folder"):
        listed(tmp_path / name)


def test_empty_folder(tmp_path):
    fill(tmp_path, "photos/.hidden")
    (tmp_path / "photos" / "nobody").mkdir()
    with pytest.raises(DataError, match="photos holds no photos"):
        listed(tmp_path / "photos")


def pairs(folder, text):
    (folder / "pairs.csv").write_bytes(text)
    return list(folder_source(folder, "labelled").pairs(Place(folder, {})))


def test_pairs_csv_is_a_list_and_no_photo(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/pairs.csv", "b/1, 2.jpg")
    found = pairs(
        tmp_path,
        b"\xef\xbb\xbffirst,second,same,fold\r\n"
        b"a/1.jpg,./a//1.jpg,1,0\r\n"
        b"\r\n"
        b'a/1.jpg,"b/1, 2.jpg",False,3\r\n'
        b"a/\xff.jpg,a/1.jpg,yes,\r\n",
    )
    assert found == [
        Pair("pairs", 0, "labelled/a/1.jpg", "labelled/a/1.jpg", True),
        Pair("pairs", 3, "labelled/a/1.jpg", "labelled/b/1, 2.jpg", False),
        Pair("pairs", 0, "labelled/a/\\udcff.jpg", "labelled/a/1.jpg", True),
    ]
    photos, ignored = listed(tmp_path)
    assert [photo.sample_id for photo in photos] == [
        "labelled/a/1.jpg",
        "labelled/a/pairs.csv",
        "labelled/b/1, 2.jpg",
    ]
    assert ignored == {"list of pairs": 1}


def test_folds_may_be_left_out_and_so_may_the_list(tmp_path):
    fill(tmp_path, "a/1.jpg")
    assert list(folder_source(tmp_path, "labelled").pairs(Place(tmp_path, {}))) == []
    assert [pair.fold for pair in pairs(tmp_path, b"same,second,first\n0,b/1.jpg,a/1.jpg\n")] == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: the columns first, second, same are needed, and it names none"),
        (b"first,second\na,b\n", "line 1: .* it names first, second"),
        (b"first,second,same\na,b,1\na,b\n", "line 3: 3 values are needed, and it has 2"),
        (b"first,second,same\na,b,maybe\n", "line 2: same is 'maybe'"),
        (b"first,second,same,fold\na,b,1,-1\n", "line 2: fold is '-1'"),
        (b"first,second,same\n/etc/passwd,b,1\n", "line 2: '/etc/passwd' is no path"),
        (b"first,second,same\na,../b,1\n", r"line 2: '\.\./b' is no path"),
        (b"first,second,same\na,,1\n", "line 2: '' is no path"),
        (b'first,second,same\n"' + b"a" * 200_000 + b'",b,1\n', "line 2: field larger than"),
    ],
)
def test_a_malformed_line_of_pairs_is_named(tmp_path, text, message):
    with pytest.raises(IntegrityError, match=rf"pairs\.csv, {message}.*get the file again, or correct it\.$"):
        pairs(tmp_path, text)


def test_rows_carry_the_number_of_their_line(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('a, b\n\n1,"two\nlines"\n3,4\n')
    assert list(rows(path, ("a",))) == [(4, {"a": "1", "b": "two\nlines"}), (5, {"a": "3", "b": "4"})]


def test_lines_keep_undecodable_bytes_and_lose_their_ends(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfone \r\n\n\xe9\nlast")
    assert list(lines(path)) == [(1, "one "), (2, ""), (3, "\udce9"), (4, "last")]


def test_a_list_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"list\.txt cannot be read \(No such file"):
        list(lines(tmp_path / "list.txt"))


def test_the_message_about_a_line_is_short_and_printable():
    message = str(malformed(Path("a\udcff.txt"), 7, "it reads " + "\udcfe" * 1000))
    assert message.startswith("a\\udcff.txt, line 7: it reads \\udcfe")
    assert len(message) < 1500
    message.encode("utf-8")


def test_the_state_of_a_folder_changes_with_its_entries(tmp_path):
    fill(tmp_path, "a/1.jpg", "b/2.jpg")
    states = [folder_state(tmp_path)]
    assert folder_state(tmp_path) == states[0]
    changes = (
        lambda: (tmp_path / "a" / "1.jpg").write_bytes(b"more"),
        lambda: (tmp_path / "a" / "1.jpg").rename(tmp_path / "a" / "3.jpg"),
        lambda: (tmp_path / "b" / "2.jpg").unlink(),
        lambda: fill(tmp_path, "c/1.jpg"),
        lambda: os.utime(tmp_path / "c" / "1.jpg", ns=(1, 1)),
    )
    for change in changes:
        change()
        states.append(folder_state(tmp_path))
    assert all(before != after for before, after in pairwise(states))
    fill(tmp_path, ".cache/1.jpg")
    assert folder_state(tmp_path) == states[-1]  # hidden files do not count


def test_the_state_survives_a_file_that_is_deleted_while_it_is_read(tmp_path, monkeypatch):
    fill(tmp_path, "1.jpg", "2.jpg")
    before = folder_state(tmp_path)
    lstat = Path.lstat

    def vanish(self):
        if self.name == "2.jpg":
            raise FileNotFoundError
        return lstat(self)

    monkeypatch.setattr(Path, "lstat", vanish)
    assert folder_state(tmp_path) != before
