import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from facemae.evaluation.protocols.attributes import (
    GROUP_FACES,
    Labelled,
    confusion_per_subject,
    confusion_scores,
    mean_per_resample,
    measure,
)
from facemae.evaluation.statistics import identity_weights


def labelled_by_hand(**changes):
    known = {
        "source": "made",
        "rows": pd.DataFrame({"sample_id": [str(n) for n in range(6)]}),
        "subject": np.array([0, 0, 1, 1, 2, 2]),
        "fold": np.array([0, 0, 0, 0, 1, 1]),
        "truth": {"gender": np.array([0, 0, 1, 1, 1, -1])},
        "classes": {"gender": ["female", "male"]},
        "refused": {},
        "group": np.full(6, ""),
    }
    return Labelled(**{**known, **changes})


def test_scores_of_a_confusion_by_hand():
    scores = confusion_scores(
        np.array([[[3.0, 1.0], [2.0, 4.0]], [[0.0, 0.0], [1.0, 3.0]], np.zeros((2, 2))])
    )
    assert scores["accuracy"][:2].tolist() == pytest.approx([0.7, 0.75])
    assert scores["balanced"][:2].tolist() == pytest.approx([(3 / 4 + 4 / 6) / 2, 0.75])
    assert scores["f1"][:2].tolist() == pytest.approx([(6 / 9 + 8 / 11) / 2, (0 + 6 / 7) / 2])
    assert all(np.isnan(values[2]) for values in scores.values())


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_weighted_confusions_are_those_of_the_drawn_subjects():
    draw = np.random.default_rng(0)
    subject, truth = draw.integers(0, 9, 60), draw.integers(0, 4, 60)
    guess = np.where(draw.random(60) < 0.5, truth, draw.integers(0, 4, 60))
    weights = identity_weights(9, 20, 0)
    each = confusion_per_subject(subject, truth, guess, 9, 4)
    scores = confusion_scores((weights @ each.reshape(9, -1)).reshape(-1, 4, 4))
    means = mean_per_resample((truth == guess).astype(float), subject, weights.astype(float))
    for number, weight in enumerate(weights):
        rows = np.concatenate([np.flatnonzero(subject == one) for one in np.repeat(np.arange(9), weight)])
        assert scores["accuracy"][number] == pytest.approx(accuracy_score(truth[rows], guess[rows]))
        assert scores["balanced"][number] == pytest.approx(balanced_accuracy_score(truth[rows], guess[rows]))
        expected = f1_score(truth[rows], guess[rows], average="macro")
        assert scores["f1"][number] == pytest.approx(expected)
        assert means[number] == pytest.approx(accuracy_score(truth[rows], guess[rows]))


def test_what_is_always_said_stands_beside_each_score():
    found = {each.name: each for each in measure(labelled_by_hand(), {"gender": np.ones(6)}, "note", 100, 0)}
    for score, value in {"accuracy": 0.6, "balanced": 0.5, "f1": 0.375}.items():
        measured = found[f"gender_{score}"]  # the prediction is always male: it scores what the note says
        assert measured.value == pytest.approx(value)
        assert f"always male would give {value:.3f}" in measured.note
        assert measured.n == 5


def test_groups_are_measured_apart_and_small_ones_refused():
    count = 2 * GROUP_FACES
    truth = np.arange(count) % 2
    group = np.where(np.arange(count) < GROUP_FACES + 1, "female black", "male white")
    labelled = labelled_by_hand(
        subject=np.arange(count), fold=np.zeros(count), truth={"gender": truth}, group=group
    )
    predicted = np.where(group == "female black", truth, 1 - truth).astype(float)
    found = measure(labelled, {"gender": predicted}, "note", 100, 0)
    of_groups = {each.condition: each for each in found if each.condition}
    assert of_groups["female black"].value == 1.0
    assert of_groups["female black"].n == GROUP_FACES + 1
    assert of_groups["male white"].value is None
    assert f"{GROUP_FACES - 1} faces of this group" in of_groups["male white"].note
