import numpy as np
import pandas as pd
import pytest

from facemae import results
from facemae.data.images import encode_png
from facemae.data.store import load_faces
from facemae.errors import IntegrityError

NAMES = ["labelled/ann/1", "labelled/ann/2", "unlabelled/x", "labelled/bob/1"]
PEOPLE = ["ann", "ann", None, "bob"]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path, images):
    path = tmp_path / "faces.parquet"
    table = pd.DataFrame(
        {
            "sample_id": NAMES,
            "person": PEOPLE,
            "sha256": list("abcd"),
            "image": [encode_png(i) for i in images],
        }
    )
    results.write_table(path, table, results.FACE_COLUMNS)
    return path


def rows(*places):
    return pd.DataFrame({"sample_id": [NAMES[place] for place in places]})


@pytest.mark.parametrize("places", [(0, 1, 2, 3), (3, 0), (2,)])
def test_faces_come_back_to_the_bit_in_the_order_asked_for(store, images, places):
    faces = load_faces(store, rows(*places))
    assert faces.images.dtype == np.uint8
    assert np.array_equal(faces.images, images[list(places)])
    assert faces.sample_ids == [NAMES[place] for place in places]
    assert faces.people == [PEOPLE[place] for place in places]


def test_a_store_without_any_name_has_no_people(tmp_path, images):
    table = pd.DataFrame(
        {"sample_id": NAMES, "person": [None] * 4, "sha256": "", "image": encode_png(images[0])}
    )
    results.write_table(tmp_path / "f", table, results.FACE_COLUMNS)
    assert load_faces(tmp_path / "f", rows(0, 1)).people == [None, None]


def test_a_face_that_is_not_in_the_store(store):
    with pytest.raises(IntegrityError, match=r"lacks a face of the split.*labelled/eve/1"):
        load_faces(store, pd.DataFrame({"sample_id": ["labelled/eve/1"]}))


def test_a_damaged_store_is_told(store):
    store.write_bytes(store.read_bytes()[:-20])
    with pytest.raises(IntegrityError, match=r"faces\.parquet is damaged"):
        load_faces(store, rows(0))


def test_a_damaged_image_in_the_store_is_told(tmp_path, images):
    table = pd.DataFrame(
        {"sample_id": NAMES[:1], "person": "ann", "sha256": "", "image": encode_png(images[0])[:99]}
    )
    results.write_table(tmp_path / "faces.parquet", table, results.FACE_COLUMNS)
    with pytest.raises(IntegrityError, match=r"faces\.parquet"):
        load_faces(tmp_path / "faces.parquet", rows(0))
