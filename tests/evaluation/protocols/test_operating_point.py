"""One threshold for everybody, against a plain search."""

import numpy as np
import pytest

from facemae.evaluation.protocols import operating_point


def test_the_threshold_is_the_lowest_that_keeps_to_the_target():
    scores = np.random.default_rng(0).permutation(np.arange(1000) / 1000)
    assert operating_point.threshold_at(scores, 0.1) == pytest.approx(0.8995)
    assert (scores >= operating_point.threshold_at(scores, 0.1)).mean() == 0.1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_tie_is_not_split_and_neighbours_are_told_apart(kind):
    low = kind(0.5)
    high = np.nextafter(low, kind(1))  # nothing lies between the two
    scores = np.array([high] * 40 + [low] * 260, kind)
    threshold = operating_point.threshold_at(scores, 0.5)
    assert (scores >= kind(threshold)).sum() == 40
    threshold = operating_point.threshold_at(np.full(300, low), 0.5)
    assert (np.full(300, low) >= kind(threshold)).sum() == 0


@pytest.mark.parametrize("seed", range(5))
def test_thresholds_are_those_of_a_plain_search(seed):
    scores = np.random.default_rng(seed).normal(size=700).round(2)
    for target in (0.05, 0.1, 0.37):
        threshold = operating_point.threshold_at(scores, target)
        best = min(cut for cut in (*np.unique(scores), 9.0) if (scores >= cut).mean() <= target)
        assert (scores >= threshold).sum() == (scores >= best).sum()


def test_a_claim_beyond_the_impostors_is_refused():
    reason = "not enough impostors for this claim: it needs 3000 impostor pairs, and there are 2999"
    assert operating_point.refusal(2999, 0.01) == reason
    assert operating_point.refusal(3000, 0.01) == ""
