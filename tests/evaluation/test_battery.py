"""What a set of embeddings gets: few people by every pair, many by their protocols, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from facemae.core.errors import RefusedError
from facemae.evaluation import battery, metrics
from facemae.evaluation.battery import EmbeddedFaces
from facemae.evaluation.pairs import all_pairs
from facemae.evaluation.protocols import identification
from facemae.evaluation.variance import Dyads, people_variance


def faces(people=12, images=4, noise=0.7, seed=0):
    """Return embeddings around one direction per person, and whose they are."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(people), images)
    return rng.normal(size=(people, 8))[identity] + noise * rng.normal(size=(len(identity), 8)), identity


def counts(people, resamples, seed=0):
    return np.random.default_rng(seed).multinomial(people, np.full(people, 1 / people), size=resamples)


def accuracy(pairs, fold):
    splits = metrics.split_by_person(pairs, fold)
    return metrics.mean_of_defined(metrics.balanced_accuracies(splits, metrics.best_thresholds(splits)))


def people_of(embeddings, identity, weights=None):
    """Return faces in folds of people, the first of everyone enrolled."""
    people = int(identity.max()) + 1
    names = np.array([f"p{number:02}" for number in range(people)])
    order = np.argsort(identity, kind="stable")
    embeddings, identity = embeddings[order], identity[order]
    table = pd.DataFrame({"person": names[identity], "fold": identity % 3})
    table["enrolled"] = ~table["person"].duplicated()
    rows = np.ones((1, people), int) if weights is None else weights
    return EmbeddedFaces(table, embeddings, names, identity, rows, np.full(people, ""))


def measured(embeddings, identity, weights=None, far_targets=(0.1,)):
    found = battery.on_few_faces(people_of(embeddings, identity, weights), far_targets)[1]
    return {each.name: each for each in found}


def test_perfect_embeddings():
    embeddings, identity = faces(noise=0.0)
    found = {name: each.value for name, each in measured(embeddings, identity).items()}
    assert found.pop("far_at_target=0.1") <= 0.1
    assert found == pytest.approx({"roc_auc": 1, "eer": 0, "accuracy": 1, "tar_at_far=0.1": 1, "rank1": 1})


def test_shuffled_labels_give_chance():
    embeddings, identity = faces(people=24, images=6, noise=0.3)
    values = []
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(identity)
        order = np.argsort(shuffled, kind="stable")
        found = measured(embeddings[order], shuffled[order])
        values.append([found[name].value for name in ("roc_auc", "eer", "accuracy", "rank1")])
    auc, eer, right, rank1 = np.mean(values, axis=0)
    assert auc == pytest.approx(0.5, abs=0.05)
    assert eer == pytest.approx(0.5, abs=0.05)
    assert right == pytest.approx(0.5, abs=0.05)
    assert rank1 == pytest.approx(1 / 24, abs=0.04)
    assert measured(embeddings, identity)["roc_auc"].value > 0.95


@pytest.mark.parametrize("weight", [1, 2])
def test_equal_weights_are_the_point_estimate_of_every_metric(weight):
    found = measured(*faces(), weights=np.full((3, 12), weight))
    assert list(found) == ["roc_auc", "eer", "tar_at_far=0.1", "far_at_target=0.1", "accuracy", "rank1"]
    assert found["rank1"].samples == pytest.approx(np.full(3, found["rank1"].value), abs=1e-12)
    assert [each.influence is None for each in found.values()] == [False, False, False, True, False, True]


def test_evaluate_reports_what_the_single_metrics_say():
    embeddings, identity = faces(noise=1.0)
    pairs, weights, fold = all_pairs(embeddings, identity), counts(12, 6), np.arange(12) % 3
    tar, far = metrics.rates(pairs, None, [0.1])[2:]
    rank1 = identification.rank1(embeddings, identity, np.diff(identity, prepend=-1) != 0, weights)
    inside = fold[pairs.first] == fold[pairs.second]
    impostors = int((~pairs.genuine).sum())
    expected = {
        "roc_auc": ("verification", len(pairs), metrics.roc_auc_score(pairs)),
        "eer": ("verification", len(pairs), metrics.equal_error_rate(pairs)),
        "tar_at_far=0.1": ("verification", impostors, tar),
        "far_at_target=0.1": ("verification", impostors, far),
        "accuracy": ("verification", int(inside.sum()), accuracy(pairs, fold)),
        "rank1": ("identification", 36, [rank1.value]),
    }
    found = measured(embeddings, identity, weights)
    assert found.keys() == expected.keys()
    for name, (protocol, n, value) in expected.items():
        assert (found[name].protocol, found[name].n) == (protocol, n)
        assert found[name].value == value[0]
    assert np.array_equal(found["rank1"].samples, rank1.samples)


def test_evaluate_refuses_a_rate_that_the_data_cannot_show():
    found = measured(*faces(), far_targets=(0.1, 0.001))
    for name in ("tar_at_far=0.001", "far_at_target=0.001"):
        refused = found[name]
        assert (refused.value, refused.samples, refused.influence) == (None, None, None)
        assert refused.n == 1056
        assert refused.note == "needs 30000 impostor pairs, this evaluation has 1056"
    assert found["tar_at_far=0.1"].value is not None


def test_a_person_of_many_photos_counts_as_much_as_any_other():
    """Nine people whose two photos are alike, and one whose twelve are as unlike as strangers'."""
    embeddings = np.vstack([np.repeat(np.eye(21)[:9], 2, axis=0), np.eye(21)[9:]])
    identity = np.repeat(np.arange(10), [2] * 9 + [12])
    found = measured(embeddings, identity)
    assert found["roc_auc"].value == pytest.approx(0.9 + 0.1 / 2)
    assert found["tar_at_far=0.1"].value == pytest.approx(0.9)
    assert found["roc_auc"].influence.sum() == pytest.approx(0, abs=1e-12)
    assert found["accuracy"].influence.sum() == pytest.approx(0, abs=1e-12)


def test_intervals_are_right_where_one_person_has_most_of_the_pairs():
    """Over worlds with one person of 20 photos among 14 of 3: the spread is what the intervals say."""
    images = np.array([20] + [3] * 14)
    values, variances = [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        identity = np.repeat(np.arange(15), images)
        sharpness = rng.uniform(0.4, 1.6, size=15)  # people differ in how alike their photos are
        centre = rng.normal(size=(15, 8))
        embeddings = centre[identity] + sharpness[identity, None] * rng.normal(size=(len(identity), 8))
        moved = measured(embeddings, identity, far_targets=())["roc_auc"]
        first, second = (moved.influence.index.get_level_values(n).to_numpy() for n in ("first", "second"))
        values.append(moved.value)
        variances.append(people_variance(Dyads(moved.influence.to_numpy()[None], first, second)).value)
    assert 0.75 < np.mean(variances) / np.var(values) < 1.5


def test_what_is_refused_is_a_note_and_a_bug_is_raised(monkeypatch):
    found = {
        each.name: each for each in battery.on_faces(people_of(*faces(people=3)), np.zeros(12, bool), ())
    }
    assert found["blufr_tar=0.001"].note == "needs 4 people, got 3"
    assert found["tpir_at_fpir=0.1"].note == "no image is enrolled, there is nobody to find"
    assert found["roc_auc"].value is not None

    def broken(*arguments):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(identification, "low_far", broken)
    with pytest.raises(ValueError, match="broadcast"):
        battery.on_faces(people_of(*faces()), np.ones(48, bool), ())


def test_too_few_people_for_folds_refuse_the_accuracy_alone():
    found = measured(*faces(people=3))
    assert (found["accuracy"].value, found["accuracy"].note) == (None, "fold 0 has no impostor pair")
    assert found["roc_auc"].value is not None


def test_people_without_a_second_photo_are_refused_whole():
    with pytest.raises(RefusedError, match="no genuine pair"):
        battery.on_few_faces(people_of(*faces(people=3, images=1)), (0.1,))
