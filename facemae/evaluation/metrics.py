"""Verification from compared pairs: ROC, its area, equal error rate, rates at a target, folds and thresholds.

A metric takes `weights (R, P)`, how often each of the P people is drawn in each of R resamples (`pairs`), and
returns (R,) values, NaN where a resample has nothing to measure; `weights=None` is the value itself. What the
pairs cannot support is refused (`RefusedError`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from facemae.core.errors import RefusedError
from facemae.evaluation.pairs import Booleans, Comparisons, Floats, Integers, Weights, chunks, ratio

Splits = Sequence[tuple[Comparisons, Comparisons]]
"""For each fold the pairs that its threshold is chosen on, and those it is tested on."""


def roc_auc_score(comparisons: Comparisons, weights: Weights | None = None) -> Floats:
    """Return the chance that a genuine pair scores above an impostor pair; a tie counts one half."""
    return rates(comparisons, weights, [])[0]


def equal_error_rate(comparisons: Comparisons, weights: Weights | None = None) -> Floats:
    """Return the error where false accepts are as frequent as false rejects, linear between two cuts."""
    return rates(comparisons, weights, [])[1]


def rates(comparisons: Comparisons, weights: Weights | None, far_targets: Sequence[float]) -> list[Floats]:
    """Return ROC AUC, EER, and TAR and FAR at each target, (R,) each, in one pass over the resamples.

    The threshold is the lowest one that keeps to the target, in each resample its own. A RefusedError: there
    is no genuine or no impostor pair.
    """
    ranked, found = _ranked(comparisons), []
    for rows in chunks(ranked.rows(weights), len(ranked)):
        far, tar = _curves(ranked, rows)
        # The trapezium over a tie gives its genuine and impostor pairs one half of each other.
        values = [np.trapezoid(tar, far, axis=1), crossing(far, tar)]
        for target in far_targets:
            kept = (far <= target).sum(axis=1, keepdims=True) - 1
            at_cut = (np.take_along_axis(rate, kept, axis=1) for rate in (tar, far))
            # Without any impostor pair no cut has a rate at all.
            values += [np.where(kept < 0, np.nan, value)[:, 0] for value in at_cut]
        found.append(np.stack(values))
    return list(np.concatenate(found, axis=1))


def crossing(far: Floats, tar: Floats) -> Floats:
    """Return the equal error rate `(R,)` of curves `(R, cuts)`, linear between the cuts around it."""
    excess = far + tar - 1  # FAR - FNMR climbs from -1 to 1
    after = np.maximum(1, np.argmax(excess >= 0, axis=1))[:, None]
    low, high = (np.take_along_axis(excess, cut, axis=1) for cut in (after - 1, after))
    far_low, far_high = (np.take_along_axis(far, cut, axis=1) for cut in (after - 1, after))
    with np.errstate(invalid="ignore"):
        return np.asarray(far_low - low / (high - low) * (far_high - far_low))[:, 0]


def impostors_needed(far_target: float) -> int:
    """Return how many impostor pairs a false accept rate needs: the rule of 30 (Doddington et al., 2000).

    With 30 expected errors the true rate lies within 30 % of the measured one in 90 % of all cases if the
    pairs are independent. Pairs that share people are not, so this is the least one can ask for.
    """
    return math.ceil(round(30 / far_target, 6))  # 30 / 0.0003 is a little more than 100000


def too_few(impostors: int, far_target: float) -> str:
    """Return why so many impostor pairs cannot support a false accept rate, or nothing."""
    needed = impostors_needed(far_target)
    return "" if impostors >= needed else f"needs {needed} impostor pairs, this evaluation has {impostors}"


def far_names(far_target: float) -> tuple[str, str]:
    """Return the names of the true accept rate at a target and of the false accept rate achieved."""
    return f"tar_at_far={far_target:g}", f"far_at_target={far_target:g}"


# --- folds and their thresholds ---


def best_thresholds(splits: Splits, weights: Weights | None = None) -> Floats:
    """Choose the threshold of each fold, `(R, K)`, without its tested pairs.

    It is the cut with the best balanced accuracy, half way between the lowest accepted and the highest
    rejected score that a resample draws: a cut at the accepted score itself would turn down unseen pairs
    that are as good to within rounding. Of equally good cuts the lowest is taken; -inf accepts all.
    """
    folds = [_ranked(others) for others, _ in splits]
    cuts = [[_best_cut(each, rows) for rows in chunks(each.rows(weights), len(each))] for each in folds]
    return np.stack([np.concatenate(each) for each in cuts], axis=1)


def balanced_accuracies(splits: Splits, thresholds: Floats, weights: Weights | None = None) -> Floats:
    """Return (TAR + 1 - FAR) / 2 of each fold's tested pairs, `(R, K)`; NaN where a kind is missing."""
    return np.stack([_balanced(inside, thresholds[:, k], weights) for k, (_, inside) in enumerate(splits)], 1)


def mean_of_defined(values: Floats) -> Floats:
    """Return the mean `(R,)` over the folds, or other columns of `(R, K)`, that have a value."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))


def split_by_person(comparisons: Comparisons, fold: Integers) -> Splits:
    """Return for each fold of the people, `(P,)`, the pairs of two people outside it and of two inside it.

    A RefusedError: one of the two has no genuine or no impostor pair.
    """
    first, second = fold[comparisons.first], fold[comparisons.second]
    return [
        _split(
            comparisons,
            number,
            (first != number) & (second != number),
            (first == number) & (second == number),
        )
        for number in np.unique(fold)
    ]


def split_by_pair(comparisons: Comparisons, fold: Integers) -> Splits:
    """Return for each fold of the pairs themselves, `(N,)`, all pairs outside it and all inside it.

    A RefusedError: one of the two has no genuine or no impostor pair, as where there is one fold alone.
    """
    return [_split(comparisons, each, fold != each, fold == each) for each in np.unique(fold)]


def accepts(comparisons: Comparisons, thresholds: Floats) -> Booleans:
    """Mark the pairs that thresholds, `(R, 1)` or `(N,)`, accept; -inf accepts every face that was found."""
    return np.asarray((comparisons.score >= thresholds) & ~np.isneginf(comparisons.score))


def _ranked(comparisons: Comparisons) -> Comparisons:
    """Sort the pairs by falling score."""
    if not (comparisons.score < np.inf).all():
        raise ValueError("a score is not finite")
    if missing := _missing_kind(comparisons):
        raise RefusedError(f"there is no {missing} pair, verification needs both kinds")
    return comparisons.take(np.argsort(-comparisons.score, kind="stable"))


def _missing_kind(comparisons: Comparisons) -> str:
    if not comparisons.genuine.any():
        return "genuine"
    return "impostor" if comparisons.genuine.all() else ""


def _last_of_ties(score: Floats) -> Integers:
    return np.flatnonzero(np.append(score[1:] != score[:-1], True))


def _curves(ranked: Comparisons, rows: Floats) -> tuple[Floats, Floats]:
    """Return FAR and TAR `(R, cuts + 1)` as the threshold falls; the first cut accepts nothing."""
    weight, cuts = ranked.weights(rows), np.append(0, _last_of_ties(ranked.score) + 1)
    total = np.zeros((len(rows), len(ranked) + 1))
    found = []
    for kind in (~ranked.genuine, ranked.genuine):
        np.cumsum(np.where(kind, weight, 0.0), axis=1, out=total[:, 1:])
        accepted = total if len(cuts) == total.shape[1] else total[:, cuts]  # no copy where nothing ties
        found.append(ratio(accepted, accepted[:, -1:]))
    return found[0], found[1]


def _split(
    comparisons: Comparisons, fold: int, others: Booleans, tested: Booleans
) -> tuple[Comparisons, Comparisons]:
    """Return the pairs that a fold's threshold is chosen on, and those that it is tested on."""
    chosen = comparisons.take(others), comparisons.take(tested)
    if missing := _missing_kind(chosen[1]):
        raise RefusedError(f"fold {fold} has no {missing} pair")
    if missing := _missing_kind(chosen[0]):
        raise RefusedError(f"the folds other than {fold} have no {missing} pair")
    return chosen


def _best_cut(ranked: Comparisons, rows: Floats) -> Floats:
    """Return the threshold half way through the lowest gap with the highest TAR - FAR."""
    weight, genuine = ranked.weights(rows), np.flatnonzero(ranked.genuine)
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


def _balanced(comparisons: Comparisons, thresholds: Floats, weights: Weights | None) -> Floats:
    pairs, genuine, found = len(comparisons), comparisons.genuine, []
    resamples = chunks(comparisons.rows(weights), pairs)
    for rows, cuts in zip(resamples, chunks(thresholds[:, None], pairs), strict=True):
        weight = comparisons.weights(rows)
        accepted = np.where(accepts(comparisons, cuts), weight, 0.0)
        tar, far = (
            ratio(accepted[:, kind].sum(axis=1), weight[:, kind].sum(axis=1)) for kind in (genuine, ~genuine)
        )
        found.append(np.where(np.isnan(cuts[:, 0]), np.nan, (tar + 1 - far) / 2))
    return np.concatenate(found)
