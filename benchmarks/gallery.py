"""Search in a gallery: `python -m benchmarks.gallery --json`, with the peers that docs/performance.md names.

Random templates, several for each person. How long does the search for the five people most like one face
take in ours, and for the five nearest rows in sqlite-vec and LanceDB, both without an index, so that all are
exact? The three take turns in one process, query by query, and the best of the
answers of each is held against the others'.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import cores, finish, versions
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.progress import say, track
from facemae.recognition.gallery.schema import Template
from facemae.recognition.gallery.store import Gallery

MODEL, TOP = "benchmark", 5
Search = Callable[[np.ndarray], list[int]]
"""From one embedding (D,) to the people of the best answers, the best first."""


def embeddings(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Return unit vectors (N, D), float32."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ours(folder: Path, vectors: np.ndarray, each: int) -> Search:
    """Return the search of our gallery, with `each` templates for a person."""
    gallery = Gallery(folder / "faces.sqlite")
    later = datetime.date.today() + datetime.timedelta(days=30)
    starts = range(0, len(vectors), each)
    for start in track(starts, len(starts), "gallery", "people"):
        templates = [Template(vector, MODEL) for vector in vectors[start : start + each]]
        gallery.enrol(f"p{start // each}", templates, consent=True, retain_until=later)

    def search(query: np.ndarray) -> list[int]:
        (found,) = gallery.search(query[None], MODEL, TOP)
        return [int(candidate.person.name[1:]) for candidate in found]

    return search


def sqlite_vec(folder: Path, vectors: np.ndarray, each: int) -> Search:
    """Return the search of sqlite-vec, over cosine distance, without an index."""
    try:
        import pysqlite3
        import sqlite_vec as extension
    except ImportError as error:
        raise UsageError(
            f"{error.name} is missing; docs/performance.md says how to add the peers."
        ) from error
    connection = pysqlite3.connect(str(folder / "vec.sqlite"))
    connection.enable_load_extension(True)
    extension.load(connection)
    connection.execute(
        f"CREATE VIRTUAL TABLE faces USING vec0(v float[{vectors.shape[1]}] distance_metric=cosine)"
    )
    with connection:
        rows = ((number, vector.tobytes()) for number, vector in enumerate(vectors))
        connection.executemany("INSERT INTO faces(rowid, v) VALUES (?, ?)", rows)

    def search(query: np.ndarray) -> list[int]:
        command = "SELECT rowid FROM faces WHERE v MATCH ? AND k = ? ORDER BY distance"
        return [row[0] // each for row in connection.execute(command, (query.tobytes(), TOP))]

    return search


def lance(folder: Path, vectors: np.ndarray, each: int) -> Search:
    """Return the search of LanceDB, over cosine distance, without an index."""
    try:
        import lancedb
        import pyarrow as pa
    except ImportError as error:
        raise UsageError(
            f"{error.name} is missing; docs/performance.md says how to add the peers."
        ) from error
    flat = pa.array(vectors.ravel())
    columns = {
        "id": pa.array(range(len(vectors))),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    table = lancedb.connect(str(folder / "lance")).create_table("faces", pa.table(columns))

    def search(query: np.ndarray) -> list[int]:
        found = table.search(query).distance_type("cosine").select(["id"]).limit(TOP).to_arrow()
        return [number // each for number in found["id"].to_pylist()]

    return search


CONTESTANTS: dict[str, Callable[[Path, np.ndarray, int], Search]] = {
    "ours": ours, "sqlite-vec": sqlite_vec, "lancedb": lance,
}  # fmt: skip


def measure(count: int, dimensions: int, each: int, rounds: int) -> dict[str, Any]:
    """Return milliseconds per query, and the others' over ours.

    Raises:
        IntegrityError: the answers differ.
        UsageError: a contestant is not installed.
    """
    vectors, queries = embeddings(count, dimensions, 0), embeddings(rounds, dimensions, 1)
    with tempfile.TemporaryDirectory() as place:
        folder, searches = Path(place), {}
        for name, make in CONTESTANTS.items():
            started = time.perf_counter()
            searches[name] = make(folder, vectors, each)
            searches[name](queries[0])  # whoever loads something at the first query has done so
            say("gallery", f"{name}: {count} templates in {time.perf_counter() - started:.1f} s")
        seconds: dict[str, list[float]] = {name: [] for name in searches}
        for query in queries:
            best = set()
            for name, search in searches.items():
                started = time.perf_counter()
                found = search(query)
                seconds[name].append(time.perf_counter() - started)
                best.add(found[0])
            if len(best) > 1:
                raise IntegrityError(f"The contestants disagree on who is most like a face: {sorted(best)}.")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "templates": count,
        "dimensions": dimensions,
        "cores": cores(),
        **{f"{name}_ms": round(1e3 * value, 2) for name, value in middle.items()},
        **{
            f"{name}_over_ours": round(value / middle["ours"], 1)
            for name, value in middle.items()
            if name != "ours"
        },
        "ours_slowest_ms": round(1e3 * max(seconds["ours"]), 2),
        "versions": versions("numpy", "sqlite-vec", "lancedb"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--templates", type=int, default=100_000, help="rows in each store")
    parser.add_argument("--dimensions", type=int, default=512, help="numbers of an embedding")
    parser.add_argument("--each", type=int, default=100, help="templates of a person")
    parser.add_argument("--rounds", type=int, default=20, help="queries")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    finish(lambda: measure(options.templates, options.dimensions, options.each, options.rounds), options.json)


if __name__ == "__main__":
    main()
