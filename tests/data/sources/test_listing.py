import os
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.core.errors import IntegrityError, UsageError
from facemae.data.sources.listing import (
    LISTED_ANYWAY,
    folder_state,
    lines,
    malformed,
    printable,
    read_pairs,
    rows,
    visible_files,
)


def fill(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder, ignored=None):
    return [path.relative_to(folder).as_posix() for path in visible_files(folder, ignored)]


def test_links_are_followed_each_folder_once(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "photos"
    fill(outside, "bob/1.jpg", "bob/old/2.jpg", "3.jpg")
    fill(folder, "ann/1.jpg", ".cache/4.jpg")
    (outside / "bob" / "back").symlink_to(outside)  # round in a circle
    (outside / "home").symlink_to(folder)
    for name, target in {
        "ann/2.jpg": outside / "3.jpg", "ann/self": "self", "ann/gone.jpg": tmp_path / "gone",
        "bob": outside / "bob", "cached": folder / ".cache", "same": folder / "ann", "top": "..",
        "zed": outside / "bob",
    }.items():  # fmt: skip
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "ann" / "pipe.jpg")
    ignored = Counter()
    assert names(folder, ignored) == [
        "ann/1.jpg", "ann/2.jpg", "ann/gone.jpg", "ann/pipe.jpg", "ann/self",
        "bob/1.jpg", "bob/back/3.jpg", "bob/old/2.jpg", "cached/4.jpg",
    ]  # fmt: skip
    # bob/back/{bob,home}, same, top/{outside,photos} and zed lead to what is listed anyway.
    assert ignored == {LISTED_ANYWAY: 6, "hidden": 1}


def test_circles_of_links_between_many_folders_end(tmp_path):
    for one in range(12):
        fill(tmp_path / "out", f"{one}/photo.jpg")
        for other in range(12):
            (tmp_path / "out" / str(one) / f"to{other}").symlink_to(tmp_path / "out" / str(other))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "all").symlink_to(tmp_path / "out")
    assert len(names(tmp_path / "in")) == 12


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
    assert names(tmp_path) == ["a/1.jpg", "locked", "z.jpg"]


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


@given(st.sets(st.binary(min_size=1, max_size=20), max_size=20))
def test_printable_names_are_text_and_as_different_as_the_names(raw):
    shown = [printable(os.fsdecode(name)) for name in raw]
    assert len(set(shown)) == len(raw)
    assert all(name.encode("utf-8").decode("utf-8") == name for name in shown)


def test_pairs_are_read_in_every_spelling_of_the_answer(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(
        b"\xef\xbb\xbfgenuine, first, second\r\n"
        b'Yes,a,b\r\n\r\nno,a,"c, d"\r\n1,a,e\r\n0,a,f\r\nsame,a, g\r\ndifferent,a,h\r\nTRUE,a,\xe9\r\n'
    )
    found = read_pairs(path)
    assert [pair.same for pair in found] == [True, False, True, False, True, False, True]
    assert [pair.second for pair in found] == ["b", "c, d", "e", "f", "g", "h", "\udce9"]
    assert {pair.fold for pair in found} == {0}


@pytest.mark.parametrize(
    ("folds", "numbers"),
    [("3,0,00,12.0", [3, 0, 0, 12]), ("b,a,b,c10", [1, 0, 1, 2]), ("-1,0,1,2", [0, 1, 2, 3]), (",", [0, 0])],
)
def test_folds_are_numbers_or_are_numbered(tmp_path, folds, numbers):
    path = tmp_path / "pairs.csv"
    rows = [f"a,b{place},1,{fold}" for place, fold in enumerate(folds.split(","))]
    path.write_text("\n".join(["first,second,same,fold", *rows]))
    assert [pair.fold for pair in read_pairs(path)] == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: the columns first, second are needed, and it names none"),
        (b"first,second\na,b\n", "line 1: a column same is needed, and it names first, second"),
        (b"first,second,same\na,b,1\na,b\n", "line 3: 3 values are needed, and it has 2"),
        (b"first,second,same\na,b,maybe\n", "line 2: same is 'maybe'"),
        (b"first,second,same\na,a,1\n", "line 2: 'a' is compared with itself"),
        (b"first,second,same\na,b,1\nb,a,0\n", "line 3: 'a' and 'b' are listed as same and as different"),
        (b"first,second,same,genuine\na,b,1,0\n", "line 1: same and genuine are two names of one column"),
        (b"first,second,second,same\na,b,c,1\n", "line 1: the column second is there twice"),
        (b"first,second,same,fold\na,b,1,x\na,c,1,\n", "line 3: some lines have a fold and others have none"),
        (b'first,second,same\n"' + b"a" * 200_000 + b'",b,1\n', "line 2: field larger than"),
    ],
)
def test_a_malformed_line_of_pairs_is_named(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_bytes(text)
    with pytest.raises(IntegrityError, match=rf"pairs\.csv, {message}.*get the file again, or correct it\.$"):
        read_pairs(tmp_path / "pairs.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_list_in_another_encoding_is_called_that(tmp_path, encoding):
    path = tmp_path / "pairs.csv"
    path.write_bytes("first,second,same\na,b,1\n".encode(encoding))
    with pytest.raises(IntegrityError, match=r"line 1: it holds a NUL, as text in UTF-16 does; save it as"):
        read_pairs(path)


def test_a_line_of_gigabytes_is_not_read_whole(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("first,second,same\n" + "a" * 3_000_000)
    with pytest.raises(IntegrityError, match="line 2: field larger than field limit"):
        read_pairs(path)
    assert max(len(line) for _, line in lines(path)) == 2**20


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
    fill(tmp_path, "a/1.jpg", "b/2.jpg", "../beside.jpg")
    (tmp_path / "b" / "link.jpg").symlink_to(tmp_path.parent / "beside.jpg")
    states = [folder_state(tmp_path)]
    assert folder_state(tmp_path) == states[0]
    changes = (
        lambda: (tmp_path / "a" / "1.jpg").write_bytes(b"more"),
        lambda: (tmp_path.parent / "beside.jpg").write_bytes(b"more"),
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

    def vanish(self, **_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "stat", vanish)
    monkeypatch.setattr(Path, "lstat", vanish)
    assert folder_state(tmp_path) != before
