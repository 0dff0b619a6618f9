"""What verification measures on compared pairs, with the influence of each two people's pairs on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from facemae.evaluation import influence, metrics
from facemae.evaluation.pairs import Comparisons, Floats
from facemae.evaluation.records import Measurement, refused

PROTOCOL = "verification"


def measure(comparisons: Comparisons, far_targets: Sequence[float]) -> list[Measurement]:
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


def _of_pairs(
    pairs: Comparisons, name: str, value: float, moved: Floats, n: int, note: str = ""
) -> Measurement:
    people = influence.by_people(pairs.first, pairs.second, moved)
    return Measurement(PROTOCOL, name, float(value), n, note, influence=people)
