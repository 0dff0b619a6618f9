"""Embeddings of any model, measured on a list of pairs or on all faces of people who are named.

What a model was trained on nobody can see in its embeddings; only for our own, people it was trained on are
refused. N photos, P people, R resamples of the people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import records
from facemae.core.errors import DataError, IntegrityError, RefusedError, UsageError
from facemae.data.faces import pairs as drawn_pairs
from facemae.evaluation import battery
from facemae.evaluation.battery import EmbeddedFaces
from facemae.evaluation.embedding_file import Embeddings
from facemae.evaluation.pairs import cosines, pair_rows, unit_rows
from facemae.evaluation.protocols import calibration, pair_list
from facemae.evaluation.records import Measurement, entry
from facemae.evaluation.statistics import identity_weights, samples_needed

SEED = 0  # of resamples, folds, drawn pairs and the enrolled half
LEAST_PAIRS = 5  # of a kind
MOST_RESAMPLES = 100_000  # as in a configuration
SIDES = ["first", "second"]
DRAWN = ("accuracy", "brier", "ece")  # what is measured on drawn pairs


@dataclass(frozen=True)
class Settings:
    """At which false accept rates true accept rates are wanted, and how intervals are made."""

    far_targets: tuple[float, ...] = (0.1, 0.01, 0.001)
    resamples: int = 1000
    level: float = 0.95

    def __post_init__(self) -> None:
        """Stop with a UsageError unless these settings can be used."""
        if wrong := [far for far in self.far_targets if not 0 < far < 1]:
            raise UsageError(f"--far {wrong[0]:g} is no rate between 0 and 1.")
        if not 0.5 < self.level < 1:
            raise UsageError(f"--level {self.level:g} is not between 0.5 and 1.")
        if self.resamples < (needed := samples_needed(self.level)):
            raise UsageError(
                f"--resamples {self.resamples} are too few for --level {self.level:g}; use {needed} or more."
            )
        if self.resamples > MOST_RESAMPLES:
            raise UsageError(f"--resamples {self.resamples} are more than {MOST_RESAMPLES}; use fewer.")


@dataclass(frozen=True)
class Report:
    """What was measured on how many people who are named, and photos."""

    measured: list[Measurement]
    card: pd.DataFrame
    """Thresholds by wanted false match rate (`calibration.threshold_card`)."""
    people: int
    photos: int
    notes: list[str]
    """Sentences that a reader has to know."""


def evaluate(embeddings: Embeddings, pairs: pd.DataFrame | None, settings: Settings) -> Report:
    """Measure embeddings on a list of pairs, or without one on all faces of the people who are named.

    A list has the columns first, second, genuine and fold, and where several models share it score.

    Raises:
        UsageError: there is neither a list nor a name.
        DataError: there are too few pairs or people, or pairs of one kind alone.
        IntegrityError: a pair names a photo that is not there, or a person was trained on.
    """
    return _on_people(embeddings, settings) if pairs is None else _on_list(embeddings, pairs, settings)


def _check_unseen(people: set[str], embeddings: Embeddings) -> None:
    if known := sorted(people & embeddings.trained_on):
        raise IntegrityError(
            f"{len(known)} of {len(people)} people, {known[0]} for example, are among those that the model "
            "was trained on; leave them out, or rename their folders if they are other people."
        )


# --- a list of pairs ---


def _on_list(embeddings: Embeddings, pairs: pd.DataFrame, settings: Settings) -> Report:
    counts = {"genuine": int(pairs["genuine"].sum()), "impostor": int((~pairs["genuine"]).sum())}
    if min(counts.values()) < LEAST_PAIRS:
        raise DataError(
            f"The list has {counts['genuine']} genuine and {counts['impostor']} impostor pairs, and "
            f"{LEAST_PAIRS} of each are needed; list more."
        )
    pairs = pairs.reset_index(drop=True)
    score, notes = _scores(embeddings, pairs)
    one, other, people, more = _people(embeddings, pairs)
    weights = identity_weights(int(max(one.max(), other.max())) + 1, settings.resamples, SEED)
    pairs = pairs.assign(score=score, one=one, other=other)
    measured = battery.on_list(pairs, weights, settings.far_targets)
    compared = pair_list.comparisons(score, one, other, pairs["genuine"])
    card = calibration.threshold_card(compared, weights, settings.level)
    photos = pd.concat([pairs[side] for side in SIDES]).nunique()
    return Report(measured, card, people, photos, notes + more)


def _scores(embeddings: Embeddings, pairs: pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """Return the score of each pair, NaN where a photo has no face, and what there is to say of them.

    It is the cosine, unless the pairs have scores since several models share the list.
    """
    rows = pair_rows(pairs, embeddings.sample_ids)
    for side, found in zip(SIDES, rows, strict=True):
        lost = pairs.loc[found < 0, side]
        lost = lost[~lost.isin(list(embeddings.without_face))]
        if len(lost):
            raise IntegrityError(
                f"{lost.nunique()} photos of the list are not in {embeddings.source}, {lost.iloc[0]} for "
                "example; embed them, or list those without a face as such (docs/evaluating.md)."
            )
    score = cosines(unit_rows(embeddings.vectors), rows)
    notes = []
    if "score" in pairs:
        score = pairs["score"].to_numpy(np.float64)
        notes = [
            "Each fold has a model of its own, fitted to other people; a score is its log odds of one person."
        ]
    twice = int(pd.DataFrame(np.sort(pairs[SIDES].to_numpy(str), axis=1)).duplicated().sum())
    return score, notes + ([f"Pairs listed more than once: {twice}."] if twice else [])


def _people(
    embeddings: Embeddings, pairs: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, list[str]]:
    """Return the number of the person on either side of each pair (N,), how many are named, and notes.

    Who is not named counts as somebody else on each photo, but for a photo that a genuine pair shows with a
    person who is.
    """
    known = {**embeddings.without_face, **dict(zip(embeddings.sample_ids, embeddings.people, strict=True))}
    for first, second in pairs.loc[pairs["genuine"], SIDES].itertuples(index=False):
        for side, partner in ((first, second), (second, first)):
            known[side] = known.get(side) or known.get(partner)
    person = {photo: known.get(photo) for photo in pd.unique(pd.concat([pairs[side] for side in SIDES]))}
    named = {each for each in person.values() if each}
    _check_unseen(named, embeddings)
    owners = [("person", name) if name else ("photo", photo) for photo, name in person.items()]
    number = dict(zip(person, pd.factorize(pd.Series(owners))[0], strict=True))
    one, other = (pairs[side].map(number).to_numpy(np.int64) for side in SIDES)
    notes = []
    if unnamed := sum(not each for each in person.values()):
        notes.append(
            f"{unnamed} of {len(person)} photos name nobody: the resamples behind the intervals draw photos "
            "in the place of people."
        )
    both = pairs["first"].map(person).notna() & pairs["second"].map(person).notna()
    if wrong := int((both & ((one == other) != pairs["genuine"])).sum()):
        notes.append(f"Pairs of other people than the list says, which is believed: {wrong}.")
    return one, other, len(named), notes


def _on_people(embeddings: Embeddings, settings: Settings) -> Report:
    faces, notes = _named(embeddings, settings.resamples)
    sizes = np.bincount(faces.identity)
    half = np.random.default_rng(SEED).permuted(np.arange(len(faces.people)) % 2 == 0) & (sizes > 1)
    measured = battery.or_refused("accuracy", "", lambda: _on_drawn(faces))
    measured += battery.on_faces(faces, faces.enrolled & half[faces.identity], settings.far_targets)
    card = calibration.threshold_card(faces.pairs, faces.weights, settings.level)
    return Report(measured, card, len(faces.people), len(faces.table), notes)


def _named(embeddings: Embeddings, resamples: int) -> tuple[EmbeddedFaces, list[str]]:
    """Return the faces of the people who are named, sorted by sample_id; the first of each is enrolled."""
    rows = [n for n, person in enumerate(embeddings.people) if person is not None]
    names = np.array([str(embeddings.people[n]) for n in rows])
    if not rows:
        raise UsageError(
            f"{embeddings.source} names no person; add a column person, or give a list of pairs with --pairs."
        )
    _check_unseen(set(names.tolist()), embeddings)
    people, identity = np.unique(names, return_inverse=True)
    several = int((np.bincount(identity) > 1).sum())
    if len(people) < 2 or not several:
        raise DataError(
            f"{embeddings.source} shows {len(people)} people, {several} of them on several photos, and 2 "
            "people and a second photo of one are needed; add some."
        )
    ids = np.array(embeddings.sample_ids)[rows]
    order = np.argsort(ids, kind="stable")
    identity = identity[order].astype(np.int64)
    table = pd.DataFrame({"sample_id": ids[order], "person": people[identity]})
    table["enrolled"] = ~table["person"].duplicated()
    weights = identity_weights(len(people), resamples, SEED)
    group = np.array([embeddings.groups.get(person, "") for person in people])
    faces = EmbeddedFaces(table, embeddings.vectors[rows][order], people, identity, weights, group)
    notes = []
    if unnamed := len(embeddings.people) - len(rows):
        notes.append(f"Photos that name nobody and are left out: {unnamed}.")
    if embeddings.without_face:
        notes.append(f"Photos without a face, left out: {len(embeddings.without_face)}.")
    return faces, notes


def _on_drawn(faces: EmbeddedFaces) -> list[Measurement]:
    """Measure accuracy and calibration on pairs drawn in folds, no person in two of them."""
    table = faces.table.assign(fold=_folds(np.bincount(faces.identity))[faces.identity])
    pairs = drawn_pairs.generate(table, seed=SEED)
    rows = pair_rows(pairs, faces.table["sample_id"])
    one, other = faces.identity[rows]
    pairs = pairs.assign(score=cosines(unit_rows(faces.vectors), rows), one=one, other=other)
    found = battery.on_list(pairs, faces.weights, ())
    how = "on pairs drawn from the people"
    kept = [each for each in found if each.name in DRAWN]
    return [replace(each, note=f"{how}; {each.note}".removesuffix("; ")) for each in kept]


def _folds(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold (P,) of each person, given their numbers of photos: each has a pair of either kind."""
    several = int((sizes > 1).sum())
    folds = min(pair_list.FOLDS, several, len(sizes) // 2)
    if folds < 2:
        raise RefusedError(
            f"two folds take 4 people, 2 of them on several photos; there are {len(sizes)} and {several}"
        )
    order = np.random.default_rng(SEED).permutation(len(sizes))
    order = order[np.argsort(sizes[order] < 2, kind="stable")]  # people on several photos first
    fold = np.empty(len(sizes), np.int64)
    fold[order] = np.arange(len(sizes)) % folds
    return fold


# --- the report ---


def as_json(report: Report, level: float) -> dict[str, Any]:
    """Return the report as plain values; accuracy is null, with a reason, where it could not be measured."""
    found = [entry(each, level) for each in report.measured]
    accuracy = next(each for each in found if each["name"] == "accuracy")
    card = report.card.astype(object).where(report.card.notna(), None)
    return {
        "accuracy": accuracy["value"], "ci_low": accuracy["ci_low"], "ci_high": accuracy["ci_high"],
        "level": level, "reason": accuracy["note"] if accuracy["value"] is None else "",
        "people": report.people, "photos": report.photos, "notes": report.notes,
        "metrics": found, "threshold_card": card.to_dict("records"),
    }  # fmt: skip


def as_text(report: Report, level: float) -> str:
    """Return the report as a table, the threshold card and the notes."""
    lines = [f"{'metric':<32} {'value':>8}  {f'{level:.0%} interval':<18} {'n':>9}  note"]
    for row in (entry(each, level) for each in report.measured):
        name = records.column(row["name"], row["condition"], row["amount"])
        if row["protocol"] == "verification" and row["condition"]:
            name = f"{row['name']} ({row['condition']})"
        value = "-" if row["value"] is None else f"{row['value']:.4f}"
        interval = "" if row["ci_low"] is None else f"{row['ci_low']:.4f} to {row['ci_high']:.4f}"
        lines.append(f"{name:<32} {value:>8}  {interval:<18} {row['n']:>9}  {row['note']}".rstrip())
    head = f"{report.photos} photos, {report.people} people named"
    return "\n".join([head, "", *lines, "", calibration.card_text(report.card), *report.notes])
