"""Verification and identification from embeddings, with a weight for each identity.

Every metric takes `weights (R, P)`: how often each of the P people is drawn in each of R resamples, so a
bootstrap over people is one matrix. A pair of person a's own images weighs w_a and a pair of a and b
weighs w_a * w_b: the copies of one person are never compared with each other, as an image would meet
itself, or one person would pass for two. `weights=None` is the point estimate, one row of ones. A metric
returns `(R,)` values, NaN where a resample has nothing to measure; an evaluation that has nothing to
measure raises `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.evaluation import influence

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

_HIGHER = (
    "roc_auc", "accuracy", "tar_at_far", "rank1", "rank5", "rank20", "tpir_at_fpir", "blufr_tar", "blufr_dir",
    "occlusion_accuracy", "light_accuracy", "illumination_rank1", "labels_accuracy", "probe_accuracy",
    "probe_roc_auc", "fdr", "gender_accuracy", "gender_balanced", "gender_f1", "race_accuracy",
    "race_balanced", "race_f1", "expression_accuracy", "expression_balanced", "expression_f1",
)  # fmt: skip
_LOWER = (
    "eer", "far_at_target", "fpir_at_target", "fmr", "fnmr", "fmr_ratio", "fnmr_ratio", "brier", "ece",
    "occlusion_drop", "light_drop", "age_error",
)  # fmt: skip

# Resamples are taken in chunks of about this many values (2 MB): what a pass touches stays in the cache.
_CHUNK_VALUES = 2**18


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

    def __len__(self) -> int:
        return len(self.score)

    def take(self, chosen: Integers | Booleans) -> Comparisons:
        """Keep the chosen pairs, in the given order."""
        same = None if self.same is None else self.same[chosen]
        weight = None if self.weight is None else self.weight[chosen]
        return Comparisons(self.score[chosen], self.first[chosen], self.second[chosen], same, weight)


Splits = Sequence[tuple[Comparisons, Comparisons]]
"""For each fold the pairs that its threshold is chosen on, and those it is tested on."""


@dataclass(frozen=True)
class RocCurve:
    """False and true accept rates; a threshold accepts every score at or above it."""

    threshold: Floats
    far: Floats
    tar: Floats


@dataclass(frozen=True)
class Measurement:
    """One value of an evaluation, or the reason why there is none.

    `n` counts what is behind the value: pairs, impostor pairs for a value at a false accept rate, probes
    for identification. What other people would have changed is in `influence`, of each two people's pairs
    (`influence.by_people`), or else in `samples`, the values of the bootstrap resamples. `condition` and
    `amount` say under what the value was measured, such as "sunglasses" over 0.3 of the face.
    """

    protocol: str
    name: str
    value: float | None
    n: int
    note: str
    samples: Floats | None
    condition: str = ""
    amount: float | None = None
    people: int | None = None
    """How many were resampled, where that is not everyone evaluated."""
    influence: pd.Series[float] | None = None


def all_pairs(embeddings: NDArray[np.floating], identity: Integers) -> Comparisons:
    """Compare every two images by the cosine of their embeddings.

    Args:
        embeddings: One row for each image, of any length but zero.
        identity: Whose image each row is, counted from 0.

    Raises:
        ValueError: an embedding is zero or not finite, or the two arrays do not belong together.
    """
    unit = _unit_rows(embeddings)
    people = _identities(identity, len(unit))
    i, j = np.triu_indices(len(unit), k=1)
    return Comparisons((unit @ unit.T)[i, j], people[i], people[j])


def _unit_rows(embeddings: NDArray[np.floating]) -> Floats:
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"embeddings must be (images, features), got shape {rows.shape}")
    if not np.isfinite(rows).all():
        row = int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise ValueError(f"embedding {row} is not finite")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"embedding {int(np.argmin(length))} is zero and has no direction")
    return np.asarray(rows / length)


def _identities(identity: Integers, images: int) -> Integers:
    people = np.asarray(identity)
    if people.shape != (images,):
        raise ValueError(f"identity must name {images} images, got shape {people.shape}")
    if not np.issubdtype(people.dtype, np.integer) or (people < 0).any():
        raise ValueError("identities must be whole numbers counted from 0")
    return people.astype(np.int64)


def roc(comparisons: Comparisons) -> RocCurve:
    """Trace the rates over all distinct thresholds, from +inf (nothing is accepted) downwards."""
    ranked = _ranked(comparisons)
    sweep = _Sweep.over(ranked, _rows(ranked, None))
    threshold = np.concatenate([[np.inf], ranked.score[_last_of_ties(ranked.score)]])
    return RocCurve(threshold, sweep.far[0], sweep.tar[0])


def roc_auc_score(comparisons: Comparisons, weights: NDArray[np.integer] | None = None) -> Floats:
    """Return the chance that a genuine pair scores above an impostor pair; a tie counts one half."""
    return _per_resample(comparisons, weights, [_area])[0]


def equal_error_rate(comparisons: Comparisons, weights: NDArray[np.integer] | None = None) -> Floats:
    """Return the error where false accepts are as frequent as false rejects.

    The rates jump at each threshold; between the two thresholds around the crossing both are taken to be
    linear, so the value lies where the drawn ROC meets its anti-diagonal.
    """
    return _per_resample(comparisons, weights, [_equal_error])[0]


def tar_at_far(
    comparisons: Comparisons, far_target: float, weights: NDArray[np.integer] | None = None
) -> tuple[Floats, Floats]:
    """Return the true accept rate at a false accept rate of at most `far_target`, and the rate achieved.

    The threshold is the lowest one that keeps to the target, for each resample anew.

    Raises:
        ValueError: there are fewer impostor pairs than `impostors_needed(far_target)`.
    """
    if refusal := _far_refusal(comparisons, far_target):
        raise ValueError(refusal)
    tar, far = _per_resample(comparisons, weights, _at_far(far_target))
    return tar, far


def impostors_needed(far_target: float) -> int:
    """Return how many impostor pairs a false accept rate needs: the rule of 30 (Doddington et al., 2000).

    With 30 expected errors the true rate lies within 30 % of the measured one in 90 % of all cases if the
    pairs are independent. Pairs that share people are not, so this is the least one can ask for.
    """
    if not 0 < far_target <= 1:
        raise ValueError(f"a false accept rate lies in (0, 1], got {far_target}")
    return math.ceil(round(30 / far_target, 6))  # 30 / 0.0003 is a little more than 100000


def best_thresholds(splits: Splits, weights: NDArray[np.integer] | None = None) -> Floats:
    """Choose the threshold of each fold, `(R, K)`, without its tested pairs.

    It is the cut with the best balanced accuracy, half way between the lowest accepted and the highest
    rejected score that a resample draws: a cut at the accepted score itself would turn down unseen pairs
    that are as good to within rounding. Of equally good cuts the lowest is taken; -inf accepts all.
    """
    return np.stack([_best_threshold(others, weights) for others, _ in splits], axis=1)


def balanced_accuracies(
    splits: Splits, thresholds: Floats, weights: NDArray[np.integer] | None = None
) -> Floats:
    """Return (TAR + 1 - FAR) / 2 of each fold's tested pairs at its threshold, `(R, K)`.

    NaN where a resample leaves a fold no genuine or no impostor pair.
    """
    folds = [_balanced(tested, thresholds[:, k], weights) for k, (_, tested) in enumerate(splits)]
    return np.stack(folds, axis=1)


def mean_of_folds(accuracies: Floats) -> Floats:
    """Return the mean over the folds, `(R,)`, that have a value."""
    defined = np.isfinite(accuracies)
    return _ratio(np.where(defined, accuracies, 0.0).sum(axis=1), defined.sum(axis=1))


def split_by_person(comparisons: Comparisons, fold: Integers) -> Splits:
    """Return for each fold of the people, `(P,)`, the pairs of two people outside it and of two inside it.

    Raises:
        ValueError: one of the two has no genuine or no impostor pair.
    """
    folds = np.asarray(fold)
    if folds.ndim != 1 or len(folds) <= max(comparisons.first.max(), comparisons.second.max()):
        raise ValueError(f"fold must name the fold of each person, got shape {folds.shape}")
    splits = []
    for number in np.unique(folds):
        first, second = folds[comparisons.first] == number, folds[comparisons.second] == number
        others, tested = comparisons.take(~first & ~second), comparisons.take(first & second)
        splits.append(_with_both_kinds(number, others, tested))
    return splits


def split_by_pair(comparisons: Comparisons, fold: Integers) -> Splits:
    """Return for each fold of the pairs themselves, `(N,)`, all pairs outside it and all inside it.

    Raises:
        ValueError: there is one fold alone, or one of the two has no genuine or no impostor pair.
    """
    folds = np.asarray(fold)
    if folds.shape != comparisons.score.shape:
        raise ValueError(f"fold must name the fold of {len(comparisons)} pairs, got shape {folds.shape}")
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise ValueError(f"a threshold comes from other folds, and there are {len(numbers)} folds in all")
    parts = [(n, comparisons.take(folds != n), comparisons.take(folds == n)) for n in numbers.tolist()]
    return [_with_both_kinds(number, others, tested) for number, others, tested in parts]


def rank1_hits(
    embeddings: NDArray[np.floating], identity: Integers, enrolled: Booleans
) -> tuple[Integers, Integers]:
    """Count for each person how many probes are identified, and how many there are.

    The gallery is the enrolled images, every other image is a probe. A probe is right when its most similar
    gallery image is its person's; a tie with another person is wrong, whatever the order of the images.
    The gallery holds everyone in every resample: resamples weigh the probes only.

    Raises:
        ValueError: there is no probe, or a probe's person is not enrolled.
    """
    unit = _unit_rows(embeddings)
    people = _identities(identity, len(unit))
    gallery = np.asarray(enrolled, dtype=np.bool_)
    if gallery.shape != people.shape:
        raise ValueError(f"enrolled must mark {len(people)} images, got shape {gallery.shape}")
    probe = people[~gallery]
    if not len(probe):
        raise ValueError("every image is enrolled, none is left to identify")
    if strangers := set(probe.tolist()) - set(people[gallery].tolist()):
        raise ValueError(f"person {min(strangers)} has a probe but no enrolled image")
    similarity = unit[~gallery] @ unit[gallery].T
    own = probe[:, None] == people[gallery][None, :]
    right = np.where(own, similarity, -np.inf).max(axis=1) > np.where(own, -np.inf, similarity).max(axis=1)
    size = int(people.max()) + 1
    return np.bincount(probe[right], minlength=size), np.bincount(probe, minlength=size)


def rank1_score(
    hits: Integers | Floats, probes: Integers, weights: NDArray[np.integer] | None = None
) -> Floats:
    """Return the share of probes that are identified."""
    people = len(probes)
    rows = np.ones((1, people)) if weights is None else _checked(weights, people)[:, :people]
    return _ratio(rows @ hits, rows @ probes)


def higher_is_better(name: str) -> bool:
    """Tell which direction of a measurement is an improvement.

    `far_at_target=...` says what the data allowed rather than how good an embedding is, and counts as an
    error rate.

    Raises:
        ValueError: no measurement has this name.
    """
    metric = name.partition("=")[0]
    if metric in _HIGHER or metric in _LOWER:
        return metric in _HIGHER
    raise ValueError(f"no measurement is called {name!r}; there are {', '.join((*_HIGHER, *_LOWER))}")


def evaluate(
    embeddings: NDArray[np.floating],
    identity: Integers,
    fold: Integers,
    enrolled: Booleans,
    weights: NDArray[np.integer],
    far_targets: Sequence[float],
) -> list[Measurement]:
    """Measure everything at once.

    Args:
        embeddings: One row for each image.
        identity: Whose image each row is: 0 to P - 1, everyone at least once.
        fold: The fold of each of the P people.
        enrolled: Which images are the gallery of the identification.
        weights: The resamples, `(R, P)`.
        far_targets: The false accept rates to report the true accept rate at, as far as the data allow.

    Raises:
        ValueError: something cannot be measured at all, or the arguments do not belong together.
    """
    comparisons = all_pairs(embeddings, identity)
    people = np.unique(identity)
    if not np.array_equal(people, np.arange(len(fold))):
        raise ValueError(f"fold names {len(fold)} people, the images show {len(people)} or skip a number")
    return [
        *verification(comparisons, far_targets),
        fold_accuracy(split_by_person(comparisons, fold)),
        _identification(*rank1_hits(embeddings, identity, enrolled), weights),
    ]


def verification(comparisons: Comparisons, far_targets: Sequence[float]) -> list[Measurement]:
    """Measure what needs no folds, on pairs that weigh alike.

    The false accept rate that a target achieves is what the threshold was chosen for, and has no interval.

    Raises:
        ValueError: there is no genuine or no impostor pair, or the pairs have weights.
    """
    if comparisons.weight is not None:
        raise ValueError("the influence of pairs is that of pairs that weigh alike")
    values = rates(comparisons, None, [far for far in far_targets if not _far_refusal(comparisons, far)])
    score, genuine = comparisons.score, comparisons.genuine
    measured = [
        _of_pairs(comparisons, "roc_auc", values[0], influence.area(score, genuine)),
        _of_pairs(comparisons, "eer", values[1], influence.equal_error(score, genuine)),
    ]
    impostors, at_far = int((~genuine).sum()), iter(values[2:])
    for far in far_targets:
        names = _far_names(far)
        if refusal := _far_refusal(comparisons, far):
            measured += [Measurement("verification", name, None, impostors, refusal, None) for name in names]
            continue
        tar = _of_pairs(comparisons, names[0], next(at_far), influence.true_accepts(score, genuine, far))
        achieved = Measurement("verification", names[1], float(next(at_far)[0]), impostors, "", None)
        measured += [replace(tar, n=impostors), achieved]
    return measured


def _of_pairs(comparisons: Comparisons, name: str, value: Floats, of_pair: Floats) -> Measurement:
    people = influence.by_people(comparisons.first, comparisons.second, of_pair)
    return Measurement("verification", name, float(value[0]), len(comparisons), "", None, influence=people)


def rates(
    comparisons: Comparisons, weights: NDArray[np.integer] | None, far_targets: Sequence[float]
) -> list[Floats]:
    """Return ROC AUC, EER, and TAR and FAR at each target, (R,) each, in one pass over the resamples.

    Raises:
        ValueError: there is no genuine or no impostor pair.
    """
    at_far = [metric for far in far_targets for metric in _at_far(far)]
    return _per_resample(comparisons, weights, [_area, _equal_error, *at_far])


def _far_names(far_target: float) -> tuple[str, str]:
    return f"tar_at_far={far_target:g}", f"far_at_target={far_target:g}"


def fold_accuracy(splits: Splits) -> Measurement:
    """Measure the mean over folds of the balanced accuracy at the threshold of the other folds' pairs."""
    thresholds = best_thresholds(splits)
    by_fold = balanced_accuracies(splits, thresholds)[0]
    tested = [inside for _, inside in splits]
    first, second, genuine = (
        np.concatenate([getattr(each, side) for each in tested]) for side in ("first", "second", "genuine")
    )
    accepted = [_accepts(each, cut[None, None])[0] for each, cut in zip(tested, thresholds[0], strict=True)]
    fold = np.repeat(np.arange(len(tested)), [len(each) for each in tested])
    moved = influence.by_people(first, second, influence.balanced(np.concatenate(accepted), genuine, fold))
    error = float(by_fold.std(ddof=1)) / math.sqrt(len(by_fold))
    note = (
        f"standard error {error:.4f} over {len(by_fold)} folds; "
        f"thresholds {thresholds.min():.3f} to {thresholds.max():.3f}"
    )
    value = float(by_fold.mean())
    return Measurement("verification", "accuracy", value, len(genuine), note, None, influence=moved)


def _identification(hits: Integers, probes: Integers, weights: NDArray[np.integer]) -> Measurement:
    value = float(rank1_score(hits, probes)[0])
    samples = rank1_score(hits, probes, weights)
    return Measurement("identification", "rank1", value, int(probes.sum()), "", samples)


@dataclass(frozen=True)
class _Sweep:
    """The rates at every cut of the ranked pairs, `(resamples, cuts + 1)`; the first cut accepts nothing."""

    far: Floats
    tar: Floats

    @staticmethod
    def over(ranked: Comparisons, rows: Floats) -> _Sweep:
        """Lower the threshold over all pairs, for a chunk of resamples."""
        weight = _pair_weights(ranked, rows)
        ends = _last_of_ties(ranked.score)
        impostor = _accepted(np.where(ranked.genuine, 0.0, weight), ends)
        genuine = _accepted(np.where(ranked.genuine, weight, 0.0), ends)
        return _Sweep(_ratio(impostor, impostor[:, -1:]), _ratio(genuine, genuine[:, -1:]))


_Metric = Callable[[_Sweep], Floats]


def _area(sweep: _Sweep) -> Floats:
    # The trapezium over a tie gives its genuine and impostor pairs one half of each other.
    return np.asarray(np.trapezoid(sweep.tar, sweep.far, axis=1))


def _equal_error(sweep: _Sweep) -> Floats:
    excess = sweep.far + sweep.tar - 1  # FAR - FNMR climbs from -1 to 1
    after = np.argmax(excess >= 0, axis=1)[:, None]
    low, high = (np.take_along_axis(excess, cut, axis=1) for cut in (after - 1, after))
    far_low, far_high = (np.take_along_axis(sweep.far, cut, axis=1) for cut in (after - 1, after))
    with np.errstate(invalid="ignore"):
        return np.asarray(far_low - low / (high - low) * (far_high - far_low))[:, 0]


def _at_far(far_target: float) -> list[_Metric]:
    """Return the metrics TAR and FAR at the last cut that keeps to the target."""

    def at_cut(rate: Floats, far: Floats) -> Floats:
        kept = (far <= far_target).sum(axis=1, keepdims=True) - 1
        value = np.take_along_axis(rate, kept, axis=1)
        return np.where(kept < 0, np.nan, value)[:, 0]  # no impostor pair: no cut has a rate at all

    return [lambda sweep: at_cut(sweep.tar, sweep.far), lambda sweep: at_cut(sweep.far, sweep.far)]


def _far_refusal(comparisons: Comparisons, far_target: float) -> str:
    needed, impostors = impostors_needed(far_target), int((~comparisons.genuine).sum())
    if impostors >= needed:
        return ""
    return f"needs {needed} impostor pairs, this evaluation has {impostors}"


def _per_resample(
    comparisons: Comparisons, weights: NDArray[np.integer] | None, metrics: Sequence[_Metric]
) -> list[Floats]:
    """Return the `(R,)` values of each metric; the pairs are sorted once and summed once for all metrics."""
    ranked = _ranked(comparisons)
    chunks = _chunks(_rows(ranked, weights), len(ranked))
    sweeps = (_Sweep.over(ranked, chunk) for chunk in chunks)
    return list(np.concatenate([np.stack([metric(sweep) for metric in metrics]) for sweep in sweeps], axis=1))


def _ranked(comparisons: Comparisons) -> Comparisons:
    """Sort the pairs by falling score.

    Raises:
        ValueError: there is no genuine or no impostor pair, or a score is NaN or +inf.
    """
    if not (comparisons.score < np.inf).all():
        raise ValueError("a score is not finite")
    if missing := _missing_kind(comparisons):
        raise ValueError(f"there is no {missing} pair, verification needs both kinds")
    return comparisons.take(np.argsort(-comparisons.score, kind="stable"))


def _missing_kind(comparisons: Comparisons) -> Literal["genuine", "impostor"] | None:
    if not comparisons.genuine.any():
        return "genuine"
    return "impostor" if comparisons.genuine.all() else None


def _rows(comparisons: Comparisons, weights: NDArray[np.integer] | None) -> Floats:
    """Return the resamples as numbers that sums of products stay exact in."""
    people = int(max(comparisons.first.max(), comparisons.second.max())) + 1
    return np.ones((1, people)) if weights is None else _checked(weights, people)


def _checked(weights: NDArray[np.integer], people: int) -> Floats:
    rows = np.asarray(weights, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < people:
        raise ValueError(f"weights must be (resamples, {people} people), got shape {rows.shape}")
    if not len(rows) or not (rows >= 0).all() or (rows != np.rint(rows)).any():
        raise ValueError("weights must hold at least one resample of counts")
    return rows


def _chunks(rows: Floats, pairs: int) -> Iterator[Floats]:
    size = max(1, _CHUNK_VALUES // pairs)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _pair_weights(comparisons: Comparisons, rows: Floats) -> Floats:
    weight = np.take(rows, comparisons.first, axis=1)
    alone = comparisons.first == comparisons.second
    weight *= np.where(alone, 1.0, np.take(rows, comparisons.second, axis=1))
    if comparisons.weight is not None:
        weight *= comparisons.weight
    return weight


def _last_of_ties(score: Floats) -> Integers:
    return np.flatnonzero(np.append(score[1:] != score[:-1], True))


def _accepted(weight: Floats, ends: Integers) -> Floats:
    total = np.zeros((len(weight), weight.shape[1] + 1))
    np.cumsum(weight, axis=1, out=total[:, 1:])
    return total if len(ends) == weight.shape[1] else total[:, np.append(0, ends + 1)]


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole)


def _with_both_kinds(
    number: int, others: Comparisons, tested: Comparisons
) -> tuple[Comparisons, Comparisons]:
    if missing := _missing_kind(tested):
        raise ValueError(f"fold {number} has no {missing} pair")
    if missing := _missing_kind(others):
        raise ValueError(f"the folds other than {number} have no {missing} pair")
    return others, tested


def _best_threshold(comparisons: Comparisons, weights: NDArray[np.integer] | None) -> Floats:
    ranked = _ranked(comparisons)
    chunks = _chunks(_rows(ranked, weights), len(ranked))
    return np.concatenate([_best_cut(ranked, chunk) for chunk in chunks])


def _best_cut(ranked: Comparisons, rows: Floats) -> Floats:
    """Return the threshold half way through the lowest gap with the highest TAR - FAR."""
    weight, genuine = _pair_weights(ranked, rows), np.flatnonzero(ranked.genuine)
    own = weight[:, genuine]
    weight[:, genuine] = 0
    genuine_sum, impostor_sum = own.sum(axis=1), weight.sum(axis=1)
    # TAR - FAR times both sums: whole numbers, so that equally good cuts compare as equal.
    weight *= -genuine_sum[:, None]
    weight[:, genuine] = own * impostor_sum[:, None]
    gain = np.cumsum(weight, axis=1, out=weight)
    inside_tie = np.ones(len(ranked), dtype=np.bool_)
    inside_tie[_last_of_ties(ranked.score)] = False
    gain[:, inside_tie | np.isneginf(ranked.score)] = -np.inf  # no cut accepts a face that was not found
    cut = len(ranked) - 1 - np.argmax(gain[:, ::-1], axis=1)
    # The lowest of the best cuts ends at a pair that is drawn, but need not start at one.
    rejected = np.append(ranked.score, -np.inf)[cut + 1]
    drawn = (own > 0) & (genuine <= cut[:, None])
    last = drawn.shape[1] - 1 - np.argmax(drawn[:, ::-1], axis=1)
    accepted = ranked.score[genuine[last]]
    middle = (accepted + rejected) / 2
    threshold = np.where(middle > rejected, middle, np.where(np.isinf(rejected), rejected, accepted))
    threshold[~drawn.any(axis=1)] = np.inf  # not one genuine pair has both its faces
    return np.where((genuine_sum > 0) & (impostor_sum > 0), threshold, np.nan)


def _balanced(comparisons: Comparisons, thresholds: Floats, weights: NDArray[np.integer] | None) -> Floats:
    rows, pairs = _rows(comparisons, weights), len(comparisons)
    chunks = zip(_chunks(rows, pairs), _chunks(thresholds[:, None], pairs), strict=True)
    return np.concatenate([_balanced_chunk(comparisons, *chunk) for chunk in chunks])


def _balanced_chunk(comparisons: Comparisons, rows: Floats, thresholds: Floats) -> Floats:
    weight, genuine = _pair_weights(comparisons, rows), comparisons.genuine
    accepted = np.where(_accepts(comparisons, thresholds), weight, 0.0)
    tar = _ratio(accepted[:, genuine].sum(axis=1), weight[:, genuine].sum(axis=1))
    far = _ratio(accepted[:, ~genuine].sum(axis=1), weight[:, ~genuine].sum(axis=1))
    return np.asarray(np.where(np.isnan(thresholds[:, 0]), np.nan, (tar + 1 - far) / 2))


def _accepts(comparisons: Comparisons, thresholds: Floats) -> Booleans:
    """Mark the pairs, `(R, N)`, that thresholds `(R, 1)` accept; -inf accepts every face that was found."""
    return np.asarray((comparisons.score >= thresholds) & ~np.isneginf(comparisons.score))
