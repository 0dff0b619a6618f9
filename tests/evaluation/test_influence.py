"""The influence of pairs: derivatives by hand, and the spread that resamples of independent pairs have."""

import numpy as np
import pytest

from facemae.evaluation import influence, metrics
from facemae.evaluation.pairs import Comparisons
from facemae.evaluation.protocols.pair_list import fold_accuracy
from facemae.evaluation.variance import Dyads, people_variance


def scored(count=2000, separation=1.5, seed=0, decimals=6):
    """Return pairs that share nobody: scores, and which are genuine."""
    rng = np.random.default_rng(seed)
    genuine = np.arange(count) % 2 == 0
    return (rng.normal(size=count) + separation * genuine).round(decimals), genuine


def alone(score, genuine):
    """Return the scores as pairs of two photos that no other pair shows."""
    photo = np.arange(len(score))
    return Comparisons(score, photo, photo, genuine)


def derivatives(metric, score, genuine):
    """Return how fast a metric of weighted pairs moves with each pair's weight."""
    rise, found = 1e-6, []
    for pair in range(len(score)):
        weights = np.ones(len(score))
        values = []
        for change in (-rise, rise):
            weights[pair] = 1 + change
            values.append(metric(score, genuine, weights))
        found.append((values[1] - values[0]) / (2 * rise))
    return np.array(found)


def weighted_area(score, genuine, weights):
    wins = (score[genuine][:, None] > score[~genuine]) + 0.5 * (score[genuine][:, None] == score[~genuine])
    own, others = weights[genuine], weights[~genuine]
    return own @ wins @ others / own.sum() / others.sum()


def weighted_balance(score, genuine, weights):
    right = np.where(genuine, score >= 1, score < 1)
    return np.mean([np.average(right[kind], weights=weights[kind]) for kind in (genuine, ~genuine)])


@pytest.mark.parametrize("decimals", [6, 0])
def test_what_has_a_derivative_is_it(decimals):
    score, genuine = scored(60, decimals=decimals)
    score[::7] = -np.inf  # a face that was not found
    np.testing.assert_allclose(
        influence.area(alone(score, genuine)), derivatives(weighted_area, score, genuine), atol=1e-8
    )
    np.testing.assert_allclose(
        influence.balanced(alone(score, genuine), score >= 1, np.zeros(len(score), int)),
        derivatives(weighted_balance, score, genuine),
        atol=1e-8,
    )


@pytest.mark.parametrize("separation", [0.5, 1.5, 2.5])
def test_the_influence_says_how_far_new_pairs_move_a_rate(separation):
    """Lists of other independent pairs spread as far as the influence on the first of them says."""
    values, errors = [], []
    for seed in range(200):
        score, genuine = scored(2000, separation, seed)
        pairs = alone(score, genuine)
        rates = metrics.rates(pairs, None, [0.1])[:3]
        moved = (influence.area(pairs), influence.equal_error(pairs), influence.true_accepts(pairs, 0.1))
        values.append([rate[0] for rate in rates])
        errors.append([np.sqrt((each**2).sum()) for each in moved])
        assert [each.sum() for each in moved] == pytest.approx([0, 0, 0], abs=1e-9)
    np.testing.assert_allclose(np.mean(errors, axis=0), np.std(values, axis=0), rtol=0.15)


def test_the_choice_of_thresholds_adds_little_to_the_spread_of_accuracy():
    values, errors = [], []
    for seed in range(100):
        score, genuine = scored(3000, 2.0, seed)
        folds = np.arange(len(score)) * 10 // len(score)
        measured = fold_accuracy(metrics.split_by_pair(alone(score, genuine), folds))
        values.append(measured.value)
        errors.append(np.sqrt((measured.influence**2).sum()))
    assert 0.85 < np.std(values) / np.mean(errors) < 1.25


def test_a_pair_is_held_against_all_folds_by_hand():
    # Of fold 0 both genuine pairs are right, of fold 1 one of one is wrong: TAR is 1 and 0, the mean 1 / 2.
    genuine = np.array([True, True, True, False, False])
    accepted, fold = np.array([True, True, False, False, True]), np.array([0, 0, 1, 0, 1])
    moved = influence.balanced(alone(np.zeros(5), genuine), accepted, fold)
    assert moved == pytest.approx([1 / 16, 1 / 16, -1 / 8, 1 / 8, -1 / 8])


def test_people_in_folds_of_few_spread_as_far_as_their_influence_says():
    """Two people in a fold hardly differ from their own mean, which would halve the interval."""
    values, variances = [], []
    first, second = np.triu_indices(20)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        ease = rng.normal(size=20)  # of each person, in all that he or she is in
        score = 2.0 * (first == second) + np.where(first == second, ease[first], ease[first] + ease[second])
        pairs = Comparisons(score + 0.1 * rng.normal(size=len(score)), first, second)
        measured = fold_accuracy(metrics.split_by_person(pairs, np.arange(20) // 2))
        one, other = (measured.influence.index.get_level_values(side) for side in influence.PEOPLE)
        dyads = Dyads(measured.influence.to_numpy()[None], one.to_numpy(), other.to_numpy())
        values.append(measured.value)
        variances.append(people_variance(dyads).value)
    assert 0.7 < np.mean(variances) / np.var(values) < 1.5


def test_perfect_scores_have_no_influence():
    genuine = np.repeat([True, False], 20)
    pairs = alone(np.where(genuine, 1.0, 0.0), genuine)
    for moved in (influence.area(pairs), influence.equal_error(pairs), influence.true_accepts(pairs, 0.1)):
        assert (moved == 0).all()


def test_no_face_at_all_has_no_equal_error():
    genuine = np.repeat([True, False], 5)
    assert (influence.equal_error(alone(np.full(10, -np.inf), genuine)) == 0).all()


def test_sums_by_people_and_means_by_hand():
    first, second = np.array([0, 2, 1, 1]), np.array([1, 1, 0, 1])
    one = influence.by_people(first, second, np.array([1.0, 2.0, 4.0, 8.0]))
    assert one.to_dict() == {(0, 1): 5, (1, 1): 8, (1, 2): 2}
    other = influence.by_people(np.array([5, 1]), np.array([6, 1]), np.array([1.0, -8.0]))
    assert influence.mean([one, other]).to_dict() == {(0, 1): 2.5, (1, 1): 0, (1, 2): 1, (5, 6): 0.5}
