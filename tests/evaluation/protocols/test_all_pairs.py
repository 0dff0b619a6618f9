"""Every pair of images: against `metrics`, scikit-learn and brute force."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics

from facemae.core.errors import RefusedError
from facemae.evaluation import metrics
from facemae.evaluation import pairs as pair_core
from facemae.evaluation.pairs import Comparisons, EveryPair, SortedScores
from facemae.evaluation.protocols import all_pairs, pair_list
from facemae.evaluation.statistics import identity_weights

TARGETS = [0.1, 0.01, 0.001]


def faces(images=(4,) * 60, noise=1.2, seed=0, features=32):
    """Return embeddings around one direction per person, and whose they are, in no order."""
    rng = np.random.default_rng(seed)
    identity = rng.permutation(np.repeat(np.arange(len(images)), images))
    directions = rng.normal(size=(len(images), features))
    return directions[identity] + noise * rng.normal(size=(len(identity), features)), identity


def comparisons(scores):
    """Return sorted scores as pairs; impostors are all of persons 0 and 1."""
    own, others = scores.owner, np.zeros(len(scores.impostor), int)
    return Comparisons(
        np.concatenate([scores.genuine, scores.impostor]).astype(float),
        np.concatenate([own, others]),
        np.concatenate([own, others + 1]),
        weight=np.concatenate([1 / np.bincount(own)[own], np.ones(len(others))]),
    )


def scored(genuine, impostor, owner=None):
    order = np.argsort(genuine, kind="stable")
    owner = np.zeros(len(genuine), int) if owner is None else np.asarray(owner)
    return SortedScores(np.asarray(genuine)[order], owner[order], np.sort(impostor))


def weighed(pairs):
    """Return pairs of images, those of each person with a weight of 1 in sum."""
    count = np.bincount(pairs.first[pairs.genuine], minlength=int(pairs.second.max()) + 1)
    return replace(pairs, weight=np.where(pairs.genuine, 1 / np.maximum(1, count)[pairs.first], 1.0))


@pytest.fixture
def on_a_grid(monkeypatch):
    """Take the way of millions of pairs, in several blocks."""
    monkeypatch.setattr(all_pairs, "EXACT_PAIRS", 0)
    monkeypatch.setattr(pair_core, "_BLOCK_VALUES", 5000)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decimals", [1, 9])
def test_values_are_those_of_metrics_on_the_same_scores(seed, decimals):
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 9, 200 + seed) ** 2 // 9  # people of 1 to 3 ninths
    scores = scored(
        rng.normal(1, 1, 200 + seed).round(decimals), rng.normal(0, 1, 3000).round(decimals), owner
    )
    pairs = comparisons(scores)
    assert all_pairs.roc_auc(scores) == pytest.approx(metrics.roc_auc_score(pairs)[0], abs=1e-12)
    assert all_pairs.equal_error_rate(scores) == pytest.approx(metrics.equal_error_rate(pairs)[0], abs=1e-12)
    for target in (0.01, 0.0123, 0.5, 0.7, 1.0):
        exact = [value[0] for value in metrics.rates(pairs, None, [target])[2:]]
        assert all_pairs.tar_at_far(scores, target) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("genuine", "impostor", "auc", "eer"), [
    ([3.0, 4.0], [1.0, 2.0], 1.0, 0.0),
    ([1.0, 2.0], [3.0, 4.0], 0.0, 1.0),
    ([1.0, 1.0], [1.0, 1.0], 0.5, 0.5),
    ([1.0, 3.0], [0.0, 2.0], 0.75, 0.5),
])  # fmt: skip
def test_by_hand(genuine, impostor, auc, eer):
    scores = scored(np.array(genuine, np.float32), np.array(impostor, np.float32))
    assert all_pairs.roc_auc(scores) == auc
    assert all_pairs.equal_error_rate(scores) == eer


def test_a_million_pairs_as_scikit_learn_sees_them():
    embeddings, identity = faces((2,) * 500 + (5,) * 83)
    scores = EveryPair.of(embeddings, identity).scores
    assert len(scores.genuine) + len(scores.impostor) == 1415 * 1414 // 2 == 1_000_405
    score = np.concatenate([scores.genuine, scores.impostor])
    genuine = np.arange(len(score)) < len(scores.genuine)
    weight = np.ones(len(score))
    weight[genuine] = 1 / np.bincount(scores.owner)[scores.owner]
    auc = sklearn.metrics.roc_auc_score(genuine, score, sample_weight=weight)
    assert all_pairs.roc_auc(scores) == pytest.approx(auc, abs=1e-12)
    far, tar, _ = sklearn.metrics.roc_curve(genuine, score, sample_weight=weight, drop_intermediate=False)
    after = np.argmax(far + tar >= 1)
    low, high = (far + tar - 1)[after - 1], (far + tar - 1)[after]
    eer = far[after - 1] - low / (high - low) * (far[after] - far[after - 1])
    assert all_pairs.equal_error_rate(scores) == pytest.approx(eer, abs=1e-12)


def test_few_pairs_are_measured_by_metrics():
    embeddings, identity = faces()
    weights = identity_weights(60, 50, 0)
    found = all_pairs.measure(EveryPair.of(embeddings, identity), weights, TARGETS)
    pairs = pair_core.all_pairs(embeddings, identity)
    exact = pair_list.measure_rates(pairs, TARGETS)
    samples = iter(metrics.rates(pairs, weights, TARGETS[:2]))
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours.protocol, ours.name, ours.n) == (theirs.protocol, theirs.name, theirs.n)
        assert ours.condition == "all pairs"
        if theirs.value is not None:
            assert ours.value == pytest.approx(theirs.value, abs=1e-4)  # embeddings are rounded to float32
            np.testing.assert_allclose(ours.samples, next(samples), atol=1e-3)
            assert ours.note == "60 people weigh alike in genuine pairs, and as 60 in impostor pairs"


def photographed_often():
    """Nine people whose two photos are alike, and one whose ten photos are as unlike as strangers'."""
    embeddings = np.vstack([np.repeat(np.eye(19)[:9], 2, axis=0), np.eye(19)[9:]])
    pairs = EveryPair.of(embeddings, np.repeat(np.arange(10), [2] * 9 + [10]))
    return {each.name: each for each in all_pairs.measure(pairs, np.ones((1, 10), int), [0.1, 0.5])}


@pytest.mark.parametrize("most", [0, 10**6])
def test_a_person_of_many_photos_weighs_as_much_as_any_other(monkeypatch, most):
    """By hand: 9 genuine pairs of 54 score 1, all others 0; nine people of ten, not a sixth of the pairs."""
    monkeypatch.setattr(all_pairs, "EXACT_PAIRS", most)
    found = photographed_often()
    assert found["roc_auc"].value == pytest.approx(0.9 + 0.1 / 2)
    assert found["tar_at_far=0.5"].value == pytest.approx(0.9)
    assert found["roc_auc"].samples == pytest.approx(found["roc_auc"].value)
    assert found["tar_at_far=0.5"].samples == pytest.approx(0.9)
    assert found["eer"].value == pytest.approx(0.1 / 1.1)  # on the line from (0, 0.1) to (1, 0)
    # Impostor pairs: 2 * 26 of each of nine people, 10 * 18 of the tenth; 648**2 / (9 * 52**2 + 180**2) = 7.4
    assert found["roc_auc"].note == (
        "10 people weigh alike in genuine pairs, and as 7 in impostor pairs, which is too few for a rate"
    )


def test_a_target_with_too_few_impostors_is_refused(on_a_grid):
    found = {
        each.name: each for each in all_pairs.measure(EveryPair.of(*faces()), np.ones((1, 60), int), TARGETS)
    }
    refused = found["tar_at_far=0.001"]
    assert refused.value is None
    assert refused.note == "needs 30000 impostor pairs, this evaluation has 28320"
    assert found["far_at_target=0.001"].value is None
    assert 0.009 < found["far_at_target=0.01"].value <= 0.01


def test_the_grid_follows_the_exact_bootstrap(on_a_grid):
    embeddings, identity = faces((2, 5, 3) * 80, noise=1.2)
    weights = identity_weights(240, 60, 0)
    found = all_pairs.measure(EveryPair.of(embeddings, identity), weights, TARGETS)
    pairs = weighed(pair_core.all_pairs(embeddings, identity))
    values, exact = metrics.rates(pairs, None, TARGETS), metrics.rates(pairs, weights, TARGETS)
    for ours, value, samples in zip(found, values, exact, strict=True):
        assert ours.value == pytest.approx(value[0], abs=1e-6), ours.name
        if not ours.name.startswith("far"):
            off = (ours.samples - samples) / samples.std()
            assert np.abs(off).mean() < 0.1, ours.name
            assert np.abs(off).max() < 0.7, ours.name
            assert ours.samples.std() == pytest.approx(samples.std(), rel=0.05)
    np.testing.assert_allclose(found[3].samples, exact[3], rtol=1e-3)


def test_the_resample_of_everyone_once_is_the_point(on_a_grid):
    found = all_pairs.measure(EveryPair.of(*faces()), np.ones((1, 60), int), TARGETS)
    for each in found[:6]:
        assert each.samples[0] == pytest.approx(each.value, abs=1e-12), each.name


def test_a_resample_without_pairs_of_a_kind_has_no_value(on_a_grid):
    embeddings, identity = faces((1, 1, *(4,) * 40))
    weights = np.ones((3, 42), int)
    weights[1, 2:] = 0  # two people of one image: no genuine pair
    weights[2] = np.eye(42, dtype=int)[5]  # one person: no impostor pair
    for each in all_pairs.measure(EveryPair.of(embeddings, identity), weights, [0.1]):
        assert np.isfinite(each.samples).tolist() == [True, False, False], each.name


def test_people_told_apart_without_error(on_a_grid):
    found = all_pairs.measure(EveryPair.of(*faces(noise=0.01)), identity_weights(60, 20, 0), [0.01])
    values = {each.name: each for each in found}
    assert values["roc_auc"].value == 1.0
    assert values["eer"].value == 0.0
    assert values["tar_at_far=0.01"].value == 1.0
    np.testing.assert_allclose(values["tar_at_far=0.01"].samples, 1.0, atol=1e-9)
    np.testing.assert_allclose(values["eer"].samples, 0.0, atol=1e-3)


def test_the_order_of_the_images_does_not_matter(on_a_grid):
    embeddings, identity = faces()
    weights, order = identity_weights(60, 5, 0), np.random.default_rng(1).permutation(240)
    found = all_pairs.measure(EveryPair.of(embeddings, identity), weights, [0.01])
    shuffled = all_pairs.measure(EveryPair.of(embeddings[order], identity[order]), weights, [0.01])
    for one, other in zip(found, shuffled, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-4)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda e, i: (np.where(np.arange(240)[:, None] == 7, np.nan, e), i), "embedding 7 is not finite"),
    (lambda e, i: (np.where(np.arange(240)[:, None] == 7, 0, e), i), "embedding 7 is zero"),
    (lambda e, i: (e[0], i), r"must be \(images, features\)"),
    (lambda e, i: (e[:0], i[:0]), r"must be \(images, features\)"),
    (lambda e, i: (e, np.zeros_like(i)), "no impostor pair"),
    (lambda e, i: (e, np.arange(240)), "no genuine pair"),
])  # fmt: skip
def test_what_cannot_be_measured_is_named(spoil, message):
    with pytest.raises((ValueError, RefusedError), match=message):
        all_pairs.measure(EveryPair.of(*spoil(*faces())), np.ones((3, 60)), [0.1])
