from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from store_folder import make_store

from facemae import recognised, recognisers, results
from facemae.data.pairs import table
from facemae.data.sources.base import Pair
from facemae.data.sources.orl import orl_photos
from facemae.errors import DataError, UsageError
from facemae.recognised import embeddings_of
from facemae.recognisers import Recogniser


class Counting:
    """A recogniser whose vector is the mean colour of a face; it counts them, and stops after `last`."""

    def __init__(self, monkeypatch, name="colour"):
        self.seen, self.last = 0, None
        model = Recogniser(lambda: Path(__file__), lambda path: self, "whole")
        monkeypatch.setitem(recognisers.RECOGNISERS, name, model)

    def __call__(self, images):
        if self.seen == self.last:
            raise KeyboardInterrupt
        self.seen += len(images)
        return images.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def prepared(tmp_path, orl_images, monkeypatch):
    """Four people's faces in a folder as `_prepared` leaves it, with two protocols."""
    names = [f"p{number // 2}/{number % 2}" for number in range(8)]
    folder = make_store(tmp_path / "set", orl_images[:8], names, [name[:2] for name in names])
    lists = [
        Pair("first", 0, "p0/0", "p0/1", True),
        Pair("first", 0, "p0/0", "p1/0", False),
        Pair("second", 0, "p2/0", "p2/1", True),
        Pair("second", 0, "p2/0", "lost", False),
    ]
    results.write_table(folder.listed_pairs, table(lists), results.PAIR_COLUMNS)
    monkeypatch.setattr(
        recognised, "_prepared", lambda *asked: (folder, recognised._pairs(folder, asked[0], asked[4]))
    )
    return folder


def test_an_unknown_recogniser_is_told_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="dlib, inception"):
        embeddings_of("deepface", "lfw", "data/raw", tmp_path)


def test_only_the_faces_of_the_protocols_pairs_are_embedded(prepared, orl_images, monkeypatch):
    counting = Counting(monkeypatch)
    found, pairs = embeddings_of("colour", "any", "raw", prepared.root, "first")
    assert sorted(found["sample_id"]) == ["p0/0", "p0/1", "p1/0"]
    assert counting.seen == 3
    assert list(pairs.columns) == results.PAIR_COLUMNS
    assert set(pairs["protocol"]) == {"first"}
    rows = {"p0/0": 0, "p0/1": 1, "p1/0": 2}
    for sample_id, person, vector in found.itertuples(index=False):
        assert person == sample_id[:2]
        np.testing.assert_allclose(vector, orl_images[rows[sample_id]].mean(axis=(0, 1)), rtol=1e-6)


def test_a_photo_without_a_face_has_no_row(prepared, monkeypatch):
    Counting(monkeypatch)
    found, pairs = embeddings_of("colour", "any", "raw", prepared.root, "second")
    assert sorted(found["sample_id"]) == ["p2/0", "p2/1"]
    assert "lost" in set(pairs["second"])


def test_what_is_embedded_once_is_not_embedded_again(prepared, monkeypatch):
    counting = Counting(monkeypatch)
    first, _ = embeddings_of("colour", "any", "raw", prepared.root, "first")
    again, _ = embeddings_of("colour", "any", "raw", prepared.root, "first")
    assert counting.seen == 3
    assert first["sample_id"].equals(again["sample_id"])
    np.testing.assert_array_equal(np.stack(first["embedding"]), np.stack(again["embedding"]))
    both, _ = embeddings_of("colour", "any", "raw", prepared.root)
    assert len(both) == counting.seen == 5


def test_a_kill_costs_one_block(prepared, monkeypatch):
    counting = Counting(monkeypatch)
    monkeypatch.setattr(recognised, "BATCH", 1)
    counting.last = 2
    with pytest.raises(KeyboardInterrupt):
        embeddings_of("colour", "any", "raw", prepared.root, "first")
    counting.last = None
    found, _ = embeddings_of("colour", "any", "raw", prepared.root, "first")
    assert len(found) == counting.seen == 3


def test_other_weights_or_another_framing_are_not_mixed_up(prepared, monkeypatch):
    counting = Counting(monkeypatch)
    embeddings_of("colour", "any", "raw", prepared.root, "first")
    model = recognisers.RECOGNISERS["colour"]
    changed = Recogniser(model.weights, model.load, "closer")
    assert changed.key() != model.key()
    monkeypatch.setitem(recognisers.RECOGNISERS, "colour", changed)
    embeddings_of("colour", "any", "raw", prepared.root, "first")
    assert counting.seen == 6


def test_an_unknown_protocol_is_told_the_known_ones(prepared, monkeypatch):
    Counting(monkeypatch)
    with pytest.raises(UsageError, match="first, second"):
        embeddings_of("colour", "any", "raw", prepared.root, "third")


def test_a_data_set_without_pairs_is_refused(prepared, monkeypatch):
    Counting(monkeypatch)
    results.write_table(prepared.listed_pairs, table([]), results.PAIR_COLUMNS)
    with pytest.raises(DataError, match="lists no pairs"):
        embeddings_of("colour", "any", "raw", prepared.root)


def test_from_photos_and_a_list_to_embeddings(tmp_path, monkeypatch):
    """LFW's layout with ORL's photos, aligned by the detector."""
    counting = Counting(monkeypatch)
    photos = {photo.sample_id: photo.path for photo in orl_photos()}
    for person in (1, 2):
        for shot in (1, 2):
            path = tmp_path / "lfw" / f"s{person}" / f"s{person}_{shot:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.open(photos[f"orl/s0{person}/0{shot}"]).save(path)
    (tmp_path / "pairs.txt").write_text("1\t1\ns1\t1\t2\ns1\t1\ts2\t2\n")
    named = f"lfw-deepfunneled:{tmp_path / 'lfw'}"
    found, pairs = embeddings_of("colour", named, str(tmp_path), tmp_path / "cache", "lfw-view2")
    assert sorted(found["sample_id"]) == ["lfw/s1/0001", "lfw/s1/0002", "lfw/s2/0002"]
    assert pairs["genuine"].tolist() == [True, False]
    embeddings_of("colour", named, str(tmp_path), tmp_path / "cache", "lfw-view2")
    assert counting.seen == 3
