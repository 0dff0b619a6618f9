"""Lists of pairs in folds: by hand, against a second implementation, scikit-learn, and poisoned labels."""

import itertools
import math

import numpy as np
import pytest
import sklearn.metrics

from facemae.core.errors import RefusedError
from facemae.evaluation.protocols import pair_list
from facemae.evaluation.variance import Dyads, people_variance


def view2(folds=10, per_fold=40, separation=2.0, seed=0, people=12):
    """A list like LFW's View 2: each fold its own people, genuine pairs first, as many impostor pairs."""
    rng = np.random.default_rng(seed)
    fold = np.repeat(np.arange(folds), 2 * per_fold)
    genuine = np.tile(np.repeat([True, False], per_fold), folds)
    one = rng.integers(0, people, len(fold))
    other = np.where(genuine, one, (one + rng.integers(1, people, len(fold))) % people)
    score = rng.normal(size=len(fold)) + separation * genuine
    return {
        "score": score, "first": fold * people + one, "second": fold * people + other, "genuine": genuine,
        "fold": fold,
    }  # fmt: skip


def run(pairs, far_targets=()):
    *listed, fold = pairs.values()
    found = pair_list.measure(pair_list.comparisons(*listed), fold, far_targets)
    return {each.name: each for each in found}


def variance(measured):
    """Return the variance over people of a measurement."""
    people = measured.influence.index
    first, second = (people.get_level_values(side).to_numpy() for side in ("first", "second"))
    return people_variance(Dyads(measured.influence.to_numpy()[None], first, second)).value


def second_implementation(score, genuine, fold):
    """Accuracy of each fold with loops over candidate thresholds; NaN never reaches one."""
    found = []
    for k in sorted(set(fold)):
        others, tested = fold != k, fold == k
        levels = sorted({x for x in score[others] if not math.isnan(x)})
        cuts = [-math.inf, *((a + b) / 2 for a, b in itertools.pairwise(levels)), math.inf]

        def balanced(where, cut):
            accepted = score[where] >= cut  # NaN is at or above nothing
            same = genuine[where]
            return (accepted[same].mean() + 1 - accepted[~same].mean()) / 2

        gains = [round(balanced(others, cut), 9) for cut in cuts]
        found.append(balanced(tested, cuts[int(np.argmax(gains))]))
    return np.array(found)


def test_ten_folds_are_those_of_a_second_implementation():
    for seed in range(3):
        pairs = view2(seed=seed)
        by_fold = second_implementation(pairs["score"], pairs["genuine"], pairs["fold"])
        found = run(pairs)["accuracy"]
        assert found.value == pytest.approx(by_fold.mean(), abs=1e-12)
        error = by_fold.std(ddof=1) / math.sqrt(10)
        assert found.note.startswith(f"standard error {error:.4f} over 10 folds; thresholds ")
        assert found.n == 800


def test_faces_that_were_not_found_are_rejected_whatever_the_threshold():
    for seed in range(3):
        pairs = view2(folds=4, seed=seed)
        pairs["score"][np.random.default_rng(seed).random(len(pairs["score"])) < 0.2] = np.nan
        by_fold = second_implementation(pairs["score"], pairs["genuine"], pairs["fold"])
        found = run(pairs)
        assert found["accuracy"].value == pytest.approx(by_fold.mean(), abs=1e-12)
        missing = int(np.isnan(pairs["score"]).sum())
        assert all(f"pairs rejected since a face was not found: {missing}" in x.note for x in found.values())


def test_by_hand():
    # Fold 0 from fold 1: its scores part at (0.8 + 0.2) / 2 = 0.5, so of fold 0 one genuine pair of two is
    # lost and no impostor accepted: 0.75. Fold 1 from fold 0: cuts below 0.9 and below 0.4 are equally good
    # (TAR - FAR = 1/2), the lowest is taken, (0.4 + 0.3) / 2, and tells fold 1 apart: 1.
    pairs = {
        "score": np.array([0.9, 0.4, 0.45, 0.3, 0.8, 0.8, 0.2, 0.1]),
        "first": np.array([0, 1, 0, 0, 2, 3, 2, 2]),
        "second": np.array([0, 1, 1, 1, 2, 3, 3, 3]),
        "genuine": np.array([True, True, False, False] * 2),
        "fold": np.array([0] * 4 + [1] * 4),
    }
    found = run(pairs)["accuracy"]
    assert found.value == pytest.approx((0.75 + 1) / 2)
    assert found.note.startswith("standard error 0.1250 over 2 folds; thresholds 0.350 to 0.500")


def test_a_genuine_pair_without_a_face_costs_its_fold_and_an_impostor_pair_does_not():
    perfect = view2(folds=2, per_fold=10, separation=100.0)
    assert run(perfect)["accuracy"].value == 1
    lost = {**perfect, "score": perfect["score"].copy()}
    lost["score"][np.flatnonzero(~perfect["genuine"])] = np.nan
    assert run(lost)["accuracy"].value == 1
    lost["score"][0] = np.nan  # one of ten genuine pairs of one of two folds
    assert run(lost)["accuracy"].value == pytest.approx(1 - 0.1 / 2 / 2)


def test_no_face_at_all_is_half_right():
    pairs = view2(folds=2)
    pairs["score"][:] = np.nan
    assert run(pairs)["accuracy"].value == 0.5


def test_the_labels_of_the_tested_fold_are_not_read_for_its_threshold(monkeypatch):
    pairs = view2(folds=4)
    clean = _thresholds(monkeypatch, pairs)
    for k in range(4):
        poisoned = {**pairs, "genuine": np.where(pairs["fold"] == k, ~pairs["genuine"], pairs["genuine"])}
        found = _thresholds(monkeypatch, poisoned)
        assert found[k] == clean[k]
        assert all(found[other] != clean[other] for other in range(4) if other != k)


def _thresholds(monkeypatch, pairs):
    """Return the thresholds that the point estimate of the accuracy used."""
    used = []
    original = pair_list.metrics.balanced_accuracies

    def watch(splits, thresholds, weights=None):
        if weights is None:
            used.extend(thresholds[0].tolist())
        return original(splits, thresholds, weights)

    with monkeypatch.context() as patch:
        patch.setattr(pair_list.metrics, "balanced_accuracies", watch)
        run(pairs)
    return used


def test_the_scores_of_the_tested_fold_do_not_move_its_threshold(monkeypatch):
    pairs = view2(folds=4)
    clean = _thresholds(monkeypatch, pairs)
    shifted = {**pairs, "score": pairs["score"] + 5 * (pairs["fold"] == 2)}
    assert _thresholds(monkeypatch, shifted)[2] == clean[2]


def test_shuffled_labels_are_at_chance_within_the_interval():
    inside = 0
    for seed in range(10):
        pairs = view2(seed=seed)
        pairs["genuine"] = np.random.default_rng(seed).permutation(pairs["genuine"])
        found = run(pairs)["accuracy"]
        inside += abs(found.value - 0.5) <= 1.96 * math.sqrt(variance(found))
        assert abs(found.value - 0.5) < 0.1
    assert inside >= 7


def test_area_and_rates_are_those_of_scikit_learn():
    pairs = view2(per_fold=150)
    found = run(pairs, (0.1, 0.01, 0.001))
    area = sklearn.metrics.roc_auc_score(pairs["genuine"], pairs["score"])
    assert found["roc_auc"].value == pytest.approx(area, abs=1e-12)
    far, tar, _ = sklearn.metrics.roc_curve(pairs["genuine"], pairs["score"], drop_intermediate=False)
    assert found["tar_at_far=0.1"].value == pytest.approx(tar[far <= 0.1].max(), abs=1e-12)
    assert found["far_at_target=0.1"].value <= 0.1
    refused = found["tar_at_far=0.01"]
    assert (refused.value, refused.influence) == (None, None)
    assert refused.note == "needs 3000 impostor pairs, this evaluation has 1500"


def test_missing_faces_lower_the_area_as_pairs_below_every_other():
    pairs = view2(folds=2)
    pairs["score"][::7] = np.nan
    filled = np.where(np.isnan(pairs["score"]), -1e9, pairs["score"])
    area = sklearn.metrics.roc_auc_score(pairs["genuine"], filled)
    assert run(pairs)["roc_auc"].value == pytest.approx(area, abs=1e-12)


def test_a_list_in_one_fold_is_cut_into_five_of_both_kinds():
    genuine = np.repeat([True, False], [12, 20])  # LFW's View 1 lists all genuine pairs first
    folds = pair_list.pair_folds(np.zeros(32, int), genuine)
    assert [int(((folds == k) & genuine).sum()) for k in range(5)] == [3, 2, 3, 2, 2]
    assert [int(((folds == k) & ~genuine).sum()) for k in range(5)] == [4] * 5
    assert (np.diff(folds[genuine]) >= 0).all()
    assert "over 5 folds" in run(view2(folds=1))["accuracy"].note


def test_a_short_list_in_one_fold_refuses_accuracy_alone():
    found = run(view2(folds=1, per_fold=4))
    assert found["accuracy"].value is None
    assert "takes 5 genuine and 5 impostor pairs, and this one has 4 and 4" in found["accuracy"].note
    assert found["roc_auc"].value is not None


def test_a_fold_of_one_kind_refuses_accuracy_and_says_which():
    pairs = view2(folds=3)
    pairs["genuine"] = pairs["genuine"] & (pairs["fold"] != 1)
    found = run(pairs)["accuracy"]
    assert (found.value, found.note) == (None, "fold 1 has no genuine pair")


def test_somebody_in_two_folds_is_said_and_not_refused():
    pairs = view2(folds=3)
    pairs["first"][0] = pairs["second"][0] = pairs["first"][-1]
    found = run(pairs)["accuracy"]
    assert found.value is not None
    assert found.note.endswith("; 1 of 36 people are in more than one fold")
    assert "people" not in run(view2(folds=3))["accuracy"].note


def test_pairs_of_unknown_people_weigh_as_their_photos():
    pairs = view2(folds=2)
    count = len(pairs["score"])
    pairs["first"], pairs["second"] = np.arange(count), np.arange(count, 2 * count)
    found = run(pairs)
    assert found["accuracy"].value == pytest.approx(run(view2(folds=2))["accuracy"].value)
    assert variance(found["accuracy"]) > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"genuine": np.zeros(160, bool)}, "there is no genuine pair"),
        ({"genuine": np.ones(160, bool)}, "there is no impostor pair"),
        ({"score": np.full(160, np.inf)}, "a score is not finite"),
    ],
)
def test_what_does_not_belong_together_is_refused(change, reason):
    pairs = view2(folds=2)
    with pytest.raises((RefusedError, ValueError), match=reason):
        run({**pairs, **change})
