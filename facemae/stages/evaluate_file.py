"""The protocols on anybody's embeddings: on a list of pairs, or on all faces of people who are named.

What a model was trained on nobody can see in its embeddings; only for our own, people it was trained on are
refused. N photos, P people, R resamples of the people.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.progress import say
from facemae.data.faces import pairs as drawn_pairs
from facemae.evaluation.embedding_file import (
    Embeddings,
    Photos,
    embed_photos,
    from_table,
    read_embeddings,
    read_pairs,
)
from facemae.evaluation.metrics import Measurement
from facemae.evaluation.protocols import (
    all_pairs,
    calibration,
    fairness,
    identification,
    operating_point,
    pair_list,
)
from facemae.evaluation.statistics import identity_weights
from facemae.stages.evaluate import entry

SEED = 0  # of resamples, folds, drawn pairs and the enrolled half
LEAST_PAIRS = 5  # of a kind
MOST_RESAMPLES = 100_000  # as in a configuration
FPIR_TARGETS = (0.1, 0.01)
PROTOCOLS = {"view1": "lfw-view1-test", "view2": "lfw-view2"}
CARD = "threshold_card.csv"


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        far_targets: False accept rates at which the true accept rate is wanted.
        resamples: Bootstrap resamples of the people.
        level: Of the intervals.
    """

    far_targets: tuple[float, ...] = (0.1, 0.01, 0.001)
    resamples: int = 1000
    level: float = 0.95

    def check(self) -> None:
        """Stop unless these settings can be used.

        Raises:
            UsageError: they cannot.
        """
        if wrong := [far for far in self.far_targets if not 0 < far < 1]:
            raise UsageError(f"--far {wrong[0]:g} is no rate between 0 and 1.")
        if not 0.5 < self.level < 1:
            raise UsageError(f"--level {self.level:g} is not between 0.5 and 1.")
        needed = int(np.ceil(round(2 / (1 - self.level), 6)))
        if self.resamples < needed:
            raise UsageError(
                f"--resamples {self.resamples} are too few for --level {self.level:g}; use {needed} or more."
            )
        if self.resamples > MOST_RESAMPLES:
            raise UsageError(f"--resamples {self.resamples} are more than {MOST_RESAMPLES}; use fewer.")


@dataclass(frozen=True)
class Report:
    """What was measured.

    Attributes:
        measured: The values, with the resamples behind their intervals.
        card: Thresholds by wanted false match rate (`calibration.threshold_card`).
        people, photos: How many people were named and how many photos evaluated.
        notes: Sentences that a reader has to know.
    """

    measured: list[Measurement]
    card: pd.DataFrame
    people: int
    photos: int
    notes: list[str]


def evaluate(embeddings: Embeddings, pairs: pd.DataFrame | None, settings: Settings) -> Report:
    """Measure embeddings on a list of pairs, or without one on all faces of the people who are named.

    Args:
        embeddings: Of any model.
        pairs: Columns first, second, genuine and fold, or None.
        settings: How to measure.

    Raises:
        UsageError: the settings cannot be used, or there is neither a list nor a name.
        DataError: there are too few pairs or people, or pairs of one kind alone.
        IntegrityError: a pair names a photo that is not there, or a person was trained on.
    """
    settings.check()
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
    columns = (score, one, other, pairs["genuine"].to_numpy(bool))
    fold = pairs["fold"].to_numpy(int)
    measured = [
        *pair_list.measure(*columns, fold, settings.far_targets),
        *calibration.measure(*columns, fold, weights),
    ]
    card = calibration.threshold_card(
        operating_point.ListedPairs(pair_list.comparisons(*columns)), weights, settings.level
    )
    photos = pd.concat([pairs["first"], pairs["second"]]).nunique()
    return Report(measured, card, people, photos, notes + more)


def _scores(embeddings: Embeddings, pairs: pd.DataFrame) -> tuple[NDArray[np.float64], list[str]]:
    """Return the score of each pair, NaN where a photo has no face, and what there is to say of them.

    It is the cosine, unless the pairs have scores since several models share the list.
    """
    place = pd.Index(embeddings.sample_ids)
    rows = np.stack([place.get_indexer(pd.Index(pairs[side])) for side in ("first", "second")])
    for side, found in zip(("first", "second"), rows, strict=True):
        lost = pairs.loc[found < 0, side]
        lost = lost[~lost.isin(list(embeddings.without_face))]
        if len(lost):
            raise IntegrityError(
                f"{lost.nunique()} photos of the list are not in {embeddings.source}, {lost.iloc[0]} for "
                "example; embed them, or list those without a face as such (docs/evaluating.md)."
            )
    there = (rows >= 0).all(axis=0)
    unit = embeddings.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    score = np.full(len(pairs), np.nan)
    score[there] = np.einsum("nd,nd->n", unit[rows[0, there]], unit[rows[1, there]])
    notes = []
    if "score" in pairs:
        score = pairs["score"].to_numpy(np.float64)
        notes = [
            "Each fold has a model of its own, fitted to other people; a score is its log odds of one person."
        ]
    key = pd.Series(np.sort(pairs[["first", "second"]].to_numpy(str), axis=1).tolist()).map(tuple)
    twice = int(key.duplicated().sum())
    return score, notes + ([f"Pairs listed more than once: {twice}."] if twice else [])


def _people(
    embeddings: Embeddings, pairs: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, list[str]]:
    """Return the number of the person on either side of each pair (N,), how many are named, and notes.

    Who is not named counts as somebody else on each photo, but for a photo that a genuine pair shows with a
    person who is.
    """
    known = {**embeddings.without_face, **dict(zip(embeddings.sample_ids, embeddings.people, strict=True))}
    for row in pairs[pairs["genuine"]].itertuples():
        sides = (str(row.first), str(row.second))
        for side, partner in (sides, sides[::-1]):
            known[side] = known.get(side) or known.get(partner)
    photos = pd.unique(pd.concat([pairs["first"], pairs["second"]]))
    named = {str(known[photo]) for photo in photos if known.get(photo)}
    _check_unseen(named, embeddings)
    number: dict[tuple[str, str], int] = {}
    of_photo = {
        photo: number.setdefault(
            ("person", str(known[photo])) if known.get(photo) else ("photo", photo), len(number)
        )
        for photo in photos
    }
    one, other = (pairs[side].map(of_photo).to_numpy(np.int64) for side in ("first", "second"))
    notes = []
    if unnamed := sum(not known.get(photo) for photo in photos):
        notes.append(
            f"{unnamed} of {len(photos)} photos name nobody: the resamples behind the intervals draw photos "
            "in the place of people."
        )
    both = pairs["first"].map(known).notna() & pairs["second"].map(known).notna()
    wrong = int((both & ((one == other) != pairs["genuine"])).sum())
    if wrong:
        notes.append(f"Pairs of other people than the list says, which is believed: {wrong}.")
    return one, other, len(named), notes


# --- people who are named ---


@dataclass(frozen=True)
class _Faces:
    """The faces of people who are named, sorted by sample_id: (N, D), (N,) names and numbers, (P,) people."""

    vectors: NDArray[np.floating]
    sample_ids: NDArray[np.str_]
    identity: NDArray[np.int64]
    people: NDArray[np.str_]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Return how many faces each person has."""
        return np.bincount(self.identity).astype(np.int64)

    def first_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the first face of each of the chosen people (P,)."""
        marks = np.zeros(len(self.identity), bool)
        marks[np.unique(self.identity, return_index=True)[1]] = True
        return np.asarray(marks & chosen[self.identity])


def _on_people(embeddings: Embeddings, settings: Settings) -> Report:
    faces, notes = _named(embeddings)
    weights = identity_weights(len(faces.people), settings.resamples, SEED)
    several = faces.sizes > 1
    half = np.random.default_rng(SEED).permuted(np.arange(len(faces.people)) % 2 == 0) & several
    vectors, identity = faces.vectors, faces.identity
    everyone = np.ones(len(faces.people), bool)
    steps: dict[str, Callable[[], list[Measurement]]] = {
        "accuracy": lambda: _on_drawn(faces, weights, settings),
        "roc_auc": lambda: all_pairs.against_all(vectors, identity, weights, settings.far_targets),
        "rank1": lambda: identification.closed_set(vectors, identity, faces.first_of(everyone), weights),
        "tpir_at_fpir": lambda: identification.open_set(
            vectors, identity, faces.first_of(half), weights, FPIR_TARGETS
        ),
        "fdr": lambda: _fairness(embeddings, faces, weights),
    }
    measured = [each for name, step in steps.items() for each in _or_refused(name, step)]
    card = calibration.threshold_card(
        operating_point.EveryPair.of(vectors, identity), weights, settings.level
    )
    return Report(measured, card, len(faces.people), len(vectors), notes)


def _named(embeddings: Embeddings) -> tuple[_Faces, list[str]]:
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
    faces = _Faces(embeddings.vectors[rows][order], ids[order], identity[order].astype(np.int64), people)
    notes = []
    if unnamed := len(embeddings.people) - len(rows):
        notes.append(f"Photos that name nobody and are left out: {unnamed}.")
    if embeddings.without_face:
        notes.append(f"Photos without a face, left out: {len(embeddings.without_face)}.")
    return faces, notes


def _or_refused(name: str, step: Callable[[], list[Measurement]]) -> list[Measurement]:
    """Measure, or say in the place of the value why not."""
    try:
        return step()
    except (ValueError, DataError) as error:
        return [Measurement("verification", name, None, 0, str(error).rstrip("."), None)]


def _on_drawn(faces: _Faces, weights: NDArray[np.int64], settings: Settings) -> list[Measurement]:
    """Measure accuracy and calibration on pairs drawn in folds, no person in two of them."""
    fold = _folds(faces.sizes)[faces.identity]
    table = pd.DataFrame(
        {"sample_id": faces.sample_ids, "person": faces.people[faces.identity], "fold": fold}
    )
    pairs = drawn_pairs.generate(table, seed=SEED)
    place = pd.Index(faces.sample_ids)
    rows = [place.get_indexer(pd.Index(pairs[side])) for side in ("first", "second")]
    unit = operating_point.EveryPair.of(faces.vectors, faces.identity).unit.astype(np.float64)
    score = np.einsum("nd,nd->n", unit[rows[0]], unit[rows[1]])
    columns = (score, faces.identity[rows[0]], faces.identity[rows[1]], pairs["genuine"], pairs["fold"])
    found = pair_list.measure(*columns, ())
    measured = [each for each in found if each.name == "accuracy"] + calibration.measure(*columns, weights)
    how = "on pairs drawn from the people"
    return [replace(each, note=f"{how}; {each.note}" if each.note else how) for each in measured]


def _folds(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold (P,) of each person, given their numbers of photos: each has a pair of either kind.

    Raises:
        ValueError: there are too few people for two folds.
    """
    several = int((sizes > 1).sum())
    folds = min(pair_list.FOLDS, several, len(sizes) // 2)
    if folds < 2:
        raise ValueError(
            f"two folds take 4 people, 2 of them on several photos; there are {len(sizes)} and {several}"
        )
    order = np.random.default_rng(SEED).permutation(len(sizes))
    order = order[np.argsort(sizes[order] < 2, kind="stable")]  # people on several photos first
    fold = np.empty(len(sizes), np.int64)
    fold[order] = np.arange(len(sizes)) % folds
    return fold


def _fairness(embeddings: Embeddings, faces: _Faces, weights: NDArray[np.int64]) -> list[Measurement]:
    group = [embeddings.groups.get(person, "") for person in faces.people]
    return fairness.measure(faces.vectors, faces.identity, np.array(group), weights)


# --- what was asked for ---


@dataclass(frozen=True)
class Asked:
    """What to evaluate: a file of embeddings, photos and a model of ours, or a recogniser and a data set.

    Attributes:
        embeddings: A file of embeddings.
        photos, model: Photos, and the `finetune` stage to embed them with.
        recogniser, data: An off-the-shelf recogniser or a control that learns, and a data set.
        pairs: A list of pairs.
        protocol: Which of the lists that come with the photos or the data set.
        cache: Folder that keeps aligned faces and embeddings for the next time.
    """

    embeddings: Path | None = None
    photos: Photos | None = None
    model: Path | None = None
    recogniser: str | None = None
    data: str | None = None
    pairs: Path | None = None
    protocol: str | None = None
    raw_dir: str = "data/raw"
    cache: Path = Path("data/evaluated")
    workers: int = 1

    def check(self) -> None:
        """Stop unless the options go together.

        Raises:
            UsageError: they do not.
        """
        if sum(each is not None for each in (self.embeddings, self.photos, self.recogniser)) != 1:
            raise UsageError("Give one of --embeddings, --images with --model, and --recogniser with --data.")
        for option, there, needed, partner in (
            ("--images", self.photos, self.model, "--model"),
            ("--model", self.model, self.photos, "--images"),
            ("--recogniser", self.recogniser, self.data, "--data"),
            ("--data", self.data, self.recogniser, "--recogniser"),
        ):
            if there is not None and needed is None:
                raise UsageError(f"{option} goes with {partner}; give both.")
        if self.pairs and self.protocol:
            raise UsageError("--pairs and --protocol both choose a list of pairs; give one of them.")
        if self.recogniser and self.pairs:
            raise UsageError("--recogniser takes a list of the data set's own; name it with --protocol.")
        if self.embeddings and self.protocol:
            raise UsageError("--embeddings have no lists of their own; name one with --pairs.")


def inputs(asked: Asked) -> tuple[Embeddings, pd.DataFrame | None]:
    """Return the embeddings that were asked for, made if need be, and the list of pairs, if there is one.

    Raises:
        UsageError: the options do not go together, or name what is not there.
        DataError, IntegrityError: what they name cannot be used.
    """
    embeddings, pairs = _inputs(asked)
    if pairs is not None:
        pairs = drawn_pairs.in_spelling_of(pairs, [*embeddings.sample_ids, *embeddings.without_face])
    return embeddings, pairs


def _inputs(asked: Asked) -> tuple[Embeddings, pd.DataFrame | None]:
    asked.check()
    pairs = read_pairs(asked.pairs) if asked.pairs else None
    if asked.embeddings:
        return read_embeddings(asked.embeddings), pairs
    if asked.photos and asked.model:
        place = records.digest(str(Path(asked.photos.images).absolute()))
        path = asked.cache / place / layout.EMBEDDINGS
        lists = embed_photos(asked.photos, asked.model, path)
        if pairs is None and (len(lists) or asked.protocol):
            pairs = of_protocol(lists, asked.protocol)
        return read_embeddings(path), pairs
    found, listed_there = of_recogniser(
        str(asked.recogniser), str(asked.data), asked.protocol, asked.raw_dir, asked.cache, asked.workers
    )
    return found, listed_there if pairs is None else pairs


def of_recogniser(
    name: str, data: str, protocol: str | None, raw_dir: str, cache: Path, workers: int = 1
) -> tuple[Embeddings, pd.DataFrame]:
    """Return the embeddings that a recogniser makes of a data set, and its list of pairs.

    Args:
        name: "dlib" or "inception", or a control that learns: "pca", "fisherfaces", "hog_lda".
        data: A data set, such as "lfw".
        protocol: A list of pairs; "view1" and "view2" are LFW's; None: the only one there is.
        raw_dir: Folder of the data sets.
        cache: Folder that keeps aligned faces and embeddings for the next time.
        workers: Processes that align.

    Raises:
        UsageError: there is no such recogniser, data set or list.
    """
    from facemae.stages import embed_dataset

    wanted = PROTOCOLS.get(protocol, protocol) if protocol else None
    table, pairs = embed_dataset.embeddings_of(name, data, raw_dir, cache, wanted, workers)
    chosen = of_protocol(pairs, wanted)
    photos = set(chosen["first"]) | set(chosen["second"])
    lost = dict.fromkeys(photos - set(table["sample_id"]))
    return from_table(table, f"{name} on {data}", {"without_face": lost}), chosen


def of_protocol(pairs: pd.DataFrame, protocol: str | None) -> pd.DataFrame:
    """Return the pairs of one list; without a name there has to be one list alone.

    Raises:
        UsageError: there is no such list, or several to choose from.
    """
    names = pd.unique(pairs["protocol"]).tolist()
    wanted = PROTOCOLS.get(protocol, protocol) if protocol else (names[0] if len(names) == 1 else None)
    if wanted not in names:
        there = ", ".join(names) or "none"
        raise UsageError(f"--protocol {protocol or '(not given)'}: the lists of pairs are {there}.")
    return pairs[pairs["protocol"] == wanted]


# --- what is shown and written ---


def entries(report: Report, level: float) -> list[dict[str, Any]]:
    """Return the measurements as entries of `metrics.json`, with their intervals."""
    return [entry(each, level) for each in report.measured]


def as_json(report: Report, level: float) -> dict[str, Any]:
    """Return the report as plain values; accuracy is null, with a reason, where it could not be measured."""
    found = entries(report, level)
    accuracy = next(each for each in found if each["name"] == "accuracy")
    card = report.card.astype(object).where(report.card.notna(), None)
    return {
        "accuracy": accuracy["value"],
        "ci_low": accuracy["ci_low"],
        "ci_high": accuracy["ci_high"],
        "level": level,
        "reason": accuracy["note"] if accuracy["value"] is None else "",
        "people": report.people,
        "photos": report.photos,
        "notes": report.notes,
        "metrics": found,
        "threshold_card": card.to_dict("records"),
    }


def as_text(report: Report, level: float) -> str:
    """Return the report as a table, the threshold card and the notes."""
    lines = [f"{'metric':<32} {'value':>8}  {f'{level:.0%} interval':<18} {'n':>9}  note"]
    for row in entries(report, level):
        name = records.column(row["name"], row["condition"], row["amount"])
        if row["protocol"] == "verification" and row["condition"]:
            name = f"{row['name']} ({row['condition']})"
        value = "-" if row["value"] is None else f"{row['value']:.4f}"
        interval = "" if row["ci_low"] is None else f"{row['ci_low']:.4f} to {row['ci_high']:.4f}"
        lines.append(f"{name:<32} {value:>8}  {interval:<18} {row['n']:>9}  {row['note']}".rstrip())
    head = f"{report.photos} photos, {report.people} people named"
    return "\n".join([head, "", *lines, "", calibration.card_text(report.card), *report.notes])


def write(report: Report, level: float, out: Path) -> None:
    """Write `metrics.json` and the threshold card as CSV into a folder."""
    content = {"schema_version": records.SCHEMA_VERSION, "versions": records.versions()}
    files.write_json(out / layout.METRICS, content | as_json(report, level))
    files.atomic_write(out / CARD, report.card.to_csv(index=False).encode())
    say("evaluate", f"{out / layout.METRICS}, {out / CARD}")


def run(asked: Asked, settings: Settings, out: Path | None, ends_with_json: bool) -> None:
    """Evaluate what was asked for, and print and write the report."""
    settings.check()
    report = evaluate(*inputs(asked), settings)
    print(as_text(report, settings.level))
    if out:
        write(report, settings.level, out)
    if ends_with_json:
        print(json.dumps(as_json(report, settings.level), allow_nan=False))
