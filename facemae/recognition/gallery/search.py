"""Exact search: the templates of one model as a matrix in memory, and people scored by their best template.

Shapes: N templates, D numbers, Q queries. A score is the cosine similarity; templates and queries have
length one. Candidates are found in float32 and scored again in float64, row by row, so that a score does
not depend on how many templates or queries there are, nor on the database.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scored = list[tuple[int, float]]  # people's ids and scores, best first

_SPARE = 16  # people scored again beyond those asked for, where float32 cannot tell who is ahead
_CLOSE = 1e-5  # how far float32 may be off, generously, for a sum of products of two unit vectors
_QUERIES = 16  # scored in one product, to bound the memory: N x 16 scores
_BLOCK = 256  # templates compared with all others at a time
MOST_PAIRS = 1000  # of people who look alike; nobody reads more


def exact_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the scores (N,) of vectors (N, D) against one query (D,), each a sum in float64 of its own."""
    products = vectors.astype(np.float64) * query.astype(np.float64)
    scores: NDArray[np.float64] = np.clip(products.sum(axis=1), -1.0, 1.0)
    return scores


def best_people(owners: NDArray[np.int64], scores: NDArray[np.float64], top: int) -> Scored:
    """Return the `top` people by the best of their scores (N,); equal ones in the order of their ids."""
    people, places = np.unique(owners, return_inverse=True)
    best = np.full(len(people), -np.inf)
    np.maximum.at(best, places, scores)
    order = np.lexsort((people, -best))[:top]
    return [(int(people[each]), float(best[each])) for each in order]


def _room(count: int, dimension: int) -> NDArray[np.float32]:
    """Return room for more rows than so many, so that people enrolled one by one do not each move all rows.

    The system gives memory to what is written, not to what is reserved.
    """
    return np.empty((count + count // 8, dimension), np.float32)


class Matrix:
    """The templates of one model, kept in step with the database by `add` and `keep`.

    The rows have no order: what is dropped leaves its place to the last ones, so that neither a new person
    nor one who goes moves all the others.

    Attributes:
        last, newest: The highest id of a template that was ever added, 0 if none, and its checksum.
    """

    last, newest = 0, ""

    def __init__(self, dimension: int, expected: int = 0) -> None:
        """Make an empty matrix of `dimension` numbers a row, with room for `expected` rows."""
        self._vectors = _room(expected, dimension)
        self._ids = np.empty(0, np.int64)
        self._owners = np.empty(0, np.int64)
        self._people = self._places = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: NDArray[np.int64], owners: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add templates (N,) of people (N,) with their vectors (N, D)."""
        count, total = len(self), len(self) + len(ids)
        if total > len(self._vectors):
            grown = _room(total, self._vectors.shape[1])
            grown[:count] = self._vectors[:count]
            self._vectors = grown
        self._vectors[count:total] = vectors
        self._ids = np.concatenate([self._ids, ids])
        self._owners = np.concatenate([self._owners, owners])
        self.last = max(self.last, int(ids.max(initial=0)))

    def keep(self, ids: NDArray[np.int64], owners: NDArray[np.int64]) -> None:
        """Drop templates that are not among `ids` (N,), ascending, and take over who the others belong to."""
        kept = np.isin(self._ids, ids)
        count = int(kept.sum())
        holes, movers = np.flatnonzero(~kept[:count]), count + np.flatnonzero(kept[count:])
        self._vectors[holes] = self._vectors[movers]
        self._ids[holes] = self._ids[movers]
        self._ids = self._ids[:count].copy()
        self._owners = owners[np.searchsorted(ids, self._ids)]
        self._places = np.empty(0, np.int64)

    def best(self, queries: NDArray[np.float32], top: int) -> list[Scored]:
        """Return the `top` people for each query (Q, D), best first."""
        if not len(self):
            return [[] for _ in queries]
        # People numbered from 0 make the best score of each a matter of one pass.
        if len(self._places) != len(self):
            self._people, self._places = np.unique(self._owners, return_inverse=True)
        found = []
        rows = self._vectors[: len(self)]
        for start in range(0, len(queries), _QUERIES):
            chunk = queries[start : start + _QUERIES]
            scores = rows @ chunk[0][:, None] if len(chunk) == 1 else rows @ chunk.T  # (N, up to 16)
            found += [self._best(scores[:, each], query, top) for each, query in enumerate(chunk)]
        return found

    def _best(self, scores: NDArray[np.float32], query: NDArray[np.float32], top: int) -> Scored:
        best = np.full(len(self._people), -np.inf, np.float32)
        np.maximum.at(best, self._places, scores)
        wanted = min(top + _SPARE, len(best))
        chosen = np.zeros(len(best), bool)
        chosen[np.argpartition(best, -wanted)[-wanted:]] = True
        rows = np.flatnonzero(chosen[self._places] & (scores >= best[self._places] - _CLOSE))
        return best_people(self._owners[rows], exact_scores(self._vectors[rows], query), top)

    def pairs(self, threshold: float) -> list[tuple[int, int, float]]:
        """Return pairs of people of whom two templates score `threshold` or more, best first.

        Every template is compared with every other: seconds for 10,000, minutes for 100,000. The lower id
        stands first; at most `MOST_PAIRS` are returned.
        """
        found: dict[tuple[int, int], float] = {}
        count = len(self)
        for start in range(0, count, _BLOCK):
            block = self._vectors[start : min(start + _BLOCK, count)]
            rows, columns = np.nonzero(block @ self._vectors[start:count].T >= threshold - _CLOSE)
            rows, columns = rows + start, columns + start
            others = self._owners[rows] != self._owners[columns]
            self._note(rows[others], columns[others], threshold, found)
        order = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:MOST_PAIRS]
        return [(first, second, score) for (first, second), score in order]

    def _note(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64], threshold: float,
        found: dict[tuple[int, int], float],
    ) -> None:  # fmt: skip
        """Enter the pairs of templates that reach the threshold as pairs of people."""
        for first in range(0, len(rows), 4096):
            one, other = rows[first : first + 4096], columns[first : first + 4096]
            products = self._vectors[one].astype(np.float64) * self._vectors[other]
            scores = np.clip(products.sum(axis=1), -1.0, 1.0)
            people = np.sort(np.stack([self._owners[one], self._owners[other]]), axis=0)
            for low, high, score in zip(*people.tolist(), scores.tolist(), strict=True):
                if score >= threshold and score > found.get((low, high), -2.0):
                    found[low, high] = score
