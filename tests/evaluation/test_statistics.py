"""Estimates and intervals: hand-computed cases, brute force, and what chance alone brings."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.core.errors import RefusedError, UsageError
from facemae.evaluation import statistics, variance
from facemae.evaluation.statistics import Estimate, estimate
from facemae.evaluation.variance import Dyads, Resampled, Training, Variance

PEOPLE, SEEDS, RESAMPLES = 30, 3, 200
MARGIN = 0.1


def a_difference(value, error=1.0, freedom=10.0, covers_seeds=True):
    return Estimate(value, error, freedom, covers_seeds, 0.95)


def some_dyads(seed=0, people=6, networks=2):
    """Return the influence of all pairs of two people and of everyone alone."""
    first, second = np.triu_indices(people)
    values = np.random.default_rng(seed).normal(size=(networks, len(first)))
    return Dyads(values, first, second)


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
        with pytest.raises(RefusedError, match="needs 2 people and 1 resample"):
            statistics.identity_weights(people, resamples, seed=0)


def test_resamples_that_no_memory_holds_are_refused():
    with pytest.raises(UsageError, match="of 20 people take 160 GB of memory; use at most"):
        statistics.identity_weights(20, 10**9, seed=0)


def test_percentile_interval_by_hand():
    values = np.random.default_rng(0).permutation(np.arange(101.0))
    assert statistics.percentile_interval(values) == pytest.approx((2.5, 97.5))
    assert statistics.percentile_interval(values, 0.8) == pytest.approx((10, 90))
    assert statistics.percentile_interval([*values, np.nan, np.nan]) == pytest.approx((2.5, 97.5))


def test_percentile_interval_needs_samples_in_its_tails():
    assert statistics.percentile_interval(np.arange(40.0)) == pytest.approx((0.975, 38.025))
    with pytest.raises(RefusedError, match="95% interval needs 40 finite samples, got 39"):
        statistics.percentile_interval([*np.arange(39.0), np.nan])


# --- people ---


def test_the_variance_over_people_is_the_sum_over_all_pairs_that_share_a_person():
    dyads = some_dyads()
    pairs = [{int(a), int(b)} for a, b in zip(dyads.first, dyads.second, strict=True)]
    expected = np.zeros((2, 2))
    for p, q in itertools.product(range(len(pairs)), repeat=2):
        if pairs[p] & pairs[q]:
            expected += np.outer(dyads.rows[:, p], dyads.rows[:, q])
    found, alone = dyads.covariance()
    np.testing.assert_allclose(found, expected * 6 / 5)
    np.testing.assert_allclose(alone, dyads.rows @ dyads.rows.T * 6 / 5)


def test_pairs_without_a_common_person_have_the_variance_of_their_sum():
    rng = np.random.default_rng(0)
    dyads = Dyads(rng.normal(size=(1, 500)), np.arange(0, 1000, 2), np.arange(1, 1001, 2))
    found = variance.people_variance(dyads)
    assert found.value == pytest.approx((dyads.rows**2).sum(), rel=0.002)
    assert found.freedom == 999


def test_products_of_weights_count_a_pairs_own_noise_three_times():
    """What the variance of dyads is for: independent noise of each pair of people, and nothing else."""
    people = 60
    first, second = np.triu_indices(people, 1)
    noise = np.random.default_rng(0).normal(size=len(first))
    weights = statistics.identity_weights(people, 2000, 0)
    products = weights[:, first] * weights[:, second]
    means = (products @ noise) / products.sum(axis=1)
    truth = 1 / len(first)
    influence = (noise - noise.mean()) / len(first)
    assert variance.people_variance(Dyads(influence[None], first, second)).value < 2 * truth
    assert 2.2 < variance.people_variance(Resampled(means[None], people)).value / truth < 4.5


def test_a_variance_that_would_be_negative_is_that_of_independent_pairs():
    # Around a ring of people the pairs cancel: +1, -1, +1, -1.
    ring = Dyads(np.array([[1.0, -1.0, 1.0, -1.0]]), np.array([0, 1, 2, 0]), np.array([1, 2, 3, 3]))
    assert ring.covariance()[0][0, 0] < 0
    assert variance.people_variance(ring).value == pytest.approx(4 * 4 / 3)


def test_differences_are_those_of_the_influences():
    a, b = some_dyads(1), some_dyads(2)
    found = variance.people_variance(a - b)
    expected = Dyads(a.rows - b.rows, a.first, a.second)
    assert found == variance.people_variance(expected)
    assert variance.people_variance(a - a).value == 0
    with pytest.raises(ValueError, match="same pairs of people"):
        a - Dyads(b.rows, b.second, b.first)


def test_what_a_person_does_to_one_network_alone_is_not_the_peoples():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(1, 4000))
    first, second = np.arange(0, 8000, 2), np.arange(1, 8001, 2)
    own = rng.normal(size=(4, 4000))
    found = variance.people_variance(Dyads(common + own, first, second)).value
    assert found == pytest.approx(4000, rel=0.1)  # and not 4000 (1 + 1 / 4)
    single = variance.people_variance(Dyads((common + own)[:1], first, second)).value
    assert single == pytest.approx(8000, rel=0.1)


def test_resamples_by_hand():
    # The variance of the resamples 0, 2, 4 is 4, and the network beside it shares none of it.
    found = variance.people_variance(Resampled(np.array([[0.0, 2.0, 4.0]]), people=4))
    assert found == pytest.approx((4 * 4 / 3, 3))
    both = Resampled(np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 2.0]]), people=4)
    assert variance.people_variance(both).value == 0


def test_a_resample_that_is_nan_for_one_seed_is_left_out_for_all():
    samples = np.array([[1.0, 2.0, 3.0, np.nan], [2.0, 4.0, 7.0, 100.0]])
    whole, part = (variance.people_variance(Resampled(each, 10)) for each in (samples, samples[:, :3]))
    assert whole == part
    with pytest.raises(RefusedError, match="2 resamples with a value for every seed, got 1"):
        variance.people_variance(Resampled(samples[:, 2:], 10))


# --- training ---


def test_the_analysis_of_variance_by_hand():
    # Runs 0 +- 1 and 2 +- 3 over two seeds: the seeds' means lie 2 off, what is left is 1 in every cell.
    found = Training.of([[-1, 1], [-1, 5]])
    assert found.own == pytest.approx([4, 4])  # the sum of squares 4 over (2 - 1)(2 - 1)
    assert found.freedom == 1
    assert found.shared == pytest.approx((2 * 2 * 2**2, 1))
    assert found.between(0, 1) == pytest.approx((8, 1))  # of the differences 0 and -4: 8
    assert found.single(1).value == pytest.approx(2 + 8)


def test_what_a_seed_does_to_all_runs_alike_is_in_single_runs_alone():
    values = np.random.default_rng(0).normal(size=(5, 3))
    shifted = values + np.array([0.0, 10.0, -20.0])
    plain, moved = Training.of(values), Training.of(shifted)
    np.testing.assert_allclose(plain.own, moved.own)
    assert moved.single(0).value > 50
    assert moved.single(0).freedom < 2.1


def test_one_run_alone_has_its_own_variance():
    found = Training.of([[1.0, 2.0, 6.0]])
    assert found.single(0) == pytest.approx((7, 2))


def test_all_runs_together_are_unbiased_and_as_many_degrees_of_freedom_as_they_say():
    rng = np.random.default_rng(0)
    found = [Training.of(rng.normal(size=(7, 3)) + rng.normal(size=(1, 3))) for _ in range(2000)]
    pooled = np.array([each.own.mean() for each in found])
    assert pooled.mean() == pytest.approx(1, abs=0.02)
    assert pooled.var() == pytest.approx(2 / 12, rel=0.1)
    assert np.mean([each.single(0).value for each in found]) == pytest.approx(2, abs=0.1)


def test_variances_that_chance_explains_become_their_mean():
    moved, freedom = variance.moderated(np.array([0.5, 1.0, 1.5, 1.0]), 4)
    assert moved == pytest.approx(np.ones(4))
    assert freedom == 16
    assert variance.moderated(np.zeros(4), 2) == (pytest.approx(np.zeros(4)), 8)
    assert variance.moderated(np.array([1.0, 3.0]), 2) == (pytest.approx([2, 2]), 4)


def test_variances_that_differ_keep_their_order_and_fewer_degrees_of_freedom():
    variances = np.array([0.01, 1.0, 1.0, 100.0])
    moved, freedom = variance.moderated(variances, 20)
    assert (np.diff(moved) >= 0).all()
    assert variances[0] < moved[0] < moved[-1] < variances[-1]
    assert 20 < freedom < 80
    excess = np.log(variances).var(ddof=1) - scipy.special.polygamma(1, 10)
    prior = freedom - 20
    assert scipy.special.polygamma(1, prior / 2) == pytest.approx(excess)  # Smyth (2004), equation of d0


# --- intervals ---


def test_an_estimate_by_hand():
    # People: the seeds share nothing of the resamples 0, 2, 4 and 4, 2, 0 but -4 4/3, so 0. Training: 8 / 2.
    found = estimate([0.0, 2.0], Resampled(np.array([[0.0, 2, 4], [4, 2, 0]]), 4), Variance(8, 5))
    margin = scipy.stats.t.ppf(0.975, 5) * 2
    assert (found.value, found.standard_error, found.degrees_of_freedom) == pytest.approx((1, 2, 5))
    assert (found.low, found.high) == pytest.approx((1 - margin, 1 + margin))
    assert found.covers_seeds
    shared = estimate([0.0, 2.0], Resampled(np.array([[0.0, 2, 4]] * 2), 4), Variance(8, 5))
    people, training = 16 / 3, 4
    assert shared.standard_error == pytest.approx(math.sqrt(people + training))
    freedom = (people + training) ** 2 / (people**2 / 3 + training**2 / 5)
    assert shared.degrees_of_freedom == pytest.approx(freedom)


def test_one_seed_covers_people_only():
    found = estimate([5.0], Resampled(np.array([[4.0, 5.0, 6.0]]), 4))
    assert not found.covers_seeds
    assert found.degrees_of_freedom == 3
    assert found.high - 5 == pytest.approx(scipy.stats.t.ppf(0.975, 3) * math.sqrt(4 / 3))


def test_without_any_spread_an_estimate_is_certain():
    still = Resampled(np.full((2, 50), 5.0), 10)
    found = estimate([5.0, 5.0], still)
    assert (found.low, found.high, found.standard_error, found.p_value) == (5, 5, 0, 0.0)
    assert estimate([0.0, 0.0], still).p_value == 1.0


def test_one_person_has_no_interval():
    with pytest.raises(RefusedError, match="needs 2 of them, got 1"):
        estimate([1.0], Resampled(np.array([[1.0, 2.0]]), 1))


@given(st.floats(-5, 5), st.floats(0.1, 2), st.floats(1, 100), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=50, deadline=None)
def test_p_value_and_interval_agree(value, error, freedom, level):
    found = Estimate(value, error, freedom, True, level)
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(value) / error, freedom), rel=1e-6)
    if abs(found.p_value - (1 - level)) > 1e-9:
        assert (found.p_value < 1 - level) == (not found.low <= 0 <= found.high)
