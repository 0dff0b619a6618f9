"""Pairs of faces: how similar they are, whose they are, and what they weigh when other people are drawn.

A resample draws each of P people some number of times, `weights (R, P)`. A pair of person a's own images then
weighs w_a, and one of a and b weighs w_a * w_b: the copies of one person are never compared with each other,
as an image would meet itself, or one person would pass for two. `weights=None` is one row of ones.

`Comparisons` are pairs that are held one by one. `EveryPair` are those of all images with each other, which
are millions: they are compared block by block in float32, and only their scores are held, 4 bytes each.
N images or pairs, P people, R resamples, K thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core.errors import RefusedError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Scores = NDArray[np.floating]
Weights = NDArray[np.number]

MOST_PAIRS = 2**30  # 4 GB of scores
# Weights of pairs are held for about this many values at a time (2 MB), which stay in the processor's cache.
_CHUNK_VALUES = 2**18
_BLOCK_VALUES = 2**22  # scores of a block: 16 MB
_BLOCK_PEOPLE = 2**18  # people of a block times all people, whose accepted pairs are counted: 1 MB


@dataclass(frozen=True)
class Comparisons:
    """Pairs of images: their similarity and whose images the two are.

    A score of -inf is that of a pair with a face that was not found: no threshold accepts it. `same` says
    which pairs are genuine where that is known of the pairs rather than of the people. `weight` says how much
    a pair counts in every resample; None: all alike.
    """

    score: Floats
    first: Integers
    second: Integers
    same: Booleans | None = None
    weight: Floats | None = None

    @property
    def genuine(self) -> Booleans:
        """Mark the pairs that show one person twice."""
        return np.asarray(self.first == self.second) if self.same is None else self.same

    @property
    def impostors(self) -> Scores:
        """Return the impostor pairs' scores."""
        return self.score[~self.genuine]

    @property
    def genuine_count(self) -> int:
        """Return the number of genuine pairs."""
        return int(self.genuine.sum())

    @property
    def counted(self) -> Floats:
        """Return how much each pair counts."""
        return np.ones(len(self)) if self.weight is None else self.weight

    def __len__(self) -> int:
        return len(self.score)

    def take(self, chosen: Integers | Booleans) -> Comparisons:
        """Keep the chosen pairs, in the given order."""
        return Comparisons(**{name: each[chosen] for name, each in vars(self).items() if each is not None})

    def rows(self, weights: Weights | None) -> Floats:
        """Return the resamples as numbers that sums of products stay exact in."""
        return resamples(weights, int(max(self.first.max(initial=0), self.second.max(initial=0))) + 1)

    def weights(self, rows: Floats) -> Floats:
        """Return what each pair weighs in each resample, (R, N)."""
        weight = np.take(rows, self.first, axis=1)
        weight *= np.where(self.first == self.second, 1.0, np.take(rows, self.second, axis=1))
        if self.weight is not None:
            weight *= self.weight
        return weight

    def false_matches(self, thresholds: Sequence[float], weights: Weights | None = None) -> Floats:
        """Return the false match rates (K, R): the share of impostor pairs at or above each threshold."""
        impostor = self.take(~self.genuine)
        return impostor._shares([impostor.score >= each for each in thresholds], self.rows(weights))

    def false_non_matches(self, thresholds: Sequence[float], weights: Weights | None = None) -> Floats:
        """Return the false non-match rates (K, R): the share of genuine pairs below each threshold."""
        genuine = self.take(self.genuine)
        return genuine._shares([genuine.score < each for each in thresholds], self.rows(weights))

    def _shares(self, chosen: list[Booleans], rows: Floats) -> Floats:
        members = np.array([*chosen, np.ones(len(self), bool)], np.float64).T
        found = np.concatenate([self.weights(chunk) @ members for chunk in chunks(rows, len(self))]).T
        return ratio(found[:-1], found[-1])


def all_pairs(embeddings: NDArray[np.floating], identity: Integers) -> Comparisons:
    """Compare every two of embeddings (N, D), of people (N,) counted from 0, by cosine in float64."""
    unit = unit_rows(embeddings)
    i, j = np.triu_indices(len(unit), k=1)
    return Comparisons((unit @ unit.T)[i, j], identity[i], identity[j])


def one_by_one(embeddings: NDArray[np.floating], identity: Integers) -> Comparisons:
    """Return `all_pairs` in which people weigh alike: where they differ in photos, pairs have weights."""
    pairs = all_pairs(embeddings, identity)
    own = np.bincount(pairs.first[pairs.genuine])
    return pairs if len(set(own[own > 0].tolist())) < 2 else people_alike(pairs)


def people_alike(pairs: Comparisons) -> Comparisons:
    """Return pairs of which the genuine ones of a person weigh 1 in sum, and every impostor pair 1."""
    weight, genuine = np.ones(len(pairs)), pairs.genuine
    weight[genuine] = each_person_once(pairs.first[genuine])
    return replace(pairs, weight=weight)


@dataclass(frozen=True)
class SortedScores:
    """The cosines of every two images, rising: `genuine` (G,) with its `owner` (G,), and `impostor` (I,)."""

    genuine: Scores
    owner: Integers
    impostor: Scores

    @cached_property
    def rejected(self) -> Floats:
        """Return which share is rejected with the lowest 0, 1, ... G genuine scores, everyone weighing 1."""
        weight = np.cumsum(each_person_once(self.owner))
        return np.concatenate([[0.0], weight / weight[-1]])


@dataclass(frozen=True)
class EveryPair:
    """Every two of some images, which are in the order of their people; the pairs of a person weigh 1 in sum.

    Genuine pairs grow with the square of a person's photos, so counted singly they are a few people's: of
    LFW's 242,257 the 530 photos of one make 140,185. Impostor pairs count singly, as published rates do.

    Attributes:
        unit: (N, D) float32 embeddings of length 1.
        person: (N,) whose each is, rising.
        images: (P,) how many each person has.
    """

    unit: NDArray[np.float32]
    person: Integers
    images: Integers

    @staticmethod
    def of(embeddings: NDArray[np.floating], identity: Integers) -> EveryPair:
        """Return the pairs of embeddings (N, D) of people (N,) 0 to P - 1."""
        unit, order = unit_rows(embeddings), np.argsort(identity, kind="stable")
        return EveryPair(unit[order].astype(np.float32), identity[order], np.bincount(identity))

    def of_people(self, chosen: Booleans) -> EveryPair:
        """Return the pairs among the chosen people (P,), who are numbered from 0."""
        inside, number = chosen[self.person], np.cumsum(chosen) - 1
        return EveryPair(self.unit[inside], number[self.person[inside]], self.images[chosen])

    @property
    def own_pairs(self) -> Integers:
        """Return everyone's number of genuine pairs, (P,)."""
        return self.images * (self.images - 1) // 2

    @property
    def genuine_count(self) -> int:
        """Return the number of genuine pairs."""
        return int(self.own_pairs.sum())

    @property
    def impostor_count(self) -> int:
        """Return the number of impostor pairs."""
        return len(self.unit) * (len(self.unit) - 1) // 2 - self.genuine_count

    @property
    def genuine_people(self) -> int:
        """Return the number of people with a genuine pair."""
        return int((self.images > 1).sum())

    @property
    def impostors(self) -> Scores:
        """Return the impostor pairs' scores, rising, float32."""
        return self.scores.impostor

    @cached_property
    def scores(self) -> SortedScores:
        """Compare all pairs and return their scores; more than `MOST_PAIRS` are refused (RefusedError)."""
        images, pairs = len(self.unit), self.genuine_count + self.impostor_count
        if pairs > MOST_PAIRS:
            raise RefusedError(f"{images} images make {pairs} pairs, at most {MOST_PAIRS} are compared")
        own, others = np.empty(self.genuine_count, np.float32), np.empty(self.impostor_count, np.float32)
        ends = np.cumsum(self.images)
        own_at = others_at = 0
        for start, _, scores in self._blocks():
            for image, row in enumerate(scores, start):
                # Columns begin at image `start`; those up to the end of the person are genuine.
                end = ends[self.person[image]] - start
                mine, rest = row[image + 1 - start : end], row[end:]
                own[own_at : own_at + len(mine)] = mine
                others[others_at : others_at + len(rest)] = rest
                own_at, others_at = own_at + len(mine), others_at + len(rest)
        others.sort()
        order = np.argsort(own, kind="stable")
        owner = np.repeat(np.arange(len(self.images)), self.own_pairs)
        return SortedScores(own[order], owner[order], others)

    def _blocks(self) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Compare images start to stop - 1 with themselves and all later ones, (stop - start, N - start)."""
        images, people = len(self.unit), len(self.images)
        ends, most = np.cumsum(self.images), max(1, _BLOCK_PEOPLE // people)
        start = 0
        while start < images:
            last = min(int(self.person[start]) + most, people) - 1
            stop = min(int(ends[last]), start + max(1, _BLOCK_VALUES // images))
            yield start, stop, self.unit[start:stop] @ self.unit[start:].T
            start = stop

    def false_matches(self, thresholds: Sequence[float], weights: Weights | None = None) -> Floats:
        """Return the false match rates (K, R)."""
        rows = resamples(weights, len(self.images))
        return ratio(self.accepted_impostors(thresholds, rows), self.impostor_weight(rows))

    def false_non_matches(self, thresholds: Sequence[float], weights: Weights | None = None) -> Floats:
        """Return the false non-match rates (K, R): the mean over people with a genuine pair."""
        rows = resamples(weights, len(self.images))
        below = np.searchsorted(self.scores.genuine, np.asarray(thresholds, np.float32))
        low = [np.bincount(self.scores.owner[:count], minlength=len(self.images)) for count in below]
        shares = [rows @ (each / np.maximum(1, self.own_pairs)) for each in low]
        return ratio(np.array(shares), rows @ (self.own_pairs > 0))

    def impostor_weight(self, rows: Floats) -> Floats:
        """Return the weight of all impostor pairs, (R,)."""
        drawn = rows * self.images
        return np.asarray((drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)) / 2)

    def accepted_impostors(self, thresholds: Sequence[float] | Scores, rows: Floats) -> Floats:
        """Return the weight of the impostor pairs at or above each threshold, (K, R).

        Products of float32 are exact here while one person's pairs, with their weights, are fewer than 2**24.
        """
        by_person = np.ascontiguousarray(rows.T, dtype=np.float32)
        accepted = np.zeros((len(thresholds), len(rows)))
        for start, stop, scores in self._blocks():
            for row, end in enumerate(np.cumsum(self.images)[self.person[start:stop]]):
                scores[row, : end - start] = np.nan  # the person's own, and pairs that were counted before
            columns = np.flatnonzero(np.diff(self.person[start:], prepend=-1))  # where each person begins
            weight, block = by_person[self.person[start + columns]], columns[columns < stop - start]
            for number, threshold in enumerate(np.asarray(thresholds, np.float32)):
                by_column = np.add.reduceat(scores >= threshold, columns, axis=1, dtype=np.float32)
                met = np.add.reduceat(by_column, block, axis=0) @ weight
                accepted[number] += np.einsum("ar,ar->r", met, weight[: len(block)], dtype=np.float64)
        return accepted


Pairs = Comparisons | EveryPair

# --- what all of them check and share ---


def unit_rows(embeddings: NDArray[np.floating]) -> Floats:
    """Return the embeddings (N, D) with a length of 1; a ValueError says what is wrong with them."""
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"embeddings must be (images, features), got shape {rows.shape}")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(length).all():
        raise ValueError(f"embedding {int(np.argmin(np.isfinite(length)))} is not finite")
    if not length.all():
        raise ValueError(f"embedding {int(np.argmin(length))} is zero and has no direction")
    return np.asarray(rows / length)


def pair_rows(pairs: pd.DataFrame, sample_ids: Sequence[str] | pd.Series[str]) -> Integers:
    """Return the rows (2, N) of both photos of pairs (columns first, second) in a list, -1 without one."""
    place = pd.Index(sample_ids)
    return np.stack([place.get_indexer(pd.Index(pairs[side])) for side in ("first", "second")])


def cosines(unit: Floats, rows: Integers) -> Floats:
    """Return the cosines (N,) of pairs of rows (2, N) of unit vectors; NaN where a row is negative."""
    found = np.full(rows.shape[1], np.nan)
    there = (rows >= 0).all(axis=0)
    found[there] = np.einsum("nd,nd->n", unit[rows[0, there]], unit[rows[1, there]])
    return found


def resamples(weights: Weights | None, people: int) -> Floats:
    """Return resamples (R, P) as float64, in which sums of products stay exact; None is everyone once."""
    return np.ones((1, people)) if weights is None else np.asarray(weights, np.float64)


def with_everyone(weights: Weights) -> Floats:
    """Return resamples (1 + R, P) as float64, of which the first is everyone once."""
    return np.vstack([np.ones((1, weights.shape[1])), weights])


def each_person_once(person: Integers) -> Floats:
    """Return weights (N,) of pairs or images by whose they are, those of a person 1 in sum."""
    return np.asarray(1 / np.bincount(person)[person])


def chunks(rows: Floats, pairs: int) -> Iterator[Floats]:
    """Cut resamples (R, P) so that the weights of so many pairs stay in the processor's cache."""
    size = max(1, _CHUNK_VALUES // max(1, pairs))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def ratio(part: Floats, whole: Floats) -> Floats:
    """Return the quotient, NaN where there is nothing to divide."""
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole)
