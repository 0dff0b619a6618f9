import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from facemae.core.errors import DataError
from facemae.evaluation.baselines import closed_form
from facemae.evaluation.baselines.closed_form import (
    covariances,
    discriminants,
    fit,
    principal_components,
    weighted,
    whiten,
)
from facemae.evaluation.metrics import roc_auc_score
from facemae.evaluation.pairs import all_pairs


def made(people=30, photos=4, features=40, signal=6, seed=0):
    """Faces whose first features are the person's and whose others, larger ones, are the photo's."""
    random = np.random.default_rng(seed)
    centre = np.zeros((people, features))
    centre[:, :signal] = random.normal(size=(people, signal))
    scale = np.where(np.arange(features) < signal, 0.5, 3.0)
    names = [f"p{number:03}" for number in range(people) for _ in range(photos)]
    return np.repeat(centre, photos, axis=0) + scale * random.normal(size=(len(names), features)), names


def auc(vectors, names):
    return roc_auc_score(all_pairs(vectors, np.unique(names, return_inverse=True)[1]))[0]


def test_covariances_are_those_computed_by_hand():
    """Two people on a line: (0, 2) and (10, 12) vary by 1 within, and by 26 in all."""
    within, total = covariances(np.array([[0.0], [10.0], [2.0], [12.0]]), np.array([0, 1, 0, 1]))
    assert within.tolist() == [[1.0]]
    assert total.tolist() == [[26.0]]


def test_discriminant_of_two_people_is_the_one_computed_by_hand():
    """With covariance diag(1, 4) within, Fisher's direction for means apart by (2, 2) is (2, 2 / 4)."""
    spread = np.array([[1, 2], [-1, -2], [1, -2], [-1, 2]], float)
    points = np.concatenate([spread, spread + 2])
    direction = discriminants(*covariances(points, np.repeat([0, 1], 4)), 0.0)[:, 0]
    np.testing.assert_allclose(direction / direction[0], [1, 1 / 4])


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.6])
def test_discriminants_agree_with_scikit_learn(shrinkage):
    points, names = made(features=12)
    identity = np.unique(names, return_inverse=True)[1]
    peer = LinearDiscriminantAnalysis(solver="eigen", shrinkage=shrinkage).fit(points, identity)
    found = discriminants(*covariances(points, identity), shrinkage)
    leading = slice(0, 6)
    np.testing.assert_allclose(
        np.abs(found[:, leading]), np.abs(peer.scalings_[:, leading]), rtol=1e-6, atol=1e-8
    )


def test_directions_are_weighted_by_the_share_of_variance_between_people():
    """Along the first axis half of the variance is between people, along the second a fifth."""
    found = weighted(np.array([[1.0, 0.0], [0.0, 3.0]]), np.diag([1.0, 4.0]), np.diag([2.0, 5.0]))
    np.testing.assert_allclose(found, [[0.5, 0.0], [0.0, 0.6]])


def test_directions_that_say_little_do_not_outweigh_those_that_say_much():
    points, names = made(people=60, seed=0)
    asked, others = made(people=60, seed=1)
    matrices = covariances(points, np.unique(names, return_inverse=True)[1])
    equal = discriminants(*matrices, 0.01)
    assert auc(asked @ weighted(equal, *matrices), others) > auc(asked @ equal, others) + 0.05


def test_a_head_tells_new_people_apart_where_principal_components_do_not():
    points, names = made(people=60, seed=0)
    asked, others = made(people=40, seed=1)
    assert auc(fit(points, names, 40, "head")(asked), others) > 0.85
    assert auc(whiten(points, names, 40, "pca")(asked), others) < 0.75
    assert auc(asked, others) < 0.65


def test_held_out_auc_is_what_new_people_get():
    points, names = made(people=90, seed=0)
    head = fit(points, names, 40, "head")
    values = [auc(head(asked), others) for asked, others in (made(seed=seed) for seed in range(1, 9))]
    assert head.held_out_auc == pytest.approx(np.mean(values), abs=0.03)


def test_calibration_is_that_of_new_people():
    points, names = made(people=90, seed=0)
    head = fit(points, names, 40, "head")
    asked, others = made(people=90, seed=1)
    pairs = all_pairs(head(asked), np.unique(others, return_inverse=True)[1])
    chance = head.calibration.probability(pairs.score)
    genuine, impostor = chance[pairs.genuine], chance[~pairs.genuine]
    right = ((genuine > 0.5).mean() + (impostor < 0.5).mean()) / 2
    best = max(((genuine > cut).mean() + (impostor < cut).mean()) / 2 for cut in np.linspace(0.01, 0.99, 99))
    assert right > best - 0.02


def test_the_same_faces_give_the_same_head_in_any_order():
    points, names = made()
    head = fit(points, names, 20, "head")
    assert np.array_equal(fit(points, names, 20, "head").projection, head.projection)
    turned = fit(points[::-1], names[::-1], 20, "head")
    np.testing.assert_allclose(turned.mean, head.mean)


def test_principal_components_agree_with_a_singular_value_decomposition():
    points = made()[0] * np.geomspace(1, 0.01, 40)
    mean, axes, deviation = principal_components(points, 5)
    _, values, directions = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(mean, points.mean(axis=0))
    np.testing.assert_allclose(deviation, values[:5] / np.sqrt(len(points) - 1), rtol=1e-3)
    np.testing.assert_allclose(np.abs((axes * directions[:5].T).sum(axis=0)), 1, atol=1e-3)


def test_people_with_one_photo_or_no_name_are_not_learnt_from():
    points, names = made()
    more = np.concatenate([points, 100 + points[:3], points[:2]])
    found = fit(more, [*names, "single", "alone", "once", None, None], 20, "head")
    assert np.array_equal(found.projection, fit(points, names, 20, "head").projection)


def test_one_person_with_many_photos_does_not_decide():
    identity = np.random.default_rng(0).permutation(np.repeat(np.arange(41), [300, *[3] * 40]))
    held_out = [identity[rows] for _, rows in closed_form._folds(identity)]
    assert max(np.bincount(each).max() for each in held_out) <= closed_form.HELD_OUT_PHOTOS


def test_nobody_who_is_held_out_is_learnt_from():
    identity = np.repeat(np.arange(10), 3)
    folds = list(closed_form._folds(identity))
    assert all(not set(identity[learnt]) & set(identity[rows]) for learnt, rows in folds)
    assert sorted(np.unique(np.concatenate([identity[rows] for _, rows in folds]))) == list(range(10))


def test_there_are_no_more_dimensions_than_the_faces_support():
    points, names = made(people=6, photos=2)
    head = fit(points, names, 300, "head")
    assert head.projection.shape[1] <= len(names) - 6
    assert whiten(points, names, 300, "pca").projection.shape[1] == len(names) // 3


@pytest.mark.parametrize(
    ("people", "photos", "words"), [(3, 4, "3 have them"), (9, 1, "0 have them"), (0, 0, "0 have them")]
)
def test_too_few_people_with_two_photos_are_told(people, photos, words):
    points, names = np.ones((people * photos, 5)), [f"p{n}" for n in range(people) for _ in range(photos)]
    with pytest.raises(DataError, match=f"fisherfaces learns from people with two.*{words}.*add photos"):
        fit(points, names, 3, "fisherfaces")


def test_principal_components_take_people_with_one_photo():
    points, _ = made(photos=1)
    head = whiten(points, [None] * len(points), 5, "pca")
    assert head(points).shape == (30, 5)
    assert head.calibration.logit(0.3) == pytest.approx(0.3)


def test_photos_that_are_all_the_same_are_told():
    points, names = made(photos=1)
    with pytest.raises(DataError, match=r"photos of a person differ.*add other photos"):
        fit(np.repeat(points, 2, axis=0), [name for name in names for _ in range(2)], 20, "head")


def test_whitened_components_have_the_deviations_that_whitening_divides_by():
    """Of many components the last ones, too: a decomposition that is near only would make noise of them."""
    draw = np.random.default_rng(0)
    points = (draw.standard_normal((900, 300)) * np.linspace(3, 0.1, 300)).astype(np.float32)
    found = whiten(points, [None] * 900, 250, "pca")(points)
    np.testing.assert_allclose(np.cov(found.T), np.eye(250), atol=1e-3)
