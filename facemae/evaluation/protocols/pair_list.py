"""Verification on pairs that are compared one by one: of a list in folds, or every two of few faces.

So are LFW, CALFW, CPLFW, CFP-FP and AgeDB-30 measured: of ten folds nine choose a threshold and the tenth
is tested with it, in turn (LFW's View 2; Huang et al., 2007). The fold is the pair's own: a list says which
pairs belong together. With each value comes the influence of each two people's pairs on it. Evaluation is
exact, N pairs of P people in K folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from facemae.core.errors import RefusedError
from facemae.evaluation import influence, metrics
from facemae.evaluation.pairs import Booleans, Comparisons, Floats, Integers
from facemae.evaluation.records import Measurement, refused

PROTOCOL = "verification"
FOLDS = 5  # that a list in one fold, such as LFW's View 1, is cut into


def measure(pairs: Comparisons, fold: ArrayLike, far_targets: Sequence[float]) -> list[Measurement]:
    """Measure accuracy, ROC AUC, EER and TAR at FAR, as far as the pairs support it, on a list in folds (N,).

    Accuracy is the mean over the folds of (TAR + 1 - FAR) / 2, which on as many genuine as impostor pairs is
    the share of right decisions. A fold's threshold has the best balanced accuracy on the other folds
    (`metrics.best_thresholds`); its own labels are not read. A pair with a face that was not found is
    rejected at every threshold: right if it is an impostor pair, wrong if it is genuine. A RefusedError:
    there is no genuine or no impostor pair.
    """
    measured = [*measure_rates(pairs, far_targets), _accuracy(pairs, fold)]
    missing = int(np.isneginf(pairs.score).sum())
    note = f"pairs rejected since a face was not found: {missing}" if missing else ""
    return [_noted(each, note) for each in measured]


def measure_rates(comparisons: Comparisons, far_targets: Sequence[float]) -> list[Measurement]:
    """Measure ROC AUC, EER and TAR at FAR, which need no folds; a RefusedError without both kinds of pairs.

    The false accept rate that a target achieves is what the threshold was chosen for, and has no interval.
    """
    impostors = len(comparisons.impostors)
    refusals = {far: metrics.too_few(impostors, far) for far in far_targets}
    allowed = [far for far, refusal in refusals.items() if not refusal]
    area, equal_error, *at_far = metrics.rates(comparisons, None, allowed)
    measured = [
        _of_pairs(comparisons, "roc_auc", area[0], influence.area(comparisons), len(comparisons)),
        _of_pairs(comparisons, "eer", equal_error[0], influence.equal_error(comparisons), len(comparisons)),
    ]
    achieved = iter(at_far)
    for far, refusal in refusals.items():
        names = metrics.far_names(far)
        if refusal:
            measured += refused(PROTOCOL, names, impostors, refusal)
            continue
        moved = influence.true_accepts(comparisons, far)
        measured.append(_of_pairs(comparisons, names[0], next(achieved)[0], moved, impostors))
        measured.append(Measurement(PROTOCOL, names[1], float(next(achieved)[0]), impostors))
    return measured


def fold_accuracy(splits: metrics.Splits) -> Measurement:
    """Measure the mean over folds of the balanced accuracy at the threshold of the other folds' pairs."""
    thresholds = metrics.best_thresholds(splits)
    by_fold = metrics.balanced_accuracies(splits, thresholds)[0]
    tested = [inside for _, inside in splits]
    columns = ("score", "first", "second", "genuine", "counted")
    pairs = Comparisons(*(np.concatenate([getattr(each, name) for each in tested]) for name in columns))
    fold = np.repeat(np.arange(len(tested)), [len(each) for each in tested])
    moved = influence.balanced(pairs, metrics.accepts(pairs, thresholds[0][fold]), fold)
    error = float(by_fold.std(ddof=1)) / math.sqrt(len(by_fold))
    note = (
        f"standard error {error:.4f} over {len(by_fold)} folds; "
        f"thresholds {thresholds.min():.3f} to {thresholds.max():.3f}"
    )
    return _of_pairs(pairs, "accuracy", by_fold.mean(), moved, len(pairs), note)


def comparisons(score: ArrayLike, first: ArrayLike, second: ArrayLike, genuine: ArrayLike) -> Comparisons:
    """Return the pairs (N,) of a list; a score of NaN, of a face that was not found, gets below every other.

    `first` and `second` are whose photos the two are, people counted from 0, `genuine` what the list says.
    """
    scores = np.asarray(score, np.float64)
    one, other = (np.asarray(side, np.int64) for side in (first, second))
    return Comparisons(np.where(np.isnan(scores), -np.inf, scores), one, other, np.asarray(genuine, bool))


def pair_folds(fold: ArrayLike, genuine: Booleans) -> Integers:
    """Return the folds (N,) of a list; one that has a single fold is cut into five, in its order.

    Genuine and impostor pairs are cut each by themselves, since lists name one kind after the other. A
    RefusedError: there are fewer than five pairs of a kind to cut.
    """
    folds = np.asarray(fold)
    if len(np.unique(folds)) != 1:
        return folds.astype(np.int64)
    count, total = int(genuine.sum()), len(genuine)
    if min(count, total - count) < FOLDS:
        raise RefusedError(
            f"a list in one fold is cut into {FOLDS}, which takes {FOLDS} genuine and {FOLDS} impostor "
            f"pairs, and this one has {count} and {total - count}"
        )
    cut = np.empty(total, np.int64)
    for kind in (genuine, ~genuine):
        cut[kind] = np.arange(kind.sum()) * FOLDS // kind.sum()
    return cut


def _accuracy(pairs: Comparisons, fold: ArrayLike) -> Measurement:
    try:
        folds = pair_folds(fold, pairs.genuine)
        splits = metrics.split_by_pair(pairs, folds)
    except RefusedError as error:
        return Measurement(PROTOCOL, "accuracy", None, len(pairs), str(error))
    return _noted(fold_accuracy(splits), _in_several(pairs, folds))


def _in_several(pairs: Comparisons, fold: Integers) -> str:
    """Return a note where somebody is in two folds, whose threshold has then seen the people tested."""
    people = pd.DataFrame({"person": np.append(pairs.first, pairs.second), "fold": np.tile(fold, 2)})
    folds = people.groupby("person")["fold"].nunique()
    several = int((folds > 1).sum())
    return f"{several} of {len(folds)} people are in more than one fold" if several else ""


def _noted(measured: Measurement, note: str) -> Measurement:
    return replace(measured, note="; ".join(part for part in (measured.note, note) if part))


def _of_pairs(
    pairs: Comparisons, name: str, value: float, moved: Floats, n: int, note: str = ""
) -> Measurement:
    people = influence.by_people(pairs.first, pairs.second, moved)
    return Measurement(PROTOCOL, name, float(value), n, note, influence=people)
