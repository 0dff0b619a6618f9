"""One threshold for everybody: blocks against all pairs at once, weights against literal copies."""

import numpy as np
import pytest

from facemae.evaluation import metrics
from facemae.evaluation.metrics import Comparisons
from facemae.evaluation.protocols import operating_point
from facemae.evaluation.protocols.operating_point import EveryPair, ListedPairs
from facemae.evaluation.statistics import identity_weights


def faces(people=15, images=4, seed=0):
    rng = np.random.default_rng(seed)
    identity = rng.permutation(np.repeat(np.arange(people), images))
    return rng.normal(size=(people, 8))[identity] + 0.7 * rng.normal(size=(len(identity), 8)), identity


def of_all(embeddings, identity):
    pairs = metrics.all_pairs(embeddings, identity)
    return ListedPairs(Comparisons(pairs.score.astype(np.float32).astype(float), pairs.first, pairs.second))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_see_every_pair_once(monkeypatch, block):
    monkeypatch.setattr(operating_point, "BLOCK", block)
    embeddings, identity = faces()
    every, listed = EveryPair.of(embeddings, identity), of_all(embeddings, identity)
    assert every.impostors.dtype == np.float32
    np.testing.assert_allclose(np.sort(every.impostors), np.sort(listed.impostors), atol=1e-6)
    assert every.genuine_count == listed.genuine_count == 15 * 6
    weights = identity_weights(15, 50, 0)
    for threshold in (-2, 0.1, 0.55, 2):
        for name in ("false_matches", "false_non_matches"):
            found, expected = (getattr(each, name)(threshold, weights) for each in (every, listed))
            np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("dense", [0.0, 2.0])
def test_a_resample_is_its_copies(monkeypatch, dense):
    monkeypatch.setattr(operating_point, "DENSE_SHARE", dense)
    embeddings, identity = faces(people=6)
    pairs = metrics.all_pairs(embeddings, identity)
    weights = identity_weights(6, 20, 3)
    every = EveryPair.of(embeddings, identity)
    for r, found in enumerate(zip(every.false_matches(0.2, weights), every.false_non_matches(0.2, weights))):  # noqa: B905
        one, other = weights[r, pairs.first], weights[r, pairs.second]
        copies = pairs.take(np.repeat(np.arange(len(pairs)), np.where(pairs.genuine, one, one * other)))
        assert found[0] == pytest.approx((copies.score[~copies.genuine] >= 0.2).mean())
        assert found[1] == pytest.approx((copies.score[copies.genuine] < 0.2).mean(), nan_ok=True)


def test_false_non_matches_are_a_mean_over_people():
    """Person 0 has 3 pairs of which 2 are rejected, person 1 one that is accepted, person 2 none."""
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [0, -1], [0, -1], [-1, 0]], float)
    every = EveryPair.of(embeddings, np.array([0, 0, 0, 1, 1, 2]))
    found = every.false_non_matches(0.5, np.array([[1, 1, 1], [1, 3, 0], [0, 1, 5], [0, 0, 1]]))
    assert found == pytest.approx([1 / 3, 1 / 6, 0, np.nan], nan_ok=True)
    assert every.genuine_people == 2


def test_a_genuine_pair_of_two_names_weighs_both():
    pairs = Comparisons(np.array([0.9, 0.1]), np.array([0, 2]), np.array([1, 2]), np.array([True, True]))
    found = ListedPairs(pairs).false_non_matches(0.5, np.array([[1, 1, 1], [3, 2, 1], [0, 2, 2]]))
    assert found == pytest.approx([1 / 2, 1 / 7, 1])


def test_the_threshold_is_the_lowest_that_keeps_to_the_target():
    scores = np.random.default_rng(0).permutation(np.arange(1000) / 1000)
    assert operating_point.threshold_at(scores, 0.1) == pytest.approx(0.8995)
    assert (scores >= operating_point.threshold_at(scores, 0.1)).mean() == 0.1
    assert operating_point.threshold_at(scores, 1.0) == -np.inf


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
    with pytest.raises(ValueError, match="needs 3000 impostor pairs"):
        operating_point.threshold_at(np.zeros(2999), 0.01)


def test_a_face_that_was_not_found_is_never_accepted():
    pairs = Comparisons(
        np.array([-np.inf, 0.5, -np.inf, 0.2]), np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]),
    )  # fmt: skip
    found = ListedPairs(pairs)
    assert found.false_matches(-1.0) == pytest.approx([0.5])
    assert found.false_non_matches(-1.0) == pytest.approx([0.5])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="zero or not finite"):
        EveryPair.of(np.array([[1.0, 0], [0, 0]]), np.array([0, 1]))
    with pytest.raises(ValueError, match="resamples, 15 people"):
        EveryPair.of(*faces()).false_matches(0.5, np.ones((3, 14), int))
