"""Rates of groups at one threshold, by hand and against all pairs at once."""

import numpy as np
import pytest
import sklearn.metrics

from facemae.evaluation.pairs import EveryPair, all_pairs
from facemae.evaluation.protocols import fairness
from facemae.evaluation.statistics import identity_weights


def faces(people=80, images=4, noise=0.6, seed=0):
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(people), images)
    return rng.normal(size=(people, 8))[identity] + noise * rng.normal(size=(len(identity), 8)), identity


def halves(people=80):
    return np.where(np.arange(people) % 2, "women", "men")


def run(embeddings, identity, group, target=0.01, resamples=100):
    weights = identity_weights(len(group), resamples, 0)
    found = fairness.measure(EveryPair.of(embeddings, identity), group, weights, target)
    return {(each.name, each.condition): each for each in found}


def expected_rates(embeddings, identity, group, target):
    """Rates of each group by all pairs at once, at the lowest threshold that keeps to the target."""
    pairs = all_pairs(embeddings, identity)
    far, _, cuts = sklearn.metrics.roc_curve(pairs.genuine, pairs.score, drop_intermediate=False)
    threshold = cuts[(far <= target).sum() - 1]
    rates = {}
    for name in set(group):
        inside = (group[pairs.first] == name) & (group[pairs.second] == name)
        accepted = pairs.score >= threshold
        rates[name] = (
            accepted[inside & ~pairs.genuine].mean(), 1 - accepted[inside & pairs.genuine].mean()
        )  # fmt: skip
    return rates


def test_rates_of_groups_are_those_of_all_pairs_at_once():
    embeddings, identity = faces()
    found = run(embeddings, identity, halves())
    for name, (fmr, fnmr) in expected_rates(embeddings, identity, halves(), 0.01).items():
        assert found["fmr", name].value == pytest.approx(fmr, abs=1e-12)
        assert found["fnmr", name].value == pytest.approx(fnmr, abs=1e-12)
        assert found["fmr", name].note.startswith("40 people with two faces or more; threshold ")
        assert "at a false match rate of 0.01 over everyone" in found["fmr", name].note
        assert (found["fmr", name].n, found["fnmr", name].n) == (40 * 39 // 2 * 16, 40 * 6)
        assert len(found["fmr", name].samples) == 100
        assert np.nanstd(found["fnmr", name].samples) > 0


def test_impostor_pairs_across_groups_do_not_count():
    """Two groups that are mirror images make no error within, however alike the two are to each other."""
    embeddings, identity = faces(people=40, noise=0.01)
    both = np.concatenate([embeddings, embeddings])
    group = np.repeat(["a", "b"], 40)
    found = run(both, np.concatenate([identity, identity + 40]), group)
    assert found["fmr", "a"].value == found["fmr", "b"].value
    assert found["fdr", ""].value == 1


def test_sums_by_hand():
    fmr, fnmr = np.array([[0.01], [0.04]]), np.array([[0.1], [0.3]])
    assert fairness.discrepancy(fmr, fnmr) == pytest.approx([1 - (0.5 * 0.03 + 0.5 * 0.2)])
    assert fairness.over_mean(fmr) == pytest.approx([0.04 / 0.02])
    assert fairness.over_mean(np.array([[0.2], [0.2], [0.2]])) == pytest.approx([1])
    assert np.isnan(fairness.over_mean(np.array([[0.0], [0.1]]))).all()


def test_a_group_that_is_harder_is_seen():
    rng = np.random.default_rng(0)
    embeddings, identity = faces(noise=0.3)
    alike = np.isin(identity, np.flatnonzero(halves() == "women"))
    embeddings[alike] = 0.5 * embeddings[alike] + rng.normal(size=8)
    found = run(embeddings, identity, halves())
    assert found["fmr", "women"].value > 5 * found["fmr", "men"].value
    assert found["fmr_ratio", ""].value > 2
    assert found["fdr", ""].value < 0.99
    fair = run(*faces(noise=0.3), halves())
    assert fair["fmr_ratio", ""].value < 1.5
    low, high = np.nanquantile(fair["fdr", ""].samples, [0.025, 0.975])
    assert low < fair["fdr", ""].value <= high <= 1


def test_the_target_falls_back_to_what_the_pairs_support():
    assert "rate of 0.001 over everyone" in run(*faces(images=10), halves(), 0.001)["fmr", "men"].note
    # 51,000 impostor pairs support 0.001, but the 12,480 within a group do not.
    found = run(*faces(), halves(), 0.001)
    assert "rate of 0.01 over everyone" in found["fmr", "men"].note
    one = run(*faces(), np.array(["a"] * 70 + ["b"] * 10), 0.001)  # no target leaves two groups to compare
    assert "rate of 0.001 over everyone" in one["fmr", "a"].note
    few = run(*faces(people=4, images=2), halves(4), 0.001)
    assert [each.value for each in few.values()] == [None] * 3
    assert "it needs 300 impostor pairs, and there are 24" in few["fdr", ""].note


def test_small_groups_are_refused_and_the_others_compared():
    group = np.array(["a"] * 35 + ["b"] * 35 + ["c"] * 10)
    found = run(*faces(), group)
    assert found["fmr", "c"].value is found["fnmr", "c"].value is None
    assert found["fmr", "c"].note == "this group has 10 people with two faces or more, and 30 are needed"
    assert found["fdr", ""].note.startswith("2 groups; ")
    one = run(*faces(), np.array(["a"] * 70 + ["c"] * 10))
    assert one["fmr", "a"].value is not None
    assert one["fdr", ""].value is None
    assert one["fdr", ""].note == "1 groups are large enough, and two are needed to compare"


def test_a_group_with_too_few_impostors_or_too_few_people_with_a_pair_is_refused():
    rng = np.random.default_rng(0)
    sizes = np.array([1] * 35 + [2] * 29 + [4] * 45)
    identity = np.repeat(np.arange(109), sizes)
    group = np.array(["single"] * 64 + ["many"] * 45)
    found = run(rng.normal(size=(len(identity), 8)), identity, group)
    assert found["fnmr", "single"].note == (
        "this group has 29 people with two faces or more, and 30 are needed"
    )
    refused = fairness._refusal(EveryPair.of(*faces(people=31, images=2)), 0.01)
    assert refused == "a false match rate of 0.01 needs 3000 impostor pairs, this group has 1860"


def test_a_person_of_many_photos_weighs_as_much_as_any_other():
    """One of 31 men is not recognised in 200 photos: an FNMR of 1/31; pairs counted singly give 0.9."""
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(62), [2] * 61 + [200])
    embeddings = np.eye(62)[identity] + 1e-3 * rng.normal(size=(len(identity), 62))
    embeddings[identity == 61] = rng.normal(size=(200, 62))
    found = run(embeddings, identity, np.repeat(["women", "men"], 31))
    assert found["fnmr", "men"].value == pytest.approx(1 / 31, abs=5e-3)  # some of his pairs match by chance
    assert found["fnmr", "women"].value == 0


def test_a_threshold_that_rejects_nearly_everyone_cannot_be_fair():
    """Embeddings without any person in them: FNMR 0.99 in both groups, a difference of next to nothing."""
    found = run(*faces(noise=100.0), halves())
    assert found["fnmr", "men"].value > 0.98
    for name in ("fdr", "fnmr_ratio"):
        assert (found[name, ""].value, found[name, ""].samples) == (None, None)
        assert "0.99 of the genuine pairs are rejected; above 0.5 these errors cannot" in found[name, ""].note
    assert found["fmr_ratio", ""].value is not None


def test_a_group_without_errors_has_no_geometric_mean():
    embeddings, identity = faces(noise=0.0)
    found = run(embeddings, identity, halves())
    assert found["fnmr", "men"].value == 0
    assert found["fnmr_ratio", ""].value is None
    assert found["fnmr_ratio", ""].note == (
        "a group has not one such error, so the geometric mean of the rates is zero"
    )
    assert found["fnmr_ratio", ""].samples is None
    assert found["fdr", ""].value is not None


def test_people_of_no_known_group_set_the_threshold_and_are_no_group():
    embeddings, identity = faces()
    group = halves()
    group[:6] = ""
    found = run(embeddings, identity, group)
    assert {condition for _, condition in found} == {"men", "women", ""}
    expected = expected_rates(embeddings, identity, group, 0.01)
    assert found["fmr", "men"].value == pytest.approx(expected["men"][0], abs=1e-12)
    assert run(embeddings, identity, np.full(80, "")) == {}
