"""A map of the embeddings: the evaluation faces of a run in a plane.

Shapes: B faces, M dimensions of an embedding.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from facemae.compute.seeding import generator
from facemae.core import layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results

Floats = NDArray[np.float64]

PCA, TSNE, UMAP = "PCA", "t-SNE", "UMAP"
METHODS = (PCA, TSNE, UMAP)
MOST_FACES = 2000  # t-SNE of more takes minutes, and nobody could tell the points apart
LEAST_FACES = 5
PERPLEXITY, NEIGHBOURS = 30, 15  # the usual ones of t-SNE and UMAP, where there are as many faces


class EmbeddingMap(NamedTuple):
    """Evaluation faces in a plane, and what a reader has to know of the map, in sentences.

    The table has the columns sample_id, person, x and y, sorted by person; no unit.
    """

    table: pd.DataFrame
    note: str


def methods() -> list[str]:
    """Return the methods that are installed: UMAP comes with `make extras`."""
    return [name for name in METHODS if name != UMAP or importlib.util.find_spec("umap")]


def embedding_map(paths: Results, run: str, seed: int, method: str, most: int = MOST_FACES) -> EmbeddingMap:
    """Return the evaluation people's embeddings by a run or control, laid out in a plane; always the same.

    Embeddings have length 1 first, so that Euclidean distances order as cosines do. Of more than `most` faces
    whole people are drawn, by a seed. Of several parts it is the first: each has a network of its own.

    Methods are METHODS; t-SNE: van der Maaten and Hinton, JMLR 2008; UMAP: McInnes et al., 2018.

    Raises:
        UsageError: there is no such method, or it is not installed.
        DataError: there are too few faces.
        FileNotFoundError: there are no such embeddings.
    """
    if method not in METHODS:
        raise UsageError(f"There is no map {method!r}; known are {', '.join(METHODS)}.")
    if method not in methods():
        raise UsageError("UMAP is not installed; make extras adds it, or choose t-SNE.")
    found = records.read_table(
        paths.stage(run, seed, "finetune") / layout.EMBEDDINGS, layout.EMBEDDING_COLUMNS
    )
    table, notes = _chosen(found, most)
    if len(table) < LEAST_FACES:
        raise DataError(f"There are {len(table)} faces, and a map takes {LEAST_FACES}; evaluate more people.")
    vectors = np.stack(table["embedding"].to_list()).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places, note = _laid_out(vectors, method)
    columns = table[["sample_id", "person"]].astype(str).reset_index(drop=True)
    return EmbeddingMap(columns.assign(x=places[:, 0], y=places[:, 1]), " ".join([note, *notes]))


def _chosen(found: pd.DataFrame, most: int) -> tuple[pd.DataFrame, list[str]]:
    """Return the faces to show, of whole people, and sentences on those that are left out."""
    parts, notes = found["part"].nunique(), []
    table = found[found["part"] == found["part"].min()].sort_values(["person", "sample_id"])
    if parts > 1:
        notes.append(f"Of {parts} parts the first is shown: each has a network of its own.")
    if len(table) > most:
        people = table["person"].unique()
        order = people[torch.randperm(len(people), generator=generator("embedding map")).numpy()]
        counts = table["person"].value_counts()[order].cumsum()
        kept = table[table["person"].isin(counts.index[counts <= most])]
        notes.append(f"{len(kept):,} of {len(table):,} faces are shown, of people drawn at random.")
        table = kept
    return table, notes


def _laid_out(vectors: Floats, method: str) -> tuple[Floats, str]:
    """Return places (B, 2) of vectors (B, M), and how to read them."""
    if method == PCA:
        from sklearn import decomposition

        model = decomposition.PCA(2, svd_solver="full").fit(vectors)
        share = float(model.explained_variance_ratio_.sum())
        return model.transform(vectors), (
            f"The two directions in which the embeddings vary most; they hold {share:.0%} of the variance, "
            "so faces that lie together here may be far apart in the others."
        )
    if method == TSNE:
        from sklearn import manifold

        perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
        places = manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    else:
        import umap

        neighbours = min(NEIGHBOURS, len(vectors) - 1)
        model = umap.UMAP(n_neighbors=neighbours, init="pca", random_state=0, n_jobs=1)
        places = model.fit_transform(vectors)
    return np.asarray(places, np.float64), _ONLY_NEIGHBOURS


_ONLY_NEIGHBOURS = (
    "Only who is next to whom has a meaning: distances between clusters and their sizes have none, and "
    "another seed lays them out differently."
)
