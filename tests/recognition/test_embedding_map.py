"""Maps of embeddings: the same each time, of whole people, and refused in a sentence."""

from __future__ import annotations

import builtins
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from facemae.core import layout, records
from facemae.core.errors import DataError, FaceMAEError, UsageError
from facemae.core.layout import Results
from facemae.recognition.embedding_map import PCA, TSNE, UMAP, embedding_map, methods


def with_embeddings(folder: Path, people: int, shots: int, *, parts: int = 1) -> Results:
    """Write embeddings in which people differ along axes of their own."""
    random = np.random.default_rng(3)
    person = np.repeat(np.arange(people), shots)
    vectors = 4 * np.eye(max(people, 6))[person] + 0.3 * random.normal(size=(len(person), max(people, 6)))
    table = pd.DataFrame(
        {
            "sample_id": [f"{who}/{shot}" for shot, who in enumerate(person)],
            "person": [f"p{who}" for who in person],
            "part": person % parts,
            "embedding": list(vectors.astype(np.float32)),
        }
    )
    paths = Results(folder)
    path = paths.stage("random", 0, "finetune") / layout.EMBEDDINGS
    records.write_table(path, table, layout.EMBEDDING_COLUMNS)
    return paths


@pytest.mark.parametrize("method", [PCA, TSNE])
def test_a_map_is_the_same_each_time_and_tells_people_apart(method: str, tmp_path: Path) -> None:
    paths = with_embeddings(tmp_path, people=3, shots=8)
    found = embedding_map(paths, "random", 0, method)
    again = embedding_map(paths, "random", 0, method)
    pd.testing.assert_frame_equal(found.table, again.table)
    assert found.table["person"].tolist() == sorted(found.table["person"])
    places = found.table[["x", "y"]].to_numpy()
    distance = np.linalg.norm(places[:, None] - places, axis=2)
    same = found.table["person"].to_numpy()[:, None] == found.table["person"].to_numpy()
    assert distance[same].mean() < 0.5 * distance[~same].mean()


def test_the_directions_are_those_of_the_singular_values(tmp_path: Path) -> None:
    paths = with_embeddings(tmp_path, people=4, shots=5)
    found = embedding_map(paths, "random", 0, PCA)
    table = records.read_table(paths.stage("random", 0, "finetune") / layout.EMBEDDINGS)
    vectors = np.stack(table.sort_values(["person", "sample_id"])["embedding"].to_list()).astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    _, values, axes = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    places = (vectors - vectors.mean(0)) @ axes[:2].T
    np.testing.assert_allclose(np.abs(found.table[["x", "y"]]), np.abs(places), atol=1e-6)
    assert f"{(values[:2] ** 2).sum() / (values**2).sum():.0%} of the variance" in found.note


def test_of_many_faces_whole_people_are_shown(tmp_path: Path) -> None:
    paths = with_embeddings(tmp_path, people=9, shots=4)
    found = embedding_map(paths, "random", 0, PCA, most=22)
    assert found.table["person"].value_counts().tolist() == [4] * 5
    assert found.table["person"].unique().tolist() != [f"p{number}" for number in range(5)]
    assert "20 of 36 faces are shown" in found.note


def test_of_several_parts_the_first_is_shown(tmp_path: Path) -> None:
    found = embedding_map(with_embeddings(tmp_path, 4, 3, parts=2), "random", 0, PCA)
    assert set(found.table["person"]) == {"p0", "p2"}
    assert "Of 2 parts the first is shown" in found.note


def test_maps_that_cannot_be_made_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = with_embeddings(tmp_path, people=2, shots=2)
    with pytest.raises(DataError, match="There are 4 faces, and a map takes 5"):
        embedding_map(paths, "random", 0, PCA)
    with pytest.raises(UsageError, match="known are PCA, t-SNE, UMAP"):
        embedding_map(paths, "random", 0, "MDS")
    with pytest.raises(FileNotFoundError):
        embedding_map(paths, "random", 1, PCA)
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else known(name))
    assert methods() == [PCA, TSNE]
    with pytest.raises(UsageError, match=r"make extras adds it"):
        embedding_map(paths, "random", 0, UMAP)


def test_without_umap_nothing_imports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, real = with_embeddings(tmp_path, people=3, shots=4), builtins.__import__

    def refuse(name: str, *others: object, **more: object) -> object:
        assert not name.startswith("umap")
        return real(name, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    for method in (PCA, TSNE):
        assert len(embedding_map(paths, "random", 0, method).table) == 12


@pytest.mark.slow
def test_umap_lays_out_neighbours(tmp_path: Path) -> None:
    pytest.importorskip("umap")
    paths = with_embeddings(tmp_path, people=3, shots=10)
    found = embedding_map(paths, "random", 0, UMAP).table
    places = found[["x", "y"]].to_numpy()
    distance = np.linalg.norm(places[:, None] - places, axis=2) + 1e9 * np.eye(len(places))
    assert (found["person"].to_numpy()[distance.argmin(1)] == found["person"]).all()


def test_damaged_embeddings_are_one_sentence(tmp_path: Path) -> None:
    paths = with_embeddings(tmp_path, people=3, shots=4)
    (paths.stage("random", 0, "finetune") / layout.EMBEDDINGS).write_bytes(b"PAR1")
    with pytest.raises(FaceMAEError, match="damaged"):
        embedding_map(paths, "random", 0, PCA)
