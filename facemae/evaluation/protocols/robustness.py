"""What is left of recognition when the second photo of a pair is covered or relit.

The threshold stays that of unchanged photos: a system in use cannot choose another one for a person who wears
a mask. Shapes: N pairs, U different photos, P people, R resamples, K folds, H side of an image, D features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from facemae import config
from facemae.compute.seeding import Noise
from facemae.core.errors import DataError, IntegrityError, RefusedError, UsageError
from facemae.core.progress import Progress
from facemae.evaluation import metrics
from facemae.evaluation.baselines.controls import EmbedByPart
from facemae.evaluation.corruptions.lighting import relight
from facemae.evaluation.corruptions.occlusion import occlude
from facemae.evaluation.pairs import Comparisons, Floats, Integers, with_everyone
from facemae.evaluation.protocols import pair_list
from facemae.evaluation.records import Measurement
from facemae.evaluation.statistics import percentile_interval

NONE = "none"  # the condition of unchanged photos
CHANCE = 0.5
# A drop is a share of what unchanged photos reach above chance; of less than this it is a share of noise.
LEAST_ABOVE_CHANCE = 0.05
CHUNK_BYTES = 2**26  # of changed images at a time

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Trial:
    """Pairs of photos, of which the second is changed.

    Attributes:
        images: (U, H, H, 3) uint8.
        first, second: (N,) places in `images` of the photos that stay as they are, and that are changed.
        part: (N,) whose model compares them.
        first_person, second_person: (N,) people counted from 0.
        genuine: (N,) whether both show one person.
        fold: (N,) of each pair, of one part alone.
        weights: (R, P) resamples of all evaluation people.
        seed: Of the changes.
        names: (N, 2) the photos' names.
    """

    images: Images
    first: Integers
    second: Integers
    part: Integers
    first_person: Integers
    second_person: Integers
    genuine: NDArray[np.bool_]
    fold: Integers
    weights: NDArray[np.integer]
    seed: int
    names: list[list[str]]

    def compared(self, score: ArrayLike) -> Comparisons:
        """Return the pairs with their scores (N,), NaN where a photo has no embedding."""
        return pair_list.comparisons(score, self.first_person, self.second_person, self.genuine)

    @property
    def parts(self) -> dict[int, Integers]:
        """Return the pairs of each part."""
        return {part: np.flatnonzero(self.part == part) for part in np.unique(self.part).tolist()}

    def splits(self, pairs: Comparisons) -> metrics.Splits:
        """Return for each fold, rising, the pairs of its part's other folds and its own."""
        parts = self.parts.values()
        return [split for own in parts for split in metrics.split_by_pair(pairs.take(own), self.fold[own])]


def choose_pairs(pairs: pd.DataFrame, faces: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Return at most `most` pairs of a list, as many genuine as impostor ones, evenly over folds and people.

    Pairs that lack a face, or whose faces are evaluated by two models, are left out; a list in a single fold
    is cut into five. The choice depends on the pairs (PAIR_COLUMNS), the faces (sample_id, person and part)
    and the seed alone. Returns fold, first, second, genuine, first_person, second_person and part, ordered by
    the first three.

    Raises:
        UsageError: `most` leaves a fold without a pair of either kind.
        DataError: a fold has no pair of one kind.
    """
    table = _with_people(pairs, faces)
    if table.empty:
        raise DataError(
            "Robustness needs pairs whose faces are both there, there are none; check split.pairs and the "
            "data section."
        )
    table = table.assign(fold=_folds_within_parts(table))
    folds = table["fold"].nunique()
    quota = most // (2 * folds)
    if not quota:
        raise UsageError(
            f"robustness.pairs: {most} pairs leave {folds} folds none of either kind; "
            f"set it to at least {2 * folds}."
        )
    chosen = []
    for fold, part in table.groupby("fold"):
        kinds = [part[part["genuine"]], part[~part["genuine"]]]
        count = min(quota, *map(len, kinds))
        if not count:
            raise DataError(
                f"Robustness needs genuine and impostor pairs in each fold, and fold {fold} has "
                f"{len(kinds[0])} and {len(kinds[1])} whose faces are both there; lower split.folds."
            )
        chosen += [_evenly(kind, count, seed) for kind in kinds]
    return pd.concat(chosen).sort_values(["fold", "first", "second"], ignore_index=True)


def _with_people(pairs: pd.DataFrame, faces: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs whose two faces have one model, with their people."""
    table, known = pairs, faces[["sample_id", "person", "part"]]
    for side in ("first", "second"):
        names = {"sample_id": side, "person": f"{side}_person", "part": f"{side}_part"}
        table = table.merge(known.rename(columns=names), on=side, validate="many_to_one")
    table = table[table["first_part"] == table["second_part"]]
    if (table["genuine"] != (table["first_person"] == table["second_person"])).any():
        raise IntegrityError(
            "The pairs and the split disagree on who is the same person; prepare the data again."
        )
    table = table.rename(columns={"first_part": "part"}).drop(columns=["second_part", "protocol"])
    return table.sort_values(["part", "fold", "first", "second"], ignore_index=True)


def _folds_within_parts(table: pd.DataFrame) -> pd.Series[int]:
    """Return folds, none shared by two parts, so that each threshold is of one network's scores."""
    parts = [part for _, part in table.groupby("part")]
    try:
        folds = [pair_list.pair_folds(each["fold"], each["genuine"].to_numpy(bool)) for each in parts]
    except RefusedError as error:
        raise DataError(f"The pairs to test robustness on cannot be used: {error}.") from error
    return table.assign(fold=np.concatenate(folds)).groupby(["part", "fold"]).ngroup()


def _evenly(pairs: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Return `count` pairs in random order, such that nobody is in many before the others are in as many."""
    left = pairs.sample(frac=1, random_state=np.random.default_rng(seed))
    used: Counter[str] = Counter()
    chosen: list[int] = []
    most = 1
    while len(chosen) < count:
        passed = []
        for place, one, other in zip(left.index, left["first_person"], left["second_person"], strict=True):
            if len(chosen) < count and max(used[one], used[other]) < most:
                used.update({one, other})
                chosen.append(place)
            else:
                passed.append(place)
        left = left.loc[passed]
        most += 1
    return pairs.loc[chosen]


# --- changed photos ---


@dataclass(frozen=True)
class Family:
    """A family of changes: each kind of it in each amount."""

    protocol: str
    short: str
    """What its two values of all conditions are called after."""
    kinds: Sequence[str]
    amounts: Sequence[float]
    change: Callable[[Images, str, float, Noise], Images]
    """From images (B, H, H, 3), a kind, an amount and fresh noise of B samples to changed images."""


def families_of(settings: config.Robustness) -> list[Family]:
    """Return the families of changes that a configuration names."""
    families = [
        Family("occlusion", "occlusion", settings.occlusions, sorted(settings.areas), _covered),
        Family("lighting", "light", settings.lights, sorted(settings.strengths), relight),
    ]
    return [each for each in families if each.kinds and each.amounts]


def _covered(images: Images, kind: str, area: float, noise: Noise) -> Images:
    return occlude(images, kind, area, noise)[0]


def measure(
    trial: Trial, families: Iterable[Family], recognise: EmbedByPart, level: float, label: str
) -> list[Measurement]:
    """Measure the accuracy under each change, its mean over all changes of a family, and what is lost."""
    enrolled, clean = enrol(trial, recognise)
    thresholds = choose_thresholds(trial, clean)
    measured: list[Measurement] = []
    for family in families:
        scores = {(NONE, 0.0): clean} | changed_scores(trial, family, enrolled, recognise, label)
        found = {condition: accuracy(trial, thresholds, score) for condition, score in scores.items()}
        unchanged, *conditions = [
            replace(each, protocol=family.protocol, condition=kind, amount=amount)
            for (kind, amount), each in found.items()
        ]
        measured += [unchanged, *conditions, *summarise(family, unchanged, conditions, level)]
    return measured


def enrol(trial: Trial, recognise: EmbedByPart) -> tuple[dict[int, Floats], Floats]:
    """Return each part's unit vectors of its pairs' first photos, and all unchanged pairs' cosines, (N,).

    An IntegrityError: an embedding is zero or not finite.
    """
    vectors, clean = {}, np.empty(len(trial.first))
    for part, pairs in trial.parts.items():
        shown = np.concatenate([trial.first[pairs], trial.second[pairs]])
        used, where = np.unique(shown, return_inverse=True)
        unit = directions(recognise(trial.images[used], part))
        if not np.isfinite(unit).all():
            raise IntegrityError(
                "An unchanged face has an embedding that is zero or not finite; run the stages before again."
            )
        vectors[part], second = np.split(unit[where], 2)
        clean[pairs] = (vectors[part] * second).sum(axis=1)
    return vectors, clean


def changed_scores(
    trial: Trial, family: Family, enrolled: dict[int, Floats], recognise: EmbedByPart, label: str
) -> dict[tuple[str, float], Floats]:
    """Return the cosines (N,) of each kind and amount; NaN where the changed photo has no embedding."""
    amounts = list(family.amounts)
    scores = {(kind, amount): np.empty(len(trial.first)) for amount in amounts for kind in family.kinds}
    progress = Progress(label, len(trial.first) * len(scores), f"faces of {family.protocol}")
    size = max(1, CHUNK_BYTES // (math.prod(trial.images.shape[1:]) * len(amounts)))
    starts = [(part, n) for part, pairs in trial.parts.items() for n in range(0, len(pairs), size)]
    done = 0
    for part, start in starts:
        some = slice(start, start + size)
        pairs, own = trial.parts[part][some], enrolled[part][some]
        images, places = trial.images[trial.second[pairs]], torch.from_numpy(pairs)
        for kind in family.kinds:
            noise = (Noise(places, trial.seed, family.protocol, kind) for _ in amounts)
            changed = [family.change(images, kind, *each) for each in zip(amounts, noise, strict=True)]
            vectors = recognise(np.concatenate(changed), part)
            unit = directions(vectors).reshape(len(amounts), len(pairs), -1)
            for amount, cosines in zip(amounts, (unit * own).sum(axis=2), strict=True):
                scores[kind, amount][pairs] = cosines
            done += len(vectors)
            progress.update(done)
    return scores


def directions(vectors: NDArray[np.floating]) -> Floats:
    """Return vectors (N, D) at length 1, NaN where there is no direction."""
    rows = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(length) & (length > 0)
    return np.where(usable, rows, np.nan) / np.where(usable, length, 1)


# --- what is measured ---


def choose_thresholds(trial: Trial, clean: Floats) -> Floats:
    """Choose each fold's threshold, (1 + R, K), on unchanged scores (N,), so that no change moves it.

    It follows from the other folds of its part; the first row is that of everyone once.
    """
    return metrics.best_thresholds(trial.splits(trial.compared(clean)), with_everyone(trial.weights))


def accuracy(trial: Trial, thresholds: Floats, scores: ArrayLike) -> Measurement:
    """Measure the mean over folds of (TAR + 1 - FAR) / 2, which is the accuracy on half genuine pairs."""
    pairs = trial.compared(scores)
    rows = with_everyone(trial.weights)
    values = metrics.mean_of_defined(metrics.balanced_accuracies(trial.splits(pairs), thresholds, rows))
    own = thresholds[0]
    accepted = metrics.accepts(pairs, own[np.searchsorted(np.unique(trial.fold), trial.fold)])
    tar, far = accepted[trial.genuine].mean(), accepted[~trial.genuine].mean()
    lost = int(np.isneginf(pairs.score).sum())
    note = f"TAR {tar:.3f}, FAR {far:.3f} at thresholds {own.min():.3f} to {own.max():.3f}"
    note += f"; {lost} faces without an embedding, rejected" if lost else ""
    return Measurement.of("", "accuracy", values, len(pairs), note)


def summarise(
    family: Family, unchanged: Measurement, conditions: list[Measurement], level: float
) -> list[Measurement]:
    """Return the mean accuracy over kinds and amounts, and which share of the accuracy above chance is lost.

    Unchanged photos are no condition: they would say of a run that recognises these better that it bears
    changes better. The loss is refused where the interval of the unchanged accuracy comes within
    `LEAST_ABOVE_CHANCE` of chance: a share of next to nothing is noise.
    """
    clean = _values(unchanged)
    changed = np.mean([_values(each) for each in conditions], axis=0)
    pairs, protocol, name = unchanged.n, family.protocol, f"{family.short}_drop"
    note = f"mean of {len(conditions)} conditions"
    mean = Measurement.of(protocol, f"{family.short}_accuracy", changed, pairs, note)
    try:
        low = percentile_interval(clean[1:], level)[0]
    except RefusedError:  # too few resamples have a value
        low = CHANCE
    if low <= CHANCE + LEAST_ABOVE_CHANCE:
        note = (
            f"unchanged faces reach {clean[0]:.3f}, at worst {low:.3f}; a share of what is above chance "
            f"needs more than {CHANCE + LEAST_ABOVE_CHANCE:.2f}"
        )
        return [mean, Measurement(protocol, name, None, pairs, note)]
    above = np.where(clean > CHANCE, clean - CHANCE, np.nan)
    return [mean, Measurement.of(protocol, name, 1 - (changed - CHANCE) / above, pairs)]


def _values(measured: Measurement) -> Floats:
    """Return the value and then those on the resamples, (1 + R,)."""
    assert measured.value is not None
    assert measured.samples is not None
    return np.append(measured.value, measured.samples)
