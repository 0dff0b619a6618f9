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
    """Measure ROC AUC, EER and TAR at FAR, which need no folds.

    The false accept rate that a target achieves is what the threshold was chosen for, and has no interval.

    Raises:
        RefusedError: there is no genuine or no impostor pair.
    """
    genuine = comparisons.genuine
    impostors = int((~genuine).sum())
    allowed = [far for far in far_targets if not metrics.too_few(impostors, far)]
    values = metrics.rates(comparisons, None, allowed)
    pairs = (comparisons.score, genuine, comparisons.weight)
    measured = [
        _of_pairs(comparisons, "roc_auc", values[0], influence.area(*pairs)),
        _of_pairs(comparisons, "eer", values[1], influence.equal_error(*pairs)),
    ]
    at_far = iter(values[2:])
    for far in far_targets:
        names = metrics.far_names(far)
        if refusal := metrics.too_few(impostors, far):
            measured += refused(PROTOCOL, names, impostors, refusal)
            continue
        tar = influence.true_accepts(comparisons.score, genuine, far, comparisons.weight)
        measured.append(_of_pairs(comparisons, names[0], next(at_far), tar, impostors))
        measured.append(Measurement(PROTOCOL, names[1], float(next(at_far)[0]), impostors))
    return measured


def _of_pairs(
    comparisons: Comparisons, name: str, value: Floats, of_pair: Floats, n: int | None = None
) -> Measurement:
    people = influence.by_people(comparisons.first, comparisons.second, of_pair)
    return Measurement(PROTOCOL, name, float(value[0]), n or len(comparisons), influence=people)


def fold_accuracy(splits: metrics.Splits) -> Measurement:
    """Measure the mean over folds of the balanced accuracy at the threshold of the other folds' pairs."""
    thresholds = metrics.best_thresholds(splits)
    by_fold = metrics.balanced_accuracies(splits, thresholds)[0]
    tested = [inside for _, inside in splits]
    first, second, genuine = (
        np.concatenate([getattr(each, side) for each in tested]) for side in ("first", "second", "genuine")
    )
    weight = np.concatenate([each.weights(each.rows(None))[0] for each in tested])
    cuts = zip(tested, thresholds[0], strict=True)
    accepted = np.concatenate([metrics.accepts(each, cut[None, None])[0] for each, cut in cuts])
    fold = np.repeat(np.arange(len(tested)), [len(each) for each in tested])
    moved = influence.by_people(first, second, influence.balanced(accepted, genuine, fold, weight))
    error = float(by_fold.std(ddof=1)) / math.sqrt(len(by_fold))
    note = (
        f"standard error {error:.4f} over {len(by_fold)} folds; "
        f"thresholds {thresholds.min():.3f} to {thresholds.max():.3f}"
    )
    return Measurement(PROTOCOL, "accuracy", float(by_fold.mean()), len(genuine), note, influence=moved)
