import json
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from store_folder import make_entries, make_outcome

from facemae.core.errors import IntegrityError
from facemae.core.layout import SET_LABELLED, DataFolder
from facemae.data.alignment.align import Outcome
from facemae.data.faces import shards as store
from facemae.data.images import open_image
from facemae.data.sources import manifest
from facemae.data.sources.base import AGE, Photo

NAMES = ["a/1", "a/2", "b/1", "b/2"]
PEOPLE = ["a", "a", "b", None]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def entries(tmp_path, images):
    return make_entries(tmp_path / "photos", images, NAMES, PEOPLE)


@pytest.fixture
def outcomes(entries, images):
    """Three faces, and a photo without one."""
    good = [make_outcome(entry, image) for entry, image in zip(entries[:3], images[:3], strict=True)]
    return [*good, Outcome(entries[3], "NO_FACE", "No face found.", "Try another.", 0)]


@pytest.fixture
def folder(tmp_path, entries, outcomes):
    folder = DataFolder(tmp_path / "data")
    manifest.write(folder.photos, entries, {})
    for number, part in enumerate((outcomes[:2], outcomes[2:])):
        store.write_shard(store.shard_path(folder.shards / "x", number), part, store.schema([]))
    return folder


def test_a_shard_reads_with_pandas_and_its_images_are_pictures(folder, images):
    table = pd.read_parquet(folder.shards / "x" / "000000.parquet")
    assert table["sample_id"].to_list() == NAMES[:2]
    assert np.array_equal(np.asarray(open_image(table["image"][1])), images[1])
    whole = pd.read_parquet(folder.shards / "x")  # a folder of shards is one table
    assert whole["sample_id"].to_list() == NAMES
    assert whole["image"].isna().to_list() == [False, False, False, True]


def test_the_index_lists_each_face_and_where_it_is(folder, images):
    counts = store.finish(folder, folder.shards / "x")
    assert counts == Counter(OK=3, NO_FACE=1)
    index = pd.read_parquet(folder.faces)
    assert index["sample_id"].to_list() == NAMES[:3]
    assert "image" not in index
    for place, row in enumerate(index.itertuples()):
        (face,) = store.read_faces(folder, row.shard, [row.row])
        assert np.array_equal(face, images[place])


def test_the_report_has_one_line_per_photo_and_the_rejected_are_among_them(folder):
    store.finish(folder, folder.shards / "x")
    lines = [json.loads(line) for line in folder.outcomes.read_text().splitlines()]
    assert [each["sample_id"] for each in lines] == NAMES
    assert [each["code"] for each in lines] == ["OK", "OK", "OK", "NO_FACE"]
    assert all(len(each["sha256"]) == 64 for each in lines)
    (rejected,) = [json.loads(line) for line in folder.rejected.read_text().splitlines()]
    assert rejected == lines[3]
    assert rejected["reason"] == "No face found."


def test_a_shard_of_the_earlier_column_name_is_indexed_under_the_present_one(folder):
    path = folder.shards / "x" / "000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns({"warnings": "doubts"}), path, write_page_checksum=True)
    store.finish(folder, folder.shards / "x")
    assert "doubts" not in pd.read_parquet(folder.faces)


def test_several_faces_of_a_photo_are_rows_of_one_outcome(folder, entries, images):
    good = make_outcome(entries[0], images[0]).faces[0]
    pair = Outcome(entries[0], found=2, score=0.99, faces=(good, good))
    folder.shards.joinpath("x", "000000.parquet").unlink()
    others = [make_outcome(entries[1], images[1])]
    store.write_shard(store.shard_path(folder.shards / "x", 0), [pair, *others], store.schema([]))
    assert store.finish(folder, folder.shards / "x") == Counter(OK=3, NO_FACE=1)
    index = pd.read_parquet(folder.faces)
    assert index["sample_id"].to_list() == ["a/1", "a/1#2", "a/2", "b/1"]
    assert index["key"].nunique() == 3


def test_rows_of_photos_that_are_gone_are_taken_out(folder, entries):
    """What is deleted is gone from the files, not only from the index."""
    store.finish(folder, folder.shards / "x")
    image = pd.read_parquet(folder.shards / "x" / "000001.parquet")["image"][0]
    manifest.write(folder.photos, [entries[0], entries[3]], {})
    assert store.finish(folder, folder.shards / "x") == Counter(OK=1, NO_FACE=1)
    assert pd.read_parquet(folder.faces)["sample_id"].to_list() == ["a/1"]
    assert not any(image in path.read_bytes() for path in folder.root.rglob("*") if path.is_file())
    manifest.write(folder.photos, entries[:1], {})
    store.finish(folder, folder.shards / "x")
    assert [path.name for path in store.shard_paths(folder.shards / "x")] == ["000000.parquet"]


def test_a_photo_without_an_outcome_is_noticed(folder, tmp_path, entries):
    extra = make_entries(tmp_path / "more", np.zeros((1, 32, 32, 3), np.uint8), ["c/1"], ["c"])
    manifest.write(folder.photos, [*entries, *extra], {})
    with pytest.raises(IntegrityError, match="1 of 5 photos have no outcome"):
        store.finish(folder, folder.shards / "x")
    assert not folder.faces.exists()


def test_free_numbers_fill_the_gaps_first(folder):
    shards = folder.shards / "x"
    store.shard_path(shards, 0).rename(store.shard_path(shards, 3))
    free = store.free_numbers(shards)
    assert [next(free) for _ in range(4)] == [0, 2, 4, 5]


def test_attributes_keep_their_meaning(tmp_path, images):
    photo = Photo("a", None, tmp_path / "a.png", attributes={"age": 31})
    (entry,) = make_entries(tmp_path, images[:1], ["a"], [None])
    entry = manifest.enter(Photo("a", None, entry.photo.path, attributes=photo.attributes), "s", SET_LABELLED)
    folder = DataFolder(tmp_path / "data")
    manifest.write(folder.photos, [entry], {"age": AGE})
    columns = store.schema(manifest.attributes_of(folder.photos))
    store.write_shard(store.shard_path(folder.shards / "x", 0), [make_outcome(entry, images[0])], columns)
    store.finish(folder, folder.shards / "x")
    assert pd.read_parquet(folder.faces)["age"].to_list() == [31]
    field = pq.read_schema(folder.shards / "x" / "000000.parquet").field("age")
    assert field.metadata == {b"meaning": b"age", b"unit": b"years"}


def test_a_damaged_shard_is_named(folder):
    path = folder.shards / "x" / "000001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(IntegrityError, match=r"000001\.parquet is damaged"):
        store.finish(folder, folder.shards / "x")
    with pytest.raises(IntegrityError, match="is missing"):
        next(store.read_faces(folder, "shards/x/000009.parquet", [0]))


def test_the_same_outcomes_make_the_same_bytes(tmp_path, outcomes):
    for name in ("one", "two"):
        store.write_shard(tmp_path / name, outcomes, store.schema([]))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("place", range(40))
def test_a_flipped_bit_is_noticed_wherever_it_is(folder, images, place):
    """An image comes back as it was, or not at all."""
    path = folder.shards / "x" / "000000.parquet"
    data = bytearray(path.read_bytes())
    data[(place * 2 + 1) * len(data) // 82] ^= 1 << place % 8
    path.write_bytes(data)
    try:
        first, second = store.read_faces(folder, "shards/x/000000.parquet", [0, 1])
    except IntegrityError:
        return
    assert np.array_equal(first, images[0])
    assert np.array_equal(second, images[1])


def test_a_row_that_is_not_there_is_damage(folder):
    with pytest.raises(IntegrityError, match="holds a damaged face"):
        list(store.read_faces(folder, "shards/x/000000.parquet", [0, 99]))


def test_an_index_cannot_point_out_of_its_folder(folder, tmp_path):
    pq.write_table(pq.read_table(folder.shards / "x" / "000000.parquet"), tmp_path / "secret.parquet")
    with pytest.raises(IntegrityError, match="outside its folder"):
        next(store.read_faces(folder, "../secret.parquet", [0]))


def test_a_shard_that_is_there_twice_is_noticed(folder):
    shards = folder.shards / "x"
    store.shard_path(shards, 7).write_bytes(store.shard_path(shards, 0).read_bytes())
    with pytest.raises(IntegrityError, match="holds 6 outcomes for 4 photos"):
        store.finish(folder, shards)
    assert not folder.faces.exists()


def test_what_a_killed_worker_left_goes(folder):
    left = folder.shards / "x" / ".000001.parquet.tmp"
    left.write_bytes(b"half a face")
    store.finish(folder, folder.shards / "x")
    assert not left.exists()
