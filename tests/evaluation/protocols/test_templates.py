"""Templates by hand, and against a loop."""

import numpy as np
import pytest

from facemae.evaluation.protocols.templates import templates


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_long_video_counts_as_much_as_a_photo():
    embeddings = np.array([[1.0, 0], [1, 0], [1, 0], [0, 5]])
    found = templates(embeddings, np.zeros(4, int), np.array([3, 3, 3, 8]))
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5]])


@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize("rated", [False, True])
def test_as_a_loop_does_it(by_norm, rated):
    rng = np.random.default_rng(0)
    template = rng.permutation(np.append(np.arange(9), rng.integers(0, 9, 91)))
    medium, embeddings = rng.integers(-2, 3, 100), rng.normal(size=(100, 6))
    quality = rng.random(100) if rated else None
    found = templates(embeddings, template, medium, quality, by_norm)
    for number in range(9):
        total = np.zeros(6)
        for each in range(-2, 3):
            mine = np.flatnonzero((template == number) & (medium == each))
            if len(mine):
                vectors = embeddings[mine] if by_norm else unit(embeddings[mine])
                total += (vectors * (quality[mine, None] if rated else 1)).mean(axis=0)
        np.testing.assert_allclose(found[number], unit(total), atol=1e-12)


def test_one_medium_number_in_two_templates_is_two_media():
    embeddings = np.array([[1.0, 0], [0, 1]])
    found = templates(embeddings, np.array([1, 0]), np.array([4, 4]))
    np.testing.assert_allclose(found, [[0, 1], [1, 0]])


def test_an_image_without_quality_does_not_count():
    embeddings = np.array([[1.0, 0], [0, 1], [1, 1]])
    found = templates(embeddings, np.zeros(3, int), np.arange(3), np.array([0, 0.5, 0]))
    np.testing.assert_allclose(found, [[0, 1]])


GOOD = (np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([0, 0, 1]), np.array([0, 1, 0]), np.ones(3))


@pytest.mark.parametrize(("place", "value", "message"), [
    (0, np.empty((0, 2)), r"must be \(images, features\)"),
    (0, np.array([[1.0, 0], [0, np.nan], [1, 1]]), "embedding 1 is not finite"),
    (0, np.array([[1.0, 0], [0, 0], [1, 1]]), "embedding 1 is zero"),
    (0, np.array([[1.0, 0], [-1, 0], [1, 1]]), "template 0 cancel out"),
    (1, np.array([0, 0, 2]), "skip no number"),
    (1, np.array([-1, 0, 1]), "skip no number"),
    (1, np.array([0, 0]), "template must name 3 images"),
    (1, np.array([0, 0, 1.0]), "template must hold whole numbers"),
    (2, np.array([0, 1]), "medium must name 3 images"),
    (3, np.ones(2), "quality must rate 3 images"),
    (3, np.array([1, np.nan, 1]), "finite and not negative"),
    (3, np.array([1, -1, 1]), "finite and not negative"),
    (3, np.array([1, 1, 0]), "template 1 cancel out or have no quality"),
])  # fmt: skip
def test_what_makes_no_template_is_named(place, value, message):
    arguments = list(GOOD)
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        templates(*arguments)


def test_a_medium_that_cancels_out_but_for_rounding():
    embeddings = np.array([[0.1, 0.3], [0.2, 0.6], [-0.7, -2.1], [-0.3, -0.9]])
    with pytest.raises(ValueError, match="template 0 cancel out"):
        templates(embeddings, np.zeros(4, int), np.zeros(4, int))
