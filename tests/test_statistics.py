"""Intervals and verdicts against hand-computed cases and simulations with both sources of error."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae import statistics
from facemae.statistics import Difference, Estimate

PEOPLE, SEEDS, RESAMPLES = 30, 3, 200


def simulated(rng, trials, people_sd, seed_sd, weights, seeds=SEEDS):
    """Draw values of a mean over people: everyone's own effect, every seed's, and a little of both.

    Returns:
        Points `(trials, S)` and samples `(trials, S, R)` around a truth of 0.
    """
    person = people_sd * rng.normal(size=(trials, 1, PEOPLE))
    seed = seed_sd * rng.normal(size=(trials, seeds, 1))
    values = person + seed + 0.3 * people_sd * rng.normal(size=(trials, seeds, PEOPLE))
    return values.mean(axis=2), values @ weights.T / PEOPLE


def a_difference(value, error=1.0, freedom=10.0, covers_seeds=True):
    p_value = float(2 * scipy.stats.t.sf(abs(value) / error, freedom))
    return Difference(Estimate(value, value, value, error, freedom, covers_seeds), p_value)


def test_identity_weights_draw_everyone_once_on_average():
    weights = statistics.identity_weights(10, 2000, seed=3)
    assert weights.shape == (2000, 10)
    assert (weights.sum(axis=1) == 10).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.1)
    assert weights.var() == pytest.approx(0.9, abs=0.05)  # binomial: P * 1/P * (1 - 1/P)


def test_identity_weights_are_those_of_their_seed():
    first, again, other = (statistics.identity_weights(10, 50, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_identity_weights_always_draw_two_people():
    assert (statistics.identity_weights(2, 500, seed=0) == 1).all()
    drawn = (statistics.identity_weights(3, 500, seed=0) > 0).sum(axis=1)
    assert set(drawn.tolist()) == {2, 3}
    for people, resamples in ((1, 5), (5, 0)):
        with pytest.raises(ValueError, match="needs 2 people and 1 resample"):
            statistics.identity_weights(people, resamples, seed=0)


def test_percentile_interval_by_hand():
    values = np.random.default_rng(0).permutation(np.arange(101.0))
    assert statistics.percentile_interval(values) == pytest.approx((2.5, 97.5))
    assert statistics.percentile_interval(values, 0.8) == pytest.approx((10, 90))
    assert statistics.percentile_interval([*values, np.nan, np.nan]) == pytest.approx((2.5, 97.5))


def test_percentile_interval_needs_samples_in_its_tails():
    assert statistics.percentile_interval(np.arange(40.0)) == pytest.approx((0.975, 38.025))
    with pytest.raises(ValueError, match="95% interval needs 40 finite samples, got 39"):
        statistics.percentile_interval([*np.arange(39.0), np.nan])
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        statistics.percentile_interval(np.arange(100.0), 95)


def test_combine_by_hand():
    # People: the resamples' seed means are 1, 2, 3, their variance 1, times 4/3. Seeds: variance 4, by 2.
    point, samples = [1 - math.sqrt(2), 1 + math.sqrt(2)], [[0, 2, 4], [2, 2, 2]]
    estimate = statistics.combine(point, samples, people=4)
    people, seeds = 4 / 3, 4 / 2
    freedom = (people + seeds) ** 2 / (people**2 / 3 + seeds**2 / 1)
    margin = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(people + seeds)
    assert estimate.value == pytest.approx(1)
    assert estimate.standard_error == pytest.approx(math.sqrt(people + seeds))
    assert estimate.degrees_of_freedom == pytest.approx(freedom)
    assert (estimate.low, estimate.high) == pytest.approx((1 - margin, 1 + margin))
    assert estimate.covers_seeds


def test_one_seed_covers_people_only():
    estimate = statistics.combine([5.0], [[4.0, 5.0, 6.0]], people=4)
    assert not estimate.covers_seeds
    assert estimate.degrees_of_freedom == 3
    assert estimate.standard_error == pytest.approx(math.sqrt(4 / 3))
    assert estimate.high - 5 == pytest.approx(scipy.stats.t.ppf(0.975, 3) * math.sqrt(4 / 3))


def test_seeds_that_agree_add_nothing():
    estimate = statistics.combine([5.0, 5.0], [[4.0, 5.0, 6.0]] * 2, people=4)
    assert estimate.covers_seeds
    assert estimate.degrees_of_freedom == 3
    constant = statistics.combine([5.0, 5.0], [[5.0, 5.0]] * 2, people=4)
    assert (constant.low, constant.high, constant.standard_error) == (5, 5, 0)


def test_a_resample_that_is_nan_for_one_seed_is_left_out_for_all():
    samples = np.array([[1.0, 2.0, 3.0, np.nan], [2.0, 4.0, 6.0, 100.0]])
    assert statistics.combine([2, 4], samples, 10) == statistics.combine([2, 4], samples[:, :3], 10)
    with pytest.raises(ValueError, match="2 resamples with a value for every seed, got 1"):
        statistics.combine([2, 4], samples[:, 2:], 10)


@pytest.mark.parametrize(
    ("point", "samples", "people", "level", "reason"),
    [
        ([], np.zeros((0, 3)), 5, 0.95, "points"),
        ([1.0], [1.0, 2.0], 5, 0.95, "points"),
        ([1.0], [[1.0, 2.0]] * 2, 5, 0.95, "points"),
        ([np.nan], [[1.0, 2.0]], 5, 0.95, "seed is not finite"),
        ([1.0], [[1.0, 2.0]], 1, 0.95, "needs 2 of them, got 1"),
        ([1.0], [[1.0, 2.0]], 5, 1.0, "between 0 and 1"),
    ],
)
def test_combine_refuses(point, samples, people, level, reason):
    with pytest.raises(ValueError, match=reason):
        statistics.combine(point, samples, people, level)


@pytest.mark.parametrize(
    ("people_sd", "seed_sd"), [(1.0, 0.0), (1.0, 0.2), (0.3, 1.0)], ids=["people", "both", "seeds"]
)
def test_intervals_cover_the_truth_as_often_as_they_say(people_sd, seed_sd):
    rng = np.random.default_rng(0)
    weights = statistics.identity_weights(PEOPLE, RESAMPLES, seed=0)
    points, samples = simulated(rng, 1000, people_sd, seed_sd, weights)
    estimates = [statistics.combine(*trial, PEOPLE) for trial in zip(points, samples, strict=True)]
    coverage = np.mean([each.low <= 0 <= each.high for each in estimates])
    assert 0.92 < coverage < 0.98
    # What the interval is for: people alone would promise too much where seeds matter.
    blind = [statistics.combine(p[:1], s[:1], PEOPLE) for p, s in zip(points, samples, strict=True)]
    covered = np.mean([each.low <= 0 <= each.high for each in blind])
    assert covered < 0.9 if seed_sd else covered > 0.92


def test_difference_is_paired():
    rng = np.random.default_rng(1)
    weights = statistics.identity_weights(PEOPLE, RESAMPLES, seed=0)
    (point,), (samples,) = simulated(rng, 1, 1.0, 0.2, weights)
    (noise,), (noise_samples,) = simulated(rng, 1, 0.01, 0.001, weights)
    found = statistics.difference(point + 0.1 + noise, samples + 0.1 + noise_samples, point, samples, PEOPLE)
    assert found.estimate.value == pytest.approx(0.1, abs=0.01)
    assert found.estimate.standard_error < 0.05 * statistics.combine(point, samples, PEOPLE).standard_error
    assert found.p_value < 0.001


def test_difference_turns_round():
    rng = np.random.default_rng(1)
    weights = statistics.identity_weights(PEOPLE, RESAMPLES, seed=0)
    points, samples = simulated(rng, 2, 1.0, 0.2, weights)
    forth = statistics.difference(points[0], samples[0], points[1], samples[1], PEOPLE)
    back = statistics.difference(points[1], samples[1], points[0], samples[0], PEOPLE)
    assert forth.p_value == pytest.approx(back.p_value)
    assert (forth.estimate.value, forth.estimate.low) == pytest.approx(
        (-back.estimate.value, -back.estimate.high)
    )


@given(st.integers(0, 10**6), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=30, deadline=None)
def test_p_value_and_interval_agree(seed, level):
    rng = np.random.default_rng(seed)
    weights = statistics.identity_weights(PEOPLE, 50, seed=0)
    points, samples = simulated(rng, 2, 1.0, 0.3, weights)
    found = statistics.difference(points[0], samples[0], points[1], samples[1], PEOPLE, level)
    ratio = abs(found.estimate.value) / found.estimate.standard_error
    expected = 2 * scipy.stats.t.sf(ratio, found.estimate.degrees_of_freedom)
    assert found.p_value == pytest.approx(expected, rel=1e-6)
    assert (found.p_value < 1 - level) == (not found.estimate.low <= 0 <= found.estimate.high)


def test_difference_without_any_spread_is_certain():
    point, samples = np.ones(3), np.ones((3, 50))
    assert statistics.difference(point, samples, point, samples, 10).p_value == 1.0
    assert statistics.difference(point + 1, samples + 1, point, samples, 10).p_value == 0.0
    with pytest.raises(ValueError, match="a pair has one shape"):
        statistics.difference(point, samples, point, samples[:, :40], 10)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and .04 may not be below .06.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert statistics.holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([0.3]) == pytest.approx([0.3])
    assert len(statistics.holm([])) == 0
    for wrong in ([-0.1], [1.1], [np.nan], [[0.1]]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            statistics.holm(wrong)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values):
    p, adjusted = np.array(p_values), statistics.holm(p_values)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(len(p) * p, 1)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize("higher", [True, False])
def test_a_clear_difference_is_called_and_turns_round(higher):
    family = [a_difference(9.0), a_difference(-9.0), a_difference(0.5)]
    better, worse = ("better", "worse") if higher else ("worse", "better")
    found = statistics.verdicts(family, higher)
    assert [each.verdict for each in found] == [better, worse, "tie"]
    assert [each.p_adjusted for each in found] == pytest.approx(
        statistics.holm([each.p_value for each in family])
    )
    assert [(each.estimate, each.p_value) for each in found] == [(e.estimate, e.p_value) for e in family]


def test_every_difference_can_have_its_own_direction():
    family = [a_difference(9.0), a_difference(9.0)]
    assert [v.verdict for v in statistics.verdicts(family, [True, False])] == ["better", "worse"]
    with pytest.raises(ValueError, match="zip"):
        statistics.verdicts(family, [True])
    with pytest.raises(ValueError, match="alpha"):
        statistics.verdicts(family, True, alpha=0)


def test_the_family_is_corrected():
    close = a_difference(2.4)
    assert close.p_value == pytest.approx(0.037, abs=0.001)
    assert statistics.verdicts([close], True)[0].verdict == "better"
    assert statistics.verdicts([close, a_difference(0.0)], True)[0].verdict == "tie"


def test_single_seeds_are_undecided_and_ease_no_correction():
    single, close = a_difference(50.0, covers_seeds=False), a_difference(2.4)
    found = statistics.verdicts([single, close], True)
    assert [each.verdict for each in found] == ["undecided", "tie"]
    assert found[0].p_value < 1e-6
    assert found[0].p_adjusted == 1
    assert found[1].p_adjusted == pytest.approx(2 * close.p_value)


def test_detectable_by_hand():
    found = statistics.verdicts([a_difference(0.0, error=0.02, freedom=8.0)] * 5, True)
    expected = (scipy.stats.t.ppf(1 - 0.05 / 10, 8) + scipy.stats.t.ppf(0.8, 8)) * 0.02
    assert [each.detectable for each in found] == pytest.approx([expected] * 5)


def verdicts_of_trials(shift, trials=1000, strategies=4):
    """Compare strategies with one baseline on the same people, `shift` above it in truth."""
    rng = np.random.default_rng(0)
    weights = statistics.identity_weights(PEOPLE, 100, seed=0)
    person = rng.normal(size=(trials, 1, PEOPLE))
    shared = person.mean(axis=2), person @ weights.T / PEOPLE
    own = [simulated(rng, trials, 0.5, 0.1, weights) for _ in range(strategies + 1)]
    points = [shared[0] + point for point, _ in own]
    samples = [shared[1] + sample for _, sample in own]
    return [
        statistics.verdicts(
            [
                statistics.difference(
                    points[k][t] + shift, samples[k][t] + shift, points[0][t], samples[0][t], PEOPLE
                )
                for k in range(1, strategies + 1)
            ],
            True,
        )
        for t in range(trials)
    ]


def test_false_verdicts_in_a_family_are_rare():
    false = np.mean([any(each.verdict != "tie" for each in family) for family in verdicts_of_trials(0.0)])
    assert false <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_the_detectable_difference_is_called_about_as_often_as_promised():
    detectable = np.mean([each.detectable for family in verdicts_of_trials(0.0) for each in family])
    called = np.mean(
        [each.verdict == "better" for family in verdicts_of_trials(float(detectable)) for each in family]
    )
    assert called > 0.7
