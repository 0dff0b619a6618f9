"""Which protocols a set of embeddings gets, whether a run made them or they come in a file.

A list of pairs gets verification in folds and calibration. All faces of people who are known get verification
on every pair, BLUFR, identification and the errors by group. Few people, whose pairs are compared one by one,
get verification in folds of people and rank 1. What is measured on several parts, each embedded by a network
of its own, is measured on each by itself; the means are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core.errors import RefusedError
from facemae.evaluation import influence, metrics
from facemae.evaluation.pairs import Booleans, Comparisons, EveryPair, Integers, Weights, one_by_one
from facemae.evaluation.protocols import (
    all_pairs,
    calibration,
    fairness,
    identification,
    pair_list,
)
from facemae.evaluation.records import Measurement, refused

FPIR_TARGETS = (0.1, 0.01)

P = TypeVar("P")


@dataclass(frozen=True)
class EmbeddedFaces:
    """The faces (N) of known people (P), in the order of their sample_ids, embedded by one network a part.

    Attributes:
        table: A row per face: sample_id, person and enrolled; of a run also fold and part.
        vectors, identity: (N, D) embeddings, and (N,) whose face each is.
        people, group: (P,) names, and groups for the fairness of errors, "" where not known.
        weights: (R, P) how often each person is drawn in each resample.
    """

    table: pd.DataFrame
    vectors: NDArray[np.floating]
    people: NDArray[np.str_]
    identity: Integers
    weights: Weights
    group: NDArray[np.str_]

    @cached_property
    def pairs(self) -> EveryPair:
        """Return every two of the faces."""
        return EveryPair.of(self.vectors, self.identity)

    @property
    def enrolled(self) -> Booleans:
        """Mark the one photo of each person, (N,), that identification enrols."""
        return self.table["enrolled"].to_numpy(bool)

    def part(self, number: int) -> EmbeddedFaces:
        """Return the faces of one part, its people numbered from 0."""
        chosen = (self.table["part"] == number).to_numpy()
        kept, identity = np.unique(self.identity[chosen], return_inverse=True)
        return EmbeddedFaces(
            self.table[chosen].reset_index(drop=True),
            self.vectors[chosen],
            self.people[kept],
            identity,
            self.weights[:, kept],
            self.group[kept],
        )


def on_list(pairs: pd.DataFrame, weights: Weights, far_targets: Sequence[float]) -> list[Measurement]:
    """Measure a list of pairs, with resamples (R, P) of the people; errors as `pair_list.measure`.

    Columns: score (NaN where a face was not found), one and other (people counted from 0), genuine and fold.
    """
    listed = pair_list.comparisons(*(pairs[name] for name in ("score", "one", "other", "genuine")))
    return [
        *pair_list.measure(listed, pairs["fold"], far_targets),
        *calibration.measure(listed, pairs["fold"], weights),
    ]


def on_few_faces(faces: EmbeddedFaces, far_targets: Sequence[float]) -> tuple[Comparisons, list[Measurement]]:
    """Compare every two faces of few people one by one; a RefusedError where there are too few."""
    pairs = one_by_one(faces.vectors, faces.identity)
    fold = faces.table.groupby("person")["fold"].first().loc[list(faces.people)].to_numpy(int)
    return pairs, [
        *pair_list.measure_rates(pairs, far_targets),
        *or_refused("accuracy", "", lambda: [pair_list.fold_accuracy(metrics.split_by_person(pairs, fold))]),
        identification.rank1(faces.vectors, faces.identity, faces.enrolled, faces.weights),
    ]


def on_faces(faces: EmbeddedFaces, half: Booleans, far_targets: Sequence[float]) -> list[Measurement]:
    """Measure what needs all faces of one network, a part; what its people are too few for is refused.

    `half` (N,) marks which of the enrolled photos stay enrolled in the open set.
    """
    vectors, identity, weights = faces.vectors, faces.identity, faces.weights
    known, every = (vectors, identity), faces.pairs
    return [
        *or_refused("roc_auc", all_pairs.CONDITION, lambda: all_pairs.measure(every, weights, far_targets)),
        *or_refused("blufr_tar=0.001", "", lambda: identification.low_far(*known)),
        *or_refused("rank1", "", lambda: identification.closed_set(*known, faces.enrolled, weights)),
        *or_refused(
            "tpir_at_fpir=0.1", "", lambda: identification.open_set(*known, half, weights, FPIR_TARGETS)
        ),
        *or_refused("fdr", "", lambda: fairness.measure(every, faces.group, weights)),
    ]


def or_refused(name: str, condition: str, step: Callable[[], list[Measurement]]) -> list[Measurement]:
    """Measure, or say in the place of the value why the data do not support it."""
    try:
        return step()
    except RefusedError as error:
        return refused("verification", [name], 0, str(error).rstrip("."), condition)


def mean_over_parts(parts: Sequence[P], measure: Callable[[P], list[Measurement]]) -> list[Measurement]:
    """Measure each part by itself and return the means; what one part refuses is refused."""
    by_name: dict[tuple[str, str, float | None], list[Measurement]] = {}
    for part in parts:
        for each in measure(part):
            by_name.setdefault((each.name, each.condition, each.amount), []).append(each)
    return [_mean(found, len(parts)) for found in by_name.values()]


def _mean(found: list[Measurement], parts: int) -> Measurement:
    values = [each.value for each in found if each.value is not None]
    n = sum(each.n for each in found)
    if len(values) < parts:
        note = next((each.note for each in found if each.value is None), "not measured in every part")
        return replace(found[0], value=None, n=n, note=note, samples=None, influence=None)
    if parts == 1:
        return found[0]
    samples = [each.samples for each in found if each.samples is not None]
    mean = np.mean(samples, axis=0) if len(samples) == parts else None
    influences = [each.influence for each in found if each.influence is not None]
    of_pairs = influence.mean(influences) if len(influences) == parts else None
    notes = dict.fromkeys(each.note for each in found if each.note)
    note = "; ".join([*notes, f"mean of {parts} parts"])
    value = float(np.mean(values))
    return replace(found[0], value=value, n=n, note=note, samples=mean, influence=of_pairs)
