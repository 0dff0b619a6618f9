"""One threshold for everybody: how often it accepts impostors and rejects genuine pairs.

Pairs are those of a list, or every two faces. The latter are compared block by block, and only the impostor
scores stay in memory: of LFW's 13,233 faces 350 MB. Of every two faces, the genuine pairs of a person weigh 1
in sum, for the reason that `against_all` gives; the pairs of a list were chosen, and count singly. N faces or
pairs, P people, R resamples of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from facemae.evaluation import metrics
from facemae.evaluation.metrics import Comparisons, Floats, Integers

BLOCK = 256  # faces that are compared with all others at a time
DENSE_SHARE = 0.02  # of pairs of people from which a dense product is the faster one

Weights = NDArray[np.integer]
Scores = NDArray[np.floating]


class Pairs(Protocol):
    """Genuine and impostor pairs with the people on them."""

    @property
    def impostors(self) -> Scores:
        """Return the impostor pairs' scores, in any order."""

    @property
    def genuine_count(self) -> int:
        """Return the number of genuine pairs."""

    def false_matches(self, threshold: float, weights: Weights | None = None) -> Floats:
        """Return the false match rate (R,) at a threshold: the share of impostor pairs at or above it."""

    def false_non_matches(self, threshold: float, weights: Weights | None = None) -> Floats:
        """Return the false non-match rate (R,) at a threshold: how many genuine pairs lie below it."""


@dataclass(frozen=True)
class ListedPairs:
    """The pairs of a list."""

    pairs: Comparisons

    @cached_property
    def _genuine(self) -> Comparisons:
        return self.pairs.take(self.pairs.genuine)

    @cached_property
    def _impostor(self) -> Comparisons:
        return self.pairs.take(~self.pairs.genuine)

    @property
    def impostors(self) -> Scores:
        """Return the impostor pairs' scores."""
        return self._impostor.score

    @property
    def genuine_count(self) -> int:
        """Return the number of genuine pairs."""
        return len(self._genuine)

    def false_matches(self, threshold: float, weights: Weights | None = None) -> Floats:
        """Return the false match rate (R,) at a threshold."""
        return _share(self._impostor, self._impostor.score >= threshold, weights)

    def false_non_matches(self, threshold: float, weights: Weights | None = None) -> Floats:
        """Return the false non-match rate (R,) at a threshold."""
        return _share(self._genuine, self._genuine.score < threshold, weights)


@dataclass(frozen=True)
class EveryPair:
    """Every two of some faces.

    Attributes:
        unit: (N, D) float32 embeddings of length 1.
        identity: (N,) whose each is, counted from 0.
    """

    unit: NDArray[np.float32]
    identity: Integers

    @staticmethod
    def of(embeddings: NDArray[np.floating], identity: Integers) -> EveryPair:
        """Compare embeddings (N, D) of any length but zero by their cosines."""
        rows = np.asarray(embeddings, np.float64)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(rows).all() or not length.all():
            raise ValueError("an embedding is zero or not finite")
        return EveryPair((rows / length).astype(np.float32), np.asarray(identity, np.int64))

    @cached_property
    def _sizes(self) -> Integers:
        return np.bincount(self.identity).astype(np.int64)

    @property
    def genuine_count(self) -> int:
        """Return the number of genuine pairs."""
        return int((self._sizes * (self._sizes - 1) // 2).sum())

    @property
    def genuine_people(self) -> int:
        """Return the number of people with a genuine pair."""
        return int((self._sizes > 1).sum())

    @cached_property
    def impostors(self) -> Scores:
        """Return the impostor pairs' scores, float32."""
        count = len(self.unit) * (len(self.unit) - 1) // 2 - self.genuine_count
        found, done = np.empty(count, np.float32), 0
        for scores, first, second in self._blocks():
            part = scores[first != second]
            found[done : done + len(part)] = part
            done += len(part)
        return found

    @cached_property
    def _genuine(self) -> Comparisons:
        score, person = [np.empty(0)], [np.empty(0, np.int64)]
        for number in np.flatnonzero(self._sizes > 1):
            own = self.unit[self.identity == number]
            i, j = np.triu_indices(len(own), k=1)
            score.append(np.asarray((own @ own.T)[i, j], np.float64))
            person.append(np.full(len(i), number))
        whose = np.concatenate(person)
        return Comparisons(np.concatenate(score), whose, whose)

    def false_matches(self, threshold: float, weights: Weights | None = None) -> Floats:
        """Return the false match rate (R,) at a threshold."""
        rows = _rows(weights, len(self._sizes))
        people = len(self._sizes)
        scores, place = self._above(threshold)
        sides = np.divmod(place[scores >= threshold], people)
        matrix = scipy.sparse.coo_matrix((np.ones(len(sides[0])), sides), (people, people)).tocsr()
        own = rows * self._sizes
        everyone = (own.sum(axis=1) ** 2 - (own**2).sum(axis=1)) / 2
        return _ratio(_products(matrix, rows), everyone)

    def false_non_matches(self, threshold: float, weights: Weights | None = None) -> Floats:
        """Return the false non-match rate (R,) at a threshold: the mean over people with such pairs."""
        rows = _rows(weights, len(self._sizes))
        low = np.bincount(self._genuine.first[self._genuine.score < threshold], minlength=rows.shape[1])
        own = self._sizes * (self._sizes - 1) // 2
        return _ratio(rows @ (low / np.maximum(1, own)), rows @ (own > 0))

    def _above(self, threshold: float) -> tuple[NDArray[np.float32], Integers]:
        """Return the scores of the impostor pairs at or above a threshold, at least, and their people.

        These are first * P + second. They are kept for higher thresholds: of LFW at a rate of 0.1 100 MB.
        """
        kept = self._kept.get("floor")
        if kept is None or threshold < kept:
            people, found = len(self._sizes), []
            for scores, first, second in self._blocks():
                wrong = (scores >= threshold) & (first != second)
                found.append((scores[wrong], first[wrong] * people + second[wrong]))
            self._kept.update(floor=threshold, pairs=tuple(map(np.concatenate, zip(*found, strict=True))))
        scores, place = self._kept["pairs"]
        return scores, place

    @cached_property
    def _kept(self) -> dict[str, Any]:
        return {}

    def _blocks(self) -> Iterator[tuple[NDArray[np.float32], Integers, Integers]]:
        """Yield every pair once, some at a time: scores and people of both."""
        for start in range(0, len(self.unit), BLOCK):
            scores = self.unit[start : start + BLOCK] @ self.unit[start:].T
            own, others = self.identity[start : start + BLOCK], self.identity[start + BLOCK :]
            i, j = np.triu_indices(len(own), k=1)
            yield scores[i, j], own[i], own[j]
            yield scores[:, len(own) :].ravel(), np.repeat(own, len(others)), np.tile(others, len(own))


def threshold_at(impostors: Scores, fmr_target: float) -> float:
    """Return the lowest threshold that accepts at most a share of impostor scores (N,).

    It lies half way between the lowest score that is accepted and the highest that is not; where none may be
    accepted, just above the highest.

    Raises:
        ValueError: there are fewer than `metrics.impostors_needed(fmr_target)`.
    """
    if note := refusal(len(impostors), fmr_target):
        raise ValueError(note)
    allowed = int(round(fmr_target * len(impostors), 6))
    if allowed >= len(impostors):
        return -np.inf
    top = np.partition(impostors, len(impostors) - allowed - 1)[len(impostors) - allowed - 1 :]
    rejected, higher = top.min(), top[top > top.min()]
    if not len(higher):
        return float(np.nextafter(rejected, top.dtype.type(np.inf)))
    accepted = higher.min()
    middle = top.dtype.type((float(accepted) + float(rejected)) / 2)  # as precise as what it is compared with
    return float(middle if middle > rejected else accepted)


def rates(
    pairs: Pairs, threshold: float, weights: Weights
) -> tuple[tuple[float, Floats], tuple[float, Floats]]:
    """Return the false match and the false non-match rate at a threshold, each with its resamples (R,)."""
    rows = np.vstack([np.ones((1, weights.shape[1]), np.int64), weights])
    fmr, fnmr = pairs.false_matches(threshold, rows), pairs.false_non_matches(threshold, rows)
    return (float(fmr[0]), fmr[1:]), (float(fnmr[0]), fnmr[1:])


def refusal(impostors: int, fmr_target: float) -> str:
    """Return why so many impostor pairs cannot support a claim at a false match rate, or nothing."""
    needed = metrics.impostors_needed(fmr_target)
    if impostors >= needed:
        return ""
    return f"not enough impostors for this claim: it needs {needed} impostor pairs, and there are {impostors}"


def _share(pairs: Comparisons, chosen: NDArray[np.bool_], weights: Weights | None) -> Floats:
    """Return which share (R,) of the pairs is chosen."""
    rows = _rows(weights, int(max(pairs.first.max(initial=0), pairs.second.max(initial=0))) + 1)
    return _ratio(_weight(pairs.take(chosen), rows), _weight(pairs, rows))


def _weight(pairs: Comparisons, rows: Floats) -> Floats:
    """Return the weight of all pairs together, (R,): that of one person's own is w, of two people's w * v."""
    people = rows.shape[1]
    alone = pairs.first == pairs.second
    own = rows @ np.bincount(pairs.first[alone], minlength=people)
    ones, place = np.ones(int((~alone).sum())), (pairs.first[~alone], pairs.second[~alone])
    return np.asarray(own + _products(scipy.sparse.coo_matrix((ones, place), (people, people)).tocsr(), rows))


def _products(matrix: scipy.sparse.csr_matrix, rows: Floats) -> Floats:
    """Return w M w for each row w: the weight of pairs of people that M (P, P) counts."""
    dense = matrix.nnz > DENSE_SHARE * matrix.shape[0] ** 2
    right = matrix.toarray() if dense else matrix
    return np.asarray(np.einsum("rp,rp->r", np.asarray(rows @ right), rows))


def _rows(weights: Weights | None, people: int) -> Floats:
    if weights is None:
        return np.ones((1, people))
    rows = np.asarray(weights, np.float64)
    if rows.ndim != 2 or rows.shape[1] < people:
        raise ValueError(f"weights must be (resamples, {people} people), got shape {rows.shape}")
    return rows[:, :people]


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan))
