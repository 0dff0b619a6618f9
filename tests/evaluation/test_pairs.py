"""Pairs one by one and all at once: blocks against a matrix, weights against literal copies."""

import math

import numpy as np
import pytest

from facemae.core.errors import RefusedError
from facemae.evaluation import pairs as module
from facemae.evaluation.pairs import Comparisons, EveryPair, all_pairs, one_by_one
from facemae.evaluation.statistics import identity_weights


def faces(people=6, images=4, seed=0):
    rng = np.random.default_rng(seed)
    identity = rng.permutation(np.repeat(np.arange(people), images))
    return rng.normal(size=(people, 8))[identity] + 0.7 * rng.normal(size=(len(identity), 8)), identity


def unlike(images, seed=0):
    """Return embeddings of people with so many images each, in no order."""
    rng = np.random.default_rng(seed)
    identity = rng.permutation(np.repeat(np.arange(len(images)), images))
    return rng.normal(size=(len(images), 8))[identity] + rng.normal(size=(len(identity), 8)), identity


def test_all_pairs_are_cosines_of_every_two_images():
    pairs = all_pairs(np.array([[2, 0], [0, 3], [5, 5]], np.float32), np.array([1, 0, 1]))
    half = math.sqrt(0.5)
    assert pairs.score == pytest.approx([0, half, half])
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(1, 0), (1, 1), (0, 1)]
    assert pairs.genuine.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("embeddings", "identity", "reason"),
    [
        ([[1, 0], [0, 0]], [0, 1], "embedding 1 is zero"),
        ([[1, 0], [0, np.nan]], [0, 1], "embedding 1 is not finite"),
        ([[np.inf, 0], [0, 1]], [0, 1], "embedding 0 is not finite"),
        ([1, 0], [0, 1], "shape|images, features"),
    ],
)
def test_all_pairs_refuses(embeddings, identity, reason):
    with pytest.raises(ValueError, match=reason):
        all_pairs(np.array(embeddings, float), np.array(identity))


@pytest.mark.parametrize("block", [1, 400, 10**6])
def test_blocks_see_every_pair_once(monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK_VALUES", block)
    embeddings, identity = faces()
    every, listed = EveryPair.of(embeddings, identity), all_pairs(embeddings, identity)
    assert every.impostors.dtype == np.float32
    np.testing.assert_allclose(np.sort(every.impostors), np.sort(listed.impostors), atol=1e-6)
    assert every.genuine_count == listed.genuine_count == 6 * 6
    weights = identity_weights(6, 50, 0)
    thresholds = (-2, 0.1, 2, 0.55)
    for name in ("false_matches", "false_non_matches"):
        found, expected = (getattr(each, name)(thresholds, weights) for each in (every, listed))
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_resample_is_its_copies():
    embeddings, identity = faces()
    pairs = all_pairs(embeddings, identity)
    weights = identity_weights(6, 20, 3)
    every = EveryPair.of(embeddings, identity)
    rates = (every.false_matches([0.2], weights)[0], every.false_non_matches([0.2], weights)[0])
    for r, found in enumerate(zip(*rates, strict=True)):
        one, other = weights[r, pairs.first], weights[r, pairs.second]
        copies = pairs.take(np.repeat(np.arange(len(pairs)), np.where(pairs.genuine, one, one * other)))
        assert found[0] == pytest.approx((copies.score[~copies.genuine] >= 0.2).mean())
        assert found[1] == pytest.approx((copies.score[copies.genuine] < 0.2).mean(), nan_ok=True)


def test_false_non_matches_are_a_mean_over_people():
    """Person 0 has 3 pairs of which 2 are rejected, person 1 one that is accepted, person 2 none."""
    embeddings = np.array([[1, 0], [1, 0], [0, 1], [0, -1], [0, -1], [-1, 0]], float)
    every = EveryPair.of(embeddings, np.array([0, 0, 0, 1, 1, 2]))
    found = every.false_non_matches([0.5], np.array([[1, 1, 1], [1, 3, 0], [0, 1, 5], [0, 0, 1]]))[0]
    assert found == pytest.approx([1 / 3, 1 / 6, 0, np.nan], nan_ok=True)
    assert every.genuine_people == 2


def test_a_genuine_pair_of_two_names_weighs_both():
    pairs = Comparisons(np.array([0.9, 0.1]), np.array([0, 2]), np.array([1, 2]), np.array([True, True]))
    found = pairs.false_non_matches([0.5], np.array([[1, 1, 1], [3, 2, 1], [0, 2, 2]]))[0]
    assert found == pytest.approx([1 / 2, 1 / 7, 1])


def test_every_pair_is_scored_once():
    embeddings, identity = unlike((1, 7, 2, 1, 30, 3) * 5)
    found, pairs = EveryPair.of(embeddings, identity).scores, all_pairs(embeddings, identity)
    assert found.impostor.dtype == np.float32
    np.testing.assert_allclose(found.impostor, np.sort(pairs.score[~pairs.genuine]), atol=1e-6)
    genuine = pairs.take(pairs.genuine)
    for person in range(30):
        own = np.sort(genuine.score[genuine.first == person])
        np.testing.assert_allclose(found.genuine[found.owner == person], own, atol=1e-6)


def test_impostor_weights_are_those_of_the_pairs_one_by_one():
    embeddings, identity = unlike((1, 3, 2, 9) * 8)
    every = EveryPair.of(embeddings, identity)
    # Between two scores, so that it does not matter how a matrix product was rounded.
    ranked = every.impostors.astype(float)
    thresholds = ((ranked[1:] + ranked[:-1]) / 2)[[50, 6500, 5000, 2000, -3]].astype(np.float32)
    weights = identity_weights(32, 20, 0).astype(float)
    found = every.accepted_impostors(thresholds, weights)
    pairs = all_pairs(embeddings, identity)
    pairs = pairs.take(~pairs.genuine)
    each = weights[:, pairs.first] * weights[:, pairs.second]
    expected = [(each * (pairs.score >= threshold)).sum(axis=1) for threshold in thresholds]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(every.impostor_weight(weights), each.sum(axis=1))


def test_people_weigh_alike_only_where_their_photos_differ_in_number():
    assert one_by_one(*faces()).weight is None
    pairs = one_by_one(*unlike((1, 3, 4)))
    genuine, weight = pairs.genuine, pairs.weight
    assert weight[~genuine].tolist() == [1.0] * 19
    assert np.bincount(pairs.first[genuine], weight[genuine]) == pytest.approx([0, 1, 1])


def test_a_face_that_was_not_found_is_never_accepted():
    pairs = Comparisons(
        np.array([-np.inf, 0.5, -np.inf, 0.2]), np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1]),
    )  # fmt: skip
    assert pairs.false_matches([-1.0]) == pytest.approx(np.array([[0.5]]))
    assert pairs.false_non_matches([-1.0]) == pytest.approx(np.array([[0.5]]))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="embedding 1 is zero"):
        EveryPair.of(np.array([[1.0, 0], [0, 0]]), np.array([0, 1]))


def test_more_pairs_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 200)
    with pytest.raises(RefusedError, match="24 images make 276 pairs, at most 200 are compared"):
        EveryPair.of(*faces()).scores  # noqa: B018


def test_memory_is_that_of_the_scores():
    """A block at a time: nothing grows with images times images but 4 bytes for each pair."""
    import tracemalloc

    embeddings, identity = unlike((4,) * 1000)
    tracemalloc.start()
    EveryPair.of(embeddings, identity).scores  # noqa: B018
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 4000 * 3999 // 2 + 40 * 2**20
