import itertools
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.core import files, layout
from facemae.core.errors import IntegrityError, StorageError, UsageError
from facemae.data import images
from facemae.data.images import ImageError
from facemae.data.sources import manifest
from facemae.data.sources.base import AGE, EXPRESSION, Attribute, Photo
from facemae.data.sources.manifest import Entry

ATTRIBUTES = {
    "age": AGE,
    "expression": EXPRESSION,
    "smiling": Attribute("smiles", "boolean"),
    "light": Attribute("angle of the light", "number", "degrees"),
}
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "age": st.integers(-(2**63), 2**63 - 1),
        "expression": st.text(st.characters(exclude_categories=["Cs"])),
        "smiling": st.booleans(),
        "light": st.floats(allow_nan=False, allow_infinity=False),
    },
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)  # all but lone surrogates
PATHS = st.binary(min_size=1, max_size=12).filter(
    lambda name: not {b"/", b"\0"} & {bytes([byte]) for byte in name}
)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "ann.jpg"
    path.write_bytes(b"the bytes of a photo")
    return Photo("labelled/ann/1", "ann", path, attributes={"age": 30})


def many(photo, count):
    """Yield rows that differ by their names."""
    for number in range(count):
        yield manifest.enter(Photo(f"a/{number:06}", f"p{number % 7}", photo.path), "a", "labelled")


# --- a row ---


def test_a_row_knows_the_bytes_of_its_photo(photo):
    entry = manifest.enter(photo, "mine", "labelled")
    assert (entry.sha256, entry.bytes) == (files.sha256(b"the bytes of a photo"), 20)
    assert (entry.photo, entry.source, entry.set) == (photo, "mine", "labelled")
    assert len(entry.key) == 16
    assert int(entry.key, 16) >= 0


def test_the_key_follows_everything_but_the_place(photo, tmp_path):
    elsewhere = tmp_path / "moved" / "b"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"....the bytes of a photo....")
    (tmp_path / "other.jpg").write_bytes(b"the bytes of A photo")

    def key(source="s", set_name="labelled", **changes):
        values = {"sample_id": "n", "person": "p", "path": photo.path, "attributes": {"age": 3}} | changes
        return manifest.enter(Photo(**values), source, set_name).key

    assert key(path=elsewhere, offset=4, length=20) == key()
    both = {"age": 3, "smiling": True}
    assert key(attributes=both) == key(attributes=dict(reversed(both.items())))
    different = [
        key(),
        key(path=tmp_path / "other.jpg"),
        key(path=tmp_path / "missing.jpg"),
        key(sample_id="m"),
        key(person="q"),
        key(person=None),
        key(attributes={"age": 4}),
        key(attributes={}),
        key(source="t"),
        key(set_name="unlabelled"),
    ]
    assert len(set(different)) == len(different)


def test_a_range_of_bytes_is_a_photo(photo, tmp_path):
    part = Photo("a/1", None, photo.path, 4, 5)
    assert manifest.read_photo(part) == b"bytes"
    assert manifest.enter(part, "pack", "labelled").bytes == 5
    with pytest.raises(ImageError) as caught:
        manifest.read_photo(Photo("a/1", None, tmp_path / "gone", 0, 5))
    assert caught.value.code == "E_PERMISSION"


def test_a_range_too_large_for_a_photo_is_refused_unread(photo):
    with pytest.raises(ImageError) as caught:
        manifest.read_photo(Photo("a/1", None, photo.path, 0, images.MAX_BYTES + 1))
    assert caught.value.code == "E_TOO_LARGE"


def test_a_link_is_read_as_what_it_leads_to(photo, tmp_path):
    (tmp_path / "link").symlink_to(photo.path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert manifest.read_photo(Photo("a/1", None, tmp_path / "link")) == photo.path.read_bytes()
    with pytest.raises(ImageError, match="a link to a file that is not there"):
        manifest.read_photo(Photo("a/1", None, tmp_path / "gone"))


@pytest.mark.parametrize("kind", ["missing", "folder", "link", "too long a range"])
def test_a_photo_that_cannot_be_read_has_no_content(photo, tmp_path, kind):
    (tmp_path / "link").symlink_to(tmp_path / "link")
    bad = {
        "missing": Photo("a/1", "ann", tmp_path / "none.jpg"),
        "folder": Photo("a/1", "ann", tmp_path),
        "link": Photo("a/1", "ann", tmp_path / "link"),
        "too long a range": Photo("a/1", "ann", photo.path, 0, images.MAX_BYTES + 1),
    }[kind]
    entry = manifest.enter(bad, "a", "labelled")
    assert (entry.sha256, entry.bytes) == (None, None)
    manifest.write(tmp_path / "m", [entry], {})
    assert list(manifest.read(tmp_path / "m")) == [entry]


# --- write and read ---


@settings(max_examples=60)
@given(st.data())
def test_rows_come_back_as_they_were(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("manifest") / "photos.parquet"
    names = data.draw(st.lists(TEXTS, max_size=5, unique=True))
    entries = [
        Entry(
            key=data.draw(st.text("0123456789abcdef", min_size=16, max_size=16)),
            photo=Photo(
                name,
                data.draw(st.none() | TEXTS),
                Path("/") / os.fsdecode(data.draw(PATHS)),
                *data.draw(st.sampled_from([(0, None), (0, 1), (7, 100), (2**40, 2**31)])),
                data.draw(VALUES),
            ),
            source=data.draw(TEXTS),
            set=data.draw(TEXTS),
            sha256=data.draw(st.none() | st.just("ab" * 32)),
            bytes=data.draw(st.none() | st.integers(0, 2**40)),
        )
        for name in names
    ]
    manifest.write(path, entries, ATTRIBUTES)
    assert list(manifest.read(path)) == entries
    assert manifest.keys(path).tolist() == [int(entry.key, 16) for entry in entries]


def test_a_relative_path_is_stored_absolute(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest.write(tmp_path / "m", [manifest.enter(Photo("a", None, Path("ann.jpg")), "a", "labelled")], {})
    monkeypatch.chdir("/")
    assert manifest.read_photo(next(manifest.read(tmp_path / "m")).photo) == b"the bytes of a photo"


def test_pandas_reads_it_and_the_columns_say_what_they_mean(photo, tmp_path):
    path = tmp_path / "photos.parquet"
    manifest.write(path, [manifest.enter(photo, "mine", "labelled")], ATTRIBUTES)
    table = pd.read_parquet(path)
    assert list(table.columns) == [*layout.PHOTO_COLUMNS, *ATTRIBUTES]
    assert table["person"].to_list() == ["ann"]
    assert table["age"].to_list() == [30]
    assert table["smiling"].isna().all()
    schema = pq.read_schema(path)
    for name, attribute in ATTRIBUTES.items():
        assert schema.field(name).metadata == {
            b"meaning": attribute.meaning.encode(),
            b"unit": attribute.unit.encode(),
        }
    assert manifest.attributes_of(path) == manifest.attribute_fields(ATTRIBUTES)
    assert [field.metadata for field in manifest.attributes_of(path)] == [
        field.metadata for field in manifest.attribute_fields(ATTRIBUTES)
    ]


def test_the_same_photos_are_the_same_bytes(photo, tmp_path):
    for name in "ab":
        manifest.write(tmp_path / name, many(photo, 100), ATTRIBUTES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_list_is_a_manifest(tmp_path):
    manifest.write(tmp_path / "m", [], ATTRIBUTES)
    assert list(manifest.read(tmp_path / "m")) == []
    keys = manifest.keys(tmp_path / "m")
    assert (keys.dtype, len(keys)) == (np.uint64, 0)


@pytest.mark.parametrize(
    "attributes", [{"expression": 3}, {"age": "thirty"}, {"age": 2**70}, {"light": "no"}]
)
def test_an_attribute_of_the_wrong_type_is_not_written(tmp_path, attributes):
    entry = Entry("0" * 16, Photo("a/1", None, tmp_path, attributes=attributes), "a", "labelled", None, None)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        manifest.write(tmp_path / "m", [entry], ATTRIBUTES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("places", [(0, 1), (0, 9)], ids=["beside", "in another batch"])
def test_two_photos_of_one_name_are_refused(photo, tmp_path, replaced, places):
    entries = list(many(photo, 10))
    entries[places[1]] = entries[places[0]]
    with (
        replaced(manifest, "_BATCH", 4),
        pytest.raises(UsageError, match=r"^a/000000 is named 2 times; [^.]*\.$"),
    ):
        manifest.write(tmp_path / "m", entries, {})
    assert not (tmp_path / "m").exists()


def test_an_error_while_listing_keeps_the_manifest_of_before(photo, tmp_path):
    manifest.write(tmp_path / "m", many(photo, 3), {})
    before = (tmp_path / "m").read_bytes()

    def failing():
        yield from many(photo, 5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        manifest.write(tmp_path / "m", failing(), {})
    assert (tmp_path / "m").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ann.jpg", "m"]


def test_a_full_disk_is_told(photo, tmp_path):
    (tmp_path / ".m.tmp").symlink_to("/dev/full")  # every write to it meets a full disk
    with pytest.raises(StorageError, match="disk is full"):
        manifest.write(tmp_path / "m", many(photo, 5000), {})
    assert not (tmp_path / "m").exists()


def test_a_disk_that_fails_is_no_photo_that_fails(photo, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"/file/m cannot be written"):
        manifest.write(tmp_path / "file" / "m", many(photo, 1), {})


# --- damage ---


def flipped(data, places, random):
    """Yield the data with one bit turned at each of the places."""
    for place in places.tolist():
        yield data[:place] + bytes([data[place] ^ 1 << int(random.integers(8))]) + data[place + 1 :]


@pytest.mark.parametrize("where", ["cut", "rows", "footer"])
def test_damage_is_told_and_never_passes_for_other_rows(photo, tmp_path, where):
    whole, path = tmp_path / "whole", tmp_path / "m"
    manifest.write(whole, many(photo, 300), {})
    data, entries = whole.read_bytes(), list(manifest.read(whole))
    random = np.random.default_rng(0)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    damaged = {
        "cut": lambda: (data[:length] for length in random.integers(0, len(data), 50).tolist()),
        "rows": lambda: flipped(data, random.integers(0, footer, 100), random),
        "footer": lambda: flipped(data, random.integers(footer, len(data), 100), random),
    }[where]()
    refused = []
    for each in damaged:
        path.write_bytes(each)
        try:
            found = list(manifest.read(path))  # the same where what was hit tells nothing of them
            assert where == "footer" or found == entries
            manifest.keys(path)
        except IntegrityError as error:
            refused.append(str(error))
    assert all(text.startswith(f"{path} is damaged (") and "\n" not in text for text in refused)
    assert len(refused) >= {"cut": 50, "rows": 60, "footer": 20}[where]


def test_another_table_is_no_manifest(tmp_path):
    pd.DataFrame({"key": ["0" * 16], "sample_id": ["a"]}).to_parquet(tmp_path / "t")
    with pytest.raises(IntegrityError, match="its columns are not those of a list of photos"):
        list(manifest.read(tmp_path / "t"))


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    for read in (lambda path: list(manifest.read(path)), manifest.keys, manifest.attributes_of):
        with pytest.raises(FileNotFoundError) as caught:
            read(tmp_path / "none")
        assert Path(caught.value.filename) == tmp_path / "none"


# --- size ---


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_photos(tmp_path, replaced):
    entry = Entry("0" * 16, Photo("a", "ann", Path("/x"), attributes={"age": 1}), "a", "labelled", None, None)

    def rows(count):
        for number in range(count):
            photo = Photo(f"a/{number}", "ann", Path("/x"), attributes={"age": 1})
            yield Entry(f"{number:016x}", photo, entry.source, entry.set, None, None)

    def whole(count):
        def run():
            manifest.write(tmp_path / "m", rows(count), ATTRIBUTES)
            assert sum(1 for _ in manifest.read(tmp_path / "m")) == count

        return peak(run)

    with replaced(manifest, "_BATCH", 250):
        whole(500)  # what is imported on first use is no part of it
        small, large = whole(1000), whole(20_000)
    assert large < small + 20_000 * 40  # the keys are 8 bytes a row, and are sorted to find doubles


@given(st.integers(0, 30), st.integers(1, 7))
def test_batches_hold_everything_in_order(count, size):
    batches = list(manifest.batched(range(count), size))
    assert list(itertools.chain(*batches)) == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)
