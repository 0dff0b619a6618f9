"""What predictions of gender, race, age and expression are worth, over all faces and by group.

Shapes: N faces, P subjects, R resamples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.evaluation import metrics
from facemae.evaluation.pairs import Booleans, Floats, Integers, ratio, with_everyone
from facemae.evaluation.records import Measurement, refused
from facemae.evaluation.statistics import identity_weights
from facemae.models.attribute_heads import UNKNOWN

PROTOCOL = "attributes"
PREDICTION_COLUMNS = ["sample_id", "task", "fold", "truth", "predicted"]
GROUP_FACES = 30  # of a group: below, an accuracy of 0.8 is known to no better than 0.15
AGE = "age"
SCORES = ("accuracy", "balanced", "f1")


@dataclass(frozen=True)
class Labelled:
    """The faces (N) of one data set, in folds, with what it says of them.

    Attributes:
        rows: With a sample_id.
        subject, fold: (N,) number of each face's subject, from 0, and its fold.
        truth: Each task's labels (N,): the number of the class, or the age in years; -1 where unknown.
        classes: Each task's classes in order; none for age.
        refused: The tasks that cannot be tested, with the reason.
        group: (N,) group of each face, such as "female black", or "" where it is not known.
    """

    source: str
    rows: pd.DataFrame
    subject: Integers
    fold: Integers
    truth: dict[str, Integers]
    classes: dict[str, list[str]]
    refused: dict[str, str]
    group: NDArray[np.str_]

    @property
    def tasks(self) -> list[str]:
        """Return the tasks that can be tested."""
        return list(self.truth)

    @property
    def subjects(self) -> int:
        """Return P."""
        return int(self.subject.max()) + 1


def confusion_scores(confusion: Floats) -> dict[str, Floats]:
    """Return accuracy, balanced accuracy and macro F1 (R,) of confusion matrices (R, C, C).

    These count, or weigh, true classes (rows) by predicted ones (columns). As scikit-learn has them: the mean
    recall of the classes that occur, and the mean F1 of the classes that occur or are predicted. NaN for a
    matrix without any count.
    """
    right = confusion.diagonal(axis1=1, axis2=2)
    occurs, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    # A class that plays no part, 0 / 0, is left out of the means.
    return {
        "accuracy": ratio(right.sum(axis=1), occurs.sum(axis=1)),
        "balanced": metrics.mean_of_defined(ratio(right, occurs)),
        "f1": metrics.mean_of_defined(ratio(2 * right, occurs + predicted)),
    }


def confusion_per_subject(
    subject: Integers, truth: Integers, predicted: Integers, subjects: int, classes: int
) -> Floats:
    """Return each subject's confusion matrix, (P, C, C); times weights (R, P) it is that of the resamples."""
    cells = (subject * classes + truth) * classes + predicted
    counts = np.bincount(cells, minlength=subjects * classes * classes)
    return counts.reshape(subjects, classes, classes).astype(np.float64)


def mean_per_resample(values: Floats, subject: Integers, weights: Floats) -> Floats:
    """Return the mean (R,) of values of faces (N,), each as often as its subject (N,) is drawn (R, P)."""
    total = np.bincount(subject, weights=values, minlength=weights.shape[1])
    count = np.bincount(subject, minlength=weights.shape[1]).astype(np.float64)
    return ratio(weights @ total, weights @ count)


def measure(
    labelled: Labelled, predicted: Mapping[str, Floats], note: str, resamples: int, seed: int
) -> list[Measurement]:
    """Score each task's prediction (N,), a class's number or an age in years, over all faces and by group.

    `note` says how they were made. Returns gender_accuracy, gender_balanced, gender_f1 and so on, age_error
    in years; those that the data do not allow without a value. The resamples depend on the subjects and the
    seed.
    """
    found: list[Measurement] = []
    for name, reason in labelled.refused.items():
        scores = ["error"] if name == AGE else SCORES
        found += refused(PROTOCOL, [f"{name}_{score}" for score in scores], 0, reason)
    if not labelled.tasks:
        return found
    weights = identity_weights(labelled.subjects, resamples, seed).astype(np.float64)
    for name in labelled.tasks:
        if name == AGE:
            found += _measure_age(labelled, predicted[name], note, weights)
        else:
            found += _measure_classes(labelled, name, predicted[name].astype(np.int64), note, weights)
    return found


def _measure_classes(
    labelled: Labelled, name: str, predicted: Integers, note: str, weights: Floats
) -> list[Measurement]:
    known, classes = labelled.truth[name] != UNKNOWN, len(labelled.classes[name])
    truth, guess, subject = labelled.truth[name][known], predicted[known], labelled.subject[known]
    of_subjects = confusion_per_subject(subject, truth, guess, weights.shape[1], classes)
    drawn = with_everyone(weights) @ of_subjects.reshape(len(of_subjects), -1)
    scores = confusion_scores(drawn.reshape(-1, classes, classes))
    most = int(np.bincount(truth).argmax())
    always, share = labelled.classes[name][most], float((truth == most).mean())
    trivial = {"accuracy": share, "balanced": 1 / classes, "f1": 2 * share / (1 + share) / classes}
    text = f"{note}; always {always} would give"
    found = [
        Measurement.of(PROTOCOL, f"{name}_{score}", values, len(truth), f"{text} {trivial[score]:.3f}")
        for score, values in scores.items()
    ]
    right = tuple((labelled.truth[name] == each).astype(float) for each in (predicted, most))
    return found + _by_group(labelled, known, f"{name}_accuracy", right, text, weights)


def _measure_age(labelled: Labelled, predicted: Floats, note: str, weights: Floats) -> list[Measurement]:
    truth, name = labelled.truth[AGE], f"{AGE}_error"
    known = truth != UNKNOWN
    median = float(np.median(truth[known]))
    values = np.abs(predicted - truth), np.abs(median - truth)
    text = f"{note}; years; always {median:g} would give"
    overall = _mean(labelled, known, name, values, text, weights)
    return [overall, *_by_group(labelled, known, name, values, text, weights)]


def _by_group(
    labelled: Labelled, known: Booleans, name: str, values: tuple[Floats, ...], text: str, weights: Floats
) -> list[Measurement]:
    """Return the mean of the faces' values in each group, which has to have enough faces.

    The values (N,) are of the predictions, and of the same prediction for all, whose mean ends the note.
    """
    found = []
    for group in np.unique(labelled.group[labelled.group != ""]).tolist():
        chosen = known & (labelled.group == group)
        count = int(chosen.sum())
        if count < GROUP_FACES:
            few = f"{count} faces of this group have a label; {GROUP_FACES} are needed"
            found += refused(PROTOCOL, [name], count, few, group)
            continue
        found.append(replace(_mean(labelled, chosen, name, values, text, weights), condition=group))
    return found


def _mean(
    labelled: Labelled, chosen: Booleans, name: str, values: tuple[Floats, ...], text: str, weights: Floats
) -> Measurement:
    own, trivial = (each[chosen] for each in values)
    samples = mean_per_resample(own, labelled.subject[chosen], weights)
    return Measurement(PROTOCOL, name, float(own.mean()), len(own), f"{text} {trivial.mean():.3f}", samples)


def predictions(labelled: Labelled, predicted: Mapping[str, Floats]) -> pd.DataFrame:
    """Return each known label with its prediction as text, `PREDICTION_COLUMNS`; ages in years."""
    tables = []
    for name in labelled.tasks:
        known, classes = np.flatnonzero(labelled.truth[name] != UNKNOWN), labelled.classes[name]
        truth, guess = labelled.truth[name][known], predicted[name][known]
        columns: dict[str, Any] = {
            "sample_id": labelled.rows["sample_id"].to_numpy()[known],
            "task": name,
            "fold": labelled.fold[known],
            "truth": [classes[each] if classes else str(each) for each in truth.tolist()],
            "predicted": [classes[int(each)] if classes else f"{each:.3f}" for each in guess.tolist()],
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables or [pd.DataFrame(columns=PREDICTION_COLUMNS)], ignore_index=True)
