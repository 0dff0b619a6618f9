"""Metrics against hand-computed cases, scikit-learn and brute force over literal copies."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.core.errors import RefusedError
from facemae.evaluation import metrics
from facemae.evaluation import pairs as pair_core
from facemae.evaluation.pairs import Comparisons, all_pairs

FEW = settings(max_examples=30, deadline=None)
VERIFICATION = {
    "roc_auc": metrics.roc_auc_score,
    "eer": metrics.equal_error_rate,
    "tar": lambda pairs, weights=None: tar_at_far(pairs, 0.2, weights)[0],
    "far": lambda pairs, weights=None: tar_at_far(pairs, 0.2, weights)[1],
}


def tar_at_far(pairs, target, weights=None):
    return metrics.rates(pairs, weights, [target])[2:]


def fold_thresholds(pairs, fold, weights=None):
    return metrics.best_thresholds(metrics.split_by_person(pairs, fold), weights)


def accuracy_score(pairs, fold, weights=None):
    """Return the mean over folds of the balanced accuracy, (R,)."""
    splits = metrics.split_by_person(pairs, fold)
    thresholds = metrics.best_thresholds(splits, weights)
    return metrics.mean_of_defined(metrics.balanced_accuracies(splits, thresholds, weights))


def of(genuine, impostor):
    """Build pairs from scores: every genuine pair is of person 0, every impostor pair of persons 0 and 1."""
    second = [0] * len(genuine) + [1] * len(impostor)
    return Comparisons(np.array([*genuine, *impostor], float), np.zeros(len(second), int), np.array(second))


def faces(people=12, images=4, noise=0.7, seed=0):
    """Return embeddings around one direction per person, and whose they are."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(people), images)
    return rng.normal(size=(people, 8))[identity] + noise * rng.normal(size=(len(identity), 8)), identity


def pairs_with_ties(seed=0, **kwargs):
    pairs = all_pairs(*faces(seed=seed, **kwargs))
    return Comparisons(pairs.score.round(1), pairs.first, pairs.second)


def counts(people, resamples, seed=0):
    return np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=resamples)


def with_copies(pairs, weight):
    """Write every copy of every pair out: copies of one person never meet, all others do."""
    copies = [
        k
        for k, (a, b) in enumerate(zip(pairs.first, pairs.second, strict=True))
        for copy_a in range(weight[a])
        for copy_b in range(weight[b])
        if a != b or copy_a == copy_b
    ]
    return pairs.take(np.array(copies, int))


def brute_force_accuracy(pairs, fold):
    """Follow the definition with loops: every distinct score of the other folds, lowest best cut."""

    def rates(chosen, threshold):
        accepted = chosen.score >= threshold
        return accepted[chosen.genuine].mean(), accepted[~chosen.genuine].mean()

    values = []
    for k in np.unique(fold):
        inside = (fold[pairs.first] == k) & (fold[pairs.second] == k)
        outside = (fold[pairs.first] != k) & (fold[pairs.second] != k)
        others, tested = pairs.take(outside), pairs.take(inside)
        if len({*tested.genuine.tolist()}) < 2:
            continue
        distinct = [*np.unique(others.score), np.inf]  # rising, so the first best is the lowest
        gains = [round(tar - far, 9) for tar, far in (rates(others, score) for score in distinct)]
        best = int(np.argmax(gains))
        threshold = -np.inf if best == 0 else (distinct[best - 1] + distinct[best]) / 2
        tar, far = rates(tested, threshold)
        values.append((tar + 1 - far) / 2)
    return np.mean(values)


def test_auc_by_hand():
    # 0.9 beats both impostors, 0.5 beats one and ties with the other: (2 + 1.5) / 4.
    assert metrics.roc_auc_score(of([0.9, 0.5], [0.5, 0.1])) == pytest.approx([3.5 / 4])


def test_eer_by_hand():
    # Cuts (FAR, FNMR): (0, 1) (0, 1/2) (1/2, 1/2): they meet at 1/2.
    assert metrics.equal_error_rate(of([0.9, 0.3], [0.5, 0.1])) == pytest.approx([0.5])
    # (0, 1/3) then (1/2, 1/3): two thirds of the way, where FAR reaches 1/3.
    assert metrics.equal_error_rate(of([0.9, 0.8, 0.1], [0.5, 0.05])) == pytest.approx([1 / 3])
    # One tie of everything: the line from (0, 1) to (1, 0).
    assert metrics.equal_error_rate(of([0.5, 0.5], [0.5])) == pytest.approx([0.5])


def test_tar_at_far_by_hand():
    impostor = np.arange(100) / 100
    pairs = of([0.985, 0.975, 0.965, 0.5], impostor)
    tar, far = tar_at_far(pairs, 0.3)
    # 30 of 100 impostors lie at or above 0.70; the genuine pair at 0.5 stays out.
    assert (tar[0], far[0]) == pytest.approx((0.75, 0.3))
    # All accepted at 0.5 are too many, and a tie cannot be split: 0 is what is left.
    tar, far = tar_at_far(of([0.9, 0.5], [0.5] * 100), 0.4)
    assert (tar[0], far[0]) == pytest.approx((0.5, 0.0))


def test_tar_at_far_reaches_a_target_that_products_of_floats_miss():
    assert 0.57 * 400 < 228  # 228 of 400 are 57 %
    for percent in range(10, 60):
        _, far = tar_at_far(of([0.0], np.arange(1, 401)), float(f"0.{percent}"))
        assert far[0] * 400 == pytest.approx(4 * percent)


def test_rule_of_30():
    needed = {0.1: 300, 0.01: 3000, 0.001: 30000, 0.0003: 100000, 0.07: 429}
    assert {far: metrics.impostors_needed(far) for far in needed} == needed
    assert metrics.too_few(299, 0.1) == "needs 300 impostor pairs, this evaluation has 299"
    assert metrics.too_few(300, 0.1) == ""


def test_accuracy_by_hand():
    # Fold 0 holds people 0 and 1, fold 1 people 2 and 3; a pair across the folds must not count at all.
    first = np.array([0, 1, 0, 0, 2, 3, 2, 2, 0])
    second = np.array([0, 1, 1, 1, 2, 3, 3, 3, 2])
    score = np.array([0.9, 0.5, 0.4, 0.1, 0.8, 0.7, 0.6, 0.2, 1.0])
    pairs, fold = Comparisons(score, first, second), np.array([0, 0, 1, 1])
    assert fold_thresholds(pairs, fold) == pytest.approx(np.array([[0.65, 0.45]]))
    # Fold 0 at 0.65: TAR 1/2, FAR 0. Fold 1 at 0.45: TAR 1, FAR 1/2.
    assert accuracy_score(pairs, fold) == pytest.approx([0.75])


def test_of_equally_good_cuts_the_lowest_is_taken():
    # On people 2 and 3 the cuts below 0.9 and below 0.5 both have TAR - FAR = 1/2.
    first = np.array([2, 2, 3, 2, 0, 0])
    second = np.array([2, 3, 3, 3, 0, 1])
    pairs = Comparisons(np.array([0.9, 0.7, 0.5, 0.3, 0.8, 0.1]), first, second)
    with pytest.raises(RefusedError, match="fold 1"):
        fold_thresholds(pairs, np.array([0, 0, 1, 2]))
    assert fold_thresholds(pairs, np.array([0, 0, 1, 1]))[0, 0] == pytest.approx(0.4)


def test_a_score_at_the_threshold_is_accepted():
    first, second, fold = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])
    pairs = Comparisons(np.array([0.5, 0.125, 0.75, 0.25]), first, second)
    assert fold_thresholds(pairs, fold).tolist() == [[0.5, 0.3125]]
    assert accuracy_score(pairs, fold).tolist() == [1.0]
    # Nothing lies between neighbouring floats; the threshold must still turn the lower one down.
    above = np.nextafter(0.5, 1)
    neighbours = Comparisons(np.array([0.9, 0.1, above, 0.5]), first, second)
    assert fold_thresholds(neighbours, fold)[0, 0] == above


def test_a_threshold_that_accepts_all_is_minus_infinity():
    first, second = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 3])
    worst = Comparisons(np.array([0.1, 0.9, 0.1, 0.9]), first, second)
    fold = np.array([0, 0, 1, 1])
    assert fold_thresholds(worst, fold).tolist() == [[-np.inf, -np.inf]]
    assert accuracy_score(worst, fold) == pytest.approx([0.5])


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_that_of_scikit_learn(seed):
    pairs, weights = pairs_with_ties(seed), counts(12, 20, seed)
    truth, score = pairs.genuine, pairs.score
    assert metrics.roc_auc_score(pairs) == pytest.approx([sklearn.metrics.roc_auc_score(truth, score)])
    expected = [
        sklearn.metrics.roc_auc_score(
            truth, score, sample_weight=np.where(truth, w[pairs.first], w[pairs.first] * w[pairs.second])
        )
        for w in weights
    ]
    assert metrics.roc_auc_score(pairs, weights) == pytest.approx(expected)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("name", VERIFICATION)
@pytest.mark.parametrize("ties", [True, False])
def test_a_weight_is_that_many_copies(name, ties):
    pairs = pairs_with_ties() if ties else all_pairs(*faces())
    weights = counts(12, 8)
    expected = [VERIFICATION[name](with_copies(pairs, weight))[0] for weight in weights]
    assert VERIFICATION[name](pairs, weights) == pytest.approx(expected)
    assert np.ptp(expected) > 0


@pytest.mark.parametrize("ties", [True, False])
def test_accuracy_is_the_brute_force_on_copies(ties):
    pairs = pairs_with_ties() if ties else all_pairs(*faces())
    fold, weights = np.arange(12) % 3, counts(12, 20)
    assert accuracy_score(pairs, fold) == pytest.approx([brute_force_accuracy(pairs, fold)])
    expected = [brute_force_accuracy(with_copies(pairs, weight), fold) for weight in weights]
    assert accuracy_score(pairs, fold, weights) == pytest.approx(expected)
    assert np.ptp(expected) > 0


def test_a_fold_without_impostor_pairs_is_left_out_of_a_resample():
    pairs, fold = all_pairs(*faces(people=6, noise=1.0)), np.arange(6) % 3
    alone = np.array([[2, 1, 1, 0, 1, 1]])  # of fold 0 only person 0 is drawn
    expected = brute_force_accuracy(with_copies(pairs, alone[0]), fold)
    assert accuracy_score(pairs, fold, alone) == pytest.approx([expected])
    nothing = np.array([[2, 2, 2, 0, 0, 0]])
    assert np.isnan(accuracy_score(pairs, fold, nothing)).all()


def test_resamples_without_a_pair_are_nan():
    pairs = all_pairs(*faces(people=3, images=40))
    alone = np.array([[3, 0, 0], [1, 1, 1]])
    for metric in VERIFICATION.values():
        values = metric(pairs, alone)
        assert np.isnan(values).tolist() == [True, False]
    single = all_pairs(*faces(people=30, images=1))
    both = Comparisons(  # person 0 has a genuine pair and is not drawn
        np.append(single.score, 0.9), np.append(single.first, 0), np.append(single.second, 0)
    )
    weight = np.ones((1, 30), int)
    weight[0, 0] = 0
    assert all(np.isnan(VERIFICATION[name](both, weight)).all() for name in ("roc_auc", "eer", "tar"))


def test_chunks_do_not_change_a_value(monkeypatch):
    pairs, weights, fold = pairs_with_ties(), counts(12, 50), np.arange(12) % 3

    def values():
        verification = [metric(pairs, weights) for metric in VERIFICATION.values()]
        return np.array([*verification, accuracy_score(pairs, fold, weights)])

    whole = values()
    monkeypatch.setattr(pair_core, "_CHUNK_VALUES", 7 * len(pairs))
    assert np.array_equal(values(), whole)


def test_the_order_of_the_pairs_does_not_matter():
    pairs, weights, fold = pairs_with_ties(), counts(12, 10), np.arange(12) % 3
    shuffled = pairs.take(np.random.default_rng(1).permutation(len(pairs)))
    for metric in VERIFICATION.values():
        assert np.array_equal(metric(pairs, weights), metric(shuffled, weights))
    assert np.array_equal(accuracy_score(pairs, fold, weights), accuracy_score(shuffled, fold, weights))


def test_labels_of_the_tested_fold_cannot_influence_its_threshold():
    embeddings, identity = faces(people=12, images=5, noise=0.9)
    fold = np.arange(12) % 3
    inside = np.flatnonzero(fold[identity] == 0)
    poisoned = identity.copy()
    poisoned[inside] = np.random.default_rng(1).permutation(identity[inside])
    clean_pairs, poisoned_pairs = (all_pairs(embeddings, who) for who in (identity, poisoned))
    weights = np.concatenate([np.ones((1, 12), int), counts(12, 20)])
    clean, changed = (fold_thresholds(pairs, fold, weights) for pairs in (clean_pairs, poisoned_pairs))
    assert np.array_equal(clean[:, 0], changed[:, 0], equal_nan=True)
    assert (clean[0, 1:] != changed[0, 1:]).any()  # the poison works where labels may be seen
    assert accuracy_score(poisoned_pairs, fold) < accuracy_score(clean_pairs, fold)


def test_undefined_evaluations_say_why():
    one, fold = of([0.9, 0.8], []), np.array([0, 0])
    for metric in (metrics.roc_auc_score, metrics.equal_error_rate):
        with pytest.raises(RefusedError, match="no impostor pair"):
            metric(one)
        with pytest.raises(RefusedError, match="no genuine pair"):
            metric(of([], [0.1]))
    with pytest.raises(ValueError, match="score is not finite"):
        metrics.roc_auc_score(of([np.nan], [0.1]))
    with pytest.raises(RefusedError, match="fold 0 has no impostor pair"):
        accuracy_score(one, fold)
    with pytest.raises(RefusedError, match="other than 0 have no genuine pair"):
        accuracy_score(of([0.9], [0.1]), fold)
    pairs = all_pairs(*faces(people=6))
    with pytest.raises(RefusedError, match="fold 7 has no impostor pair"):
        accuracy_score(pairs, np.array([0, 0, 0, 1, 1, 7]))


SCORES = st.lists(st.integers(-20, 20), min_size=1, max_size=15)


@FEW
@given(SCORES, SCORES)
def test_monotone_transforms_change_no_rate(genuine, impostor):
    plain = of(genuine, impostor)
    bent = of([math.exp(score / 10) for score in genuine], [math.exp(score / 10) for score in impostor])
    assert metrics.roc_auc_score(plain) == metrics.roc_auc_score(bent)
    assert metrics.equal_error_rate(plain) == metrics.equal_error_rate(bent)


@FEW
@given(SCORES, SCORES)
def test_turning_the_scores_round_turns_the_rates_round(genuine, impostor):
    plain, turned = of(genuine, impostor), of([-s for s in genuine], [-s for s in impostor])
    assert metrics.roc_auc_score(plain) + metrics.roc_auc_score(turned) == pytest.approx(1)
    assert metrics.equal_error_rate(plain) + metrics.equal_error_rate(turned) == pytest.approx(1)


@FEW
@given(SCORES)
def test_eer_is_at_most_one_half_when_genuine_pairs_score_higher(impostor):
    genuine = [score + 3 for score in impostor]
    assert 0 <= metrics.equal_error_rate(of(genuine, impostor))[0] <= 0.5
    assert metrics.roc_auc_score(of(genuine, impostor))[0] >= 0.5
