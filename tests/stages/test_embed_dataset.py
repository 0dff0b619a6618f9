from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from store_folder import make_store

from facemae.core import layout, records
from facemae.core.errors import DataError, UsageError
from facemae.data.faces.pairs import table
from facemae.data.sources.base import Pair
from facemae.data.sources.orl import orl_photos
from facemae.evaluation.baselines import controls, off_the_shelf
from facemae.evaluation.baselines.closed_form import Head
from facemae.evaluation.baselines.off_the_shelf import OffTheShelf
from facemae.evaluation.protocols.calibration import Calibration
from facemae.stages import embed_dataset
from facemae.stages.embed_dataset import embeddings_of


class Counting:
    """A recogniser whose vector is the mean colour of a face; it counts them, and stops after `last`."""

    def __init__(self, monkeypatch, name="colour"):
        self.seen, self.last = 0, None
        model = OffTheShelf(lambda: Path(__file__), lambda path: self, "whole")
        monkeypatch.setitem(off_the_shelf.RECOGNISERS, name, model)

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
    records.write_table(folder.listed_pairs, table(lists), layout.PAIR_COLUMNS)
    monkeypatch.setattr(
        embed_dataset, "_prepared", lambda *asked: (folder, embed_dataset._pairs(folder, asked[0], asked[4]))
    )
    return folder


def test_an_unknown_recogniser_is_told_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="dlib, inception, face-embedder, face-tiny, pca, fisherfaces"):
        embeddings_of("deepface", "lfw", "data/raw", tmp_path)


def test_only_the_faces_of_the_protocols_pairs_are_embedded(prepared, orl_images, monkeypatch):
    counting = Counting(monkeypatch)
    found, pairs = embeddings_of("colour", "any", "raw", prepared.root, "first")
    assert sorted(found["sample_id"]) == ["p0/0", "p0/1", "p1/0"]
    assert counting.seen == 3
    assert list(pairs.columns) == layout.PAIR_COLUMNS
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
    monkeypatch.setattr(embed_dataset, "BATCH", 1)
    counting.last = 2
    with pytest.raises(KeyboardInterrupt):
        embeddings_of("colour", "any", "raw", prepared.root, "first")
    counting.last = None
    found, _ = embeddings_of("colour", "any", "raw", prepared.root, "first")
    assert len(found) == counting.seen == 3


def test_other_weights_or_another_framing_are_not_mixed_up(prepared, monkeypatch):
    counting = Counting(monkeypatch)
    embeddings_of("colour", "any", "raw", prepared.root, "first")
    model = off_the_shelf.RECOGNISERS["colour"]
    changed = OffTheShelf(model.weights, model.load, "closer")
    assert changed.key() != model.key()
    monkeypatch.setitem(off_the_shelf.RECOGNISERS, "colour", changed)
    embeddings_of("colour", "any", "raw", prepared.root, "first")
    assert counting.seen == 6


def test_an_unknown_protocol_is_told_the_known_ones(prepared, monkeypatch):
    Counting(monkeypatch)
    with pytest.raises(UsageError, match="first, second"):
        embeddings_of("colour", "any", "raw", prepared.root, "third")


def test_a_data_set_without_pairs_is_refused(prepared, monkeypatch):
    Counting(monkeypatch)
    records.write_table(prepared.listed_pairs, table([]), layout.PAIR_COLUMNS)
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
    for name in ("pairsDevTrain.txt", "pairsDevTest.txt"):  # or else they would be downloaded
        (tmp_path / name).write_text("1\ns1\t1\t2\ns1\t1\ts2\t2\n")
    named = f"lfw-deepfunneled:{tmp_path / 'lfw'}"
    found, pairs = embeddings_of("colour", named, str(tmp_path), tmp_path / "cache", "lfw-view2")
    assert sorted(found["sample_id"]) == ["lfw/s1/0001", "lfw/s1/0002", "lfw/s2/0002"]
    assert pairs["genuine"].tolist() == [True, False]
    embeddings_of("colour", named, str(tmp_path), tmp_path / "cache", "lfw-view2")
    assert counting.seen == 3


class Recording:
    """A control whose features are a face's mean colour; it keeps whom it was fitted to, model by model."""

    components = 5

    def __init__(self, monkeypatch):
        self.fitted = []
        monkeypatch.setitem(controls.LEARNERS, "recording", self)

    def features(self, images):
        return images.mean(axis=(1, 2)).astype(np.float32)

    def fit(self, features, people, name):
        self.fitted.append((features, list(people)))
        return Head(features.mean(axis=0), np.eye(3, dtype=np.float32), Calibration(len(self.fitted), 0.5))


@pytest.fixture
def folds(tmp_path, orl_images, monkeypatch):
    """Eight people, a list in two folds; elsewhere fold 0's pictures and a name much like one of its own."""
    names = [f"set/p{number // 2}/{number % 2}" for number in range(16)]
    people = [name[4:6] for name in names]
    planted = {"set/other/spelling": ("P0", 8), "set/other/copy": ("q0", 0), "set/other/nobody": (None, 9)}
    images = [*orl_images, *(255 - orl_images[place] if name != "set/other/copy" else orl_images[place]
                             for name, (_, place) in planted.items())]  # fmt: skip
    folder = make_store(
        tmp_path / "set",
        np.stack(images),
        [*names, *planted],
        [*people, *(each for each, _ in planted.values())],
    )
    pairs = [
        Pair("two", fold, f"set/p{first}/0", f"set/p{second}/1", first == second)
        for fold, (one, other) in enumerate([(0, 1), (2, 3)])
        for first, second in ((one, one), (other, other), (one, other), (other, one))
    ]
    records.write_table(folder.listed_pairs, table(pairs), layout.PAIR_COLUMNS)
    monkeypatch.setattr(
        embed_dataset, "_prepared", lambda *asked: (folder, embed_dataset._pairs(folder, asked[0], asked[4]))
    )
    return folder


def test_a_control_learns_from_nobody_and_no_picture_of_its_fold(folds, orl_images, monkeypatch):
    recording = Recording(monkeypatch)
    embeddings_of("recording", "any", "raw", folds.root)
    (first, people), (_, others) = recording.fitted
    assert sorted(set(people)) == ["P0", "p2", "p3", "p4", "p5", "p6", "p7"]  # P0 is another person
    assert {"p1", "p4", "p5", "p6", "p7"} <= set(others)
    assert not {"p2", "p3", None} & set(others)
    copied = orl_images[0].mean(axis=(0, 1))
    assert np.abs(first - copied).max(axis=1).min() > 1e-3


def test_each_fold_is_scored_by_its_own_model_and_calibration(folds, monkeypatch):
    recording = Recording(monkeypatch)
    found, pairs = embeddings_of("recording", "any", "raw", folds.root)
    vectors = dict(zip(found["sample_id"], found["embedding"], strict=True))
    for row in pairs.itertuples():
        one, other = vectors[row.first], vectors[row.second]
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert row.score == pytest.approx((row.fold + 1) * cosine + 0.5, abs=1e-5)
    assert len(recording.fitted) == 2


def test_a_pair_without_a_face_has_no_score(folds, monkeypatch):
    Recording(monkeypatch)
    pairs = records.read_table(folds.listed_pairs)
    pairs.loc[0, "second"] = "set/p0/lost"
    records.write_table(folds.listed_pairs, pairs, layout.PAIR_COLUMNS)
    photos = records.read_table(folds.photos)
    lost = photos[photos["sample_id"] == "set/p0/1"].assign(sample_id="set/p0/lost")
    records.write_table(folds.photos, pd.concat([photos, lost]), list(photos.columns))
    score = embeddings_of("recording", "any", "raw", folds.root)[1]["score"]
    assert score.isna().tolist() == [True, *[False] * 7]


def test_pairs_of_people_who_are_not_known_are_refused(folds, monkeypatch):
    Recording(monkeypatch)
    pairs = records.read_table(folds.listed_pairs)
    pairs.loc[0, "second"] = "set/other/nobody"
    records.write_table(folds.listed_pairs, pairs, layout.PAIR_COLUMNS)
    with pytest.raises(DataError, match="set/other/nobody, a photo of nobody known"):
        embeddings_of("recording", "any", "raw", folds.root)


def test_a_control_takes_one_list(prepared, monkeypatch):
    Recording(monkeypatch)
    with pytest.raises(UsageError, match="one list of pairs, of 2; name it with --protocol"):
        embeddings_of("recording", "any", "raw", prepared.root)


def test_fisherfaces_score_the_same_twice(folds):
    one, other = (embeddings_of("fisherfaces", "any", "raw", folds.root)[1] for _ in range(2))
    assert one.equals(other)
    assert one["score"].notna().all()
