"""Calibration against scikit-learn, and threshold cards that refuse what the data cannot support."""

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from facemae.core.errors import RefusedError
from facemae.evaluation.pairs import Comparisons
from facemae.evaluation.protocols import calibration
from facemae.evaluation.protocols.pair_list import comparisons
from facemae.evaluation.statistics import identity_weights


def scores(count=2000, seed=0, slope=2.0):
    """Scores whose true probability is known: 1 / (1 + exp(-slope * score))."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=count)
    genuine = rng.random(count) < 1 / (1 + np.exp(-slope * score))
    return score, genuine, np.arange(count) % 5


def run(score, genuine, fold, resamples=100):
    one = np.arange(len(score)) % 40
    second = np.where(genuine, one, (one + 1) % 40)
    pairs = comparisons(score, one, second, genuine)
    found = calibration.measure(pairs, fold, identity_weights(40, resamples, 0))
    return {each.name: each for each in found}


def test_the_fit_finds_the_truth():
    found = calibration.fit(*scores(count=50_000)[:2])
    assert found.slope == pytest.approx(2, rel=0.05)
    assert found.offset == pytest.approx(0, abs=0.05)
    assert found.probability([-1000.0, 0.0, 1000.0]) == pytest.approx([0, 0.5, 1], abs=0.02)


def test_the_unit_of_the_score_does_not_matter():
    score, genuine, _ = scores()
    first = calibration.fit(score, genuine).probability(score)
    other = calibration.fit(1e-3 * score + 7, genuine).probability(1e-3 * score + 7)
    assert other == pytest.approx(first, abs=1e-6)


def test_scores_that_tell_all_pairs_apart_still_give_probabilities():
    score = np.concatenate([np.linspace(0.8, 1, 50), np.linspace(0, 0.2, 50)])
    chance = calibration.fit(score, score > 0.5).probability(score)
    assert np.isfinite(chance).all()
    assert chance[:50].min() > 0.9
    assert chance[50:].max() < 0.1


def test_brier_and_calibration_error_are_those_of_scikit_learn():
    score, genuine, fold = scores()
    chance = calibration.probabilities(score, genuine, fold)
    found = run(score, genuine, fold)
    assert found["brier"].value == pytest.approx(brier_score_loss(genuine, chance), abs=1e-12)
    share, mean = calibration_curve(genuine, chance, n_bins=15, strategy="quantile")
    sizes = np.bincount(calibration.bins_of(chance))
    assert len(sizes) == 15
    assert np.ptp(sizes) <= 1
    expected = (np.abs(share - mean) * sizes).sum() / sizes.sum()
    assert found["ece"].value == pytest.approx(expected, abs=1e-12)
    assert all(len(each.samples) == 100 for each in found.values())


def test_a_fold_is_judged_by_the_calibration_of_the_others():
    score, genuine, fold = scores()
    chance = calibration.probabilities(score, genuine, fold)
    inside = fold == 3
    assert chance[inside] == pytest.approx(
        calibration.fit(score[~inside], genuine[~inside]).probability(score[inside])
    )
    poisoned = np.where(inside, ~genuine, genuine)
    found = calibration.probabilities(score, poisoned, fold)
    assert (found[inside] == chance[inside]).all()
    assert (found[~inside] != chance[~inside]).all()


def test_labels_that_are_shuffled_leave_the_base_rate():
    score, genuine, fold = scores()
    shuffled = np.random.default_rng(1).permutation(genuine)
    found = run(score, shuffled, fold)
    assert found["brier"].value == pytest.approx(0.25, abs=0.01)
    assert run(score, genuine, fold)["brier"].value < 0.2


def test_equal_probabilities_share_a_bin():
    chance = np.repeat([0.1, 0.5, 0.9], [50, 3, 50])
    assert [set(calibration.bins_of(chance)[part]) for part in (slice(0, 50), slice(53, 103))] == [{0}, {1}]
    assert len(set(calibration.bins_of(np.full(20, 0.3)))) == 1


def test_pairs_without_a_face_are_left_out_and_counted():
    score, genuine, fold = scores()
    kept = run(score[5:], genuine[5:], fold[5:])["brier"]
    score[:5] = np.nan
    found = run(score, genuine, fold)["brier"]
    assert (found.value, found.n) == (pytest.approx(kept.value), 1995)
    assert found.note == "pairs left out since a face was not found: 5"


def test_one_fold_is_cut_into_five_and_too_few_pairs_are_refused():
    score, genuine, _ = scores()
    assert run(score, genuine, np.zeros(2000, int))["ece"].value < 0.05
    few = run(score[:6], np.array([True] * 3 + [False] * 3), np.zeros(6, int))
    assert [each.value for each in few.values()] == [None, None]
    assert "this one has 3 and 3" in few["ece"].note


def test_a_fit_needs_both_kinds():
    for genuine, reason in (([True, True], "no impostor pair"), ([False, False], "no genuine pair")):
        with pytest.raises(RefusedError, match=reason):
            calibration.fit([0.1, 0.2], genuine)


def card_pairs(impostors=4000, genuine=300, people=50, seed=0):
    rng = np.random.default_rng(seed)
    same = np.repeat([True, False], [genuine, impostors])
    one = rng.integers(0, people, len(same))
    other = np.where(same, one, (one + rng.integers(1, people, len(same))) % people)
    return Comparisons(rng.normal(size=len(same)) + 2 * same, one, other)


def test_the_card_holds_rates_at_thresholds_with_intervals():
    pairs = card_pairs()
    card = calibration.threshold_card((pairs), identity_weights(50, 300, 0), 0.95)
    assert card.columns.to_list() == calibration.CARD_COLUMNS
    assert card["target_fmr"].to_list() == list(calibration.FMR_TARGETS)
    impostor, genuine = pairs.score[~pairs.genuine], pairs.score[pairs.genuine]
    for row in card[:2].to_dict("records"):
        assert row["note"] == ""
        assert row["fmr"] == pytest.approx((impostor >= row["threshold"]).mean())
        assert row["fmr"] == pytest.approx(row["target_fmr"])
        assert row["fnmr"] == pytest.approx((genuine < row["threshold"]).mean())
        assert row["fmr_low"] < row["fmr"] < row["fmr_high"]
        assert row["fnmr_low"] < row["fnmr"] < row["fnmr_high"]
    for row in card[2:].to_dict("records"):
        assert all(math.isnan(row[name]) for name in ("threshold", "fmr", "fnmr", "fmr_high"))
        assert row["note"].startswith("not enough impostors for this claim: it needs ")
        assert (row["impostors"], row["impostors_needed"]) == (4000, round(30 / row["target_fmr"]))


def test_no_error_seen_is_no_error_rate_of_zero():
    pairs = card_pairs()
    certain = Comparisons(pairs.score + 100 * pairs.genuine, pairs.first, pairs.second)
    row = calibration.threshold_card((certain), identity_weights(50, 100, 0), 0.95).iloc[0]
    assert (row["fnmr"], row["fnmr_low"]) == (0, 0)
    assert (1 - row["fnmr_high"]) ** 50 == pytest.approx(0.025)


def test_the_card_as_text_has_a_line_for_each_claim():
    card = calibration.threshold_card(
        (card_pairs()), identity_weights(50, 100, 0), 0.95, targets=(0.1, 0.001)
    )
    head, first, refused = calibration.card_text(card).splitlines()
    assert head.split()[:3] == ["wanted", "FMR", "threshold"]
    assert first.split()[0] == "0.1"
    assert f"{card['threshold'][0]:.4f}" in first
    assert refused.split(maxsplit=1)[1].startswith("not enough impostors for this claim: it needs 30000")
