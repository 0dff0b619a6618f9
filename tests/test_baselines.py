import importlib.util
from typing import get_args

import numpy as np
import pytest
import torch

from facemae import config, recognisers
from facemae.baselines import BASELINES, PCA_COMPONENTS, pca, pixels, random_weights
from facemae.errors import UsageError
from facemae.models.mae import build_mae
from facemae.models.patches import to_input
from facemae.randomness import seed_of

FLOOR = ("pixels", "pca", "random_weights")


@pytest.fixture
def faces(orl_images):
    return orl_images[:10], orl_images[10:]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_configuration_names_every_baseline():
    assert tuple(BASELINES) == get_args(config.Baseline)


@pytest.mark.parametrize("name", FLOOR)
def test_a_baseline_gives_each_face_a_finite_vector_of_its_own(experiment, faces, name):
    training, images = faces
    vectors = BASELINES[name](training, experiment, 0)(images)
    assert vectors.ndim == 2
    assert len(vectors) == len(images)
    assert np.isfinite(vectors).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.triu(unit @ unit.T, 1).max() < 1 - 1e-6
    assert np.array_equal(BASELINES[name](training, experiment, 0)(images), vectors)


@pytest.mark.parametrize("name", FLOOR)
def test_a_faces_vector_does_not_depend_on_what_else_is_embedded(experiment, faces, name):
    training, images = faces
    embed = BASELINES[name](training, experiment, 0)
    together = embed(images)
    np.testing.assert_allclose(embed(images[2:3])[0], together[2], rtol=1e-4, atol=1e-5)
    assert np.array_equal(embed(images), together)


def test_the_cosine_of_pixels_is_the_correlation_of_grey_values(experiment, faces):
    vectors = pixels(faces[0], experiment, 0)(faces[1])
    grey = faces[1].astype(float).mean(axis=3).reshape(len(faces[1]), -1)
    for a, b in ((0, 1), (2, 5)):
        assert cosine(vectors[a], vectors[b]) == pytest.approx(np.corrcoef(grey[a], grey[b])[0, 1])


def test_pixels_do_not_see_brightness_and_contrast(experiment, faces):
    lit = np.clip(faces[1] // 2 + 60, 0, 255).astype(np.uint8)
    embed = pixels(faces[0], experiment, 0)
    for before, after in zip(embed(faces[1]), embed(lit), strict=True):
        assert cosine(before, after) > 0.999


def test_pca_whitens_the_training_faces_and_learns_from_them_alone(experiment, faces):
    training, images = faces
    embed = pca(training, experiment, 0)
    known = embed(training)
    assert known.shape == (10, min(PCA_COMPONENTS, 9))
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(known.T), np.eye(9), atol=1e-4)
    fewer = pca(training[:5], experiment, 0)
    assert not np.allclose(fewer(images)[:, :4], embed(images)[:, :4])


def test_pca_agrees_with_a_singular_value_decomposition(experiment, faces):
    known, asked = (pixels(faces[0], experiment, 0)(part) for part in faces)
    mean = known.mean(axis=0)
    _, values, directions = np.linalg.svd(known - mean, full_matrices=False)
    expected = (asked - mean) @ directions[:9].T / (values[:9] / np.sqrt(9))
    found = pca(faces[0], experiment, 0)(faces[1])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-4)


def test_random_weights_are_those_that_every_run_of_the_seed_starts_from(experiment, faces):
    run = experiment.run("random")
    images = to_input(torch.from_numpy(faces[1]))
    found = {seed: random_weights(faces[0], experiment, seed)(faces[1]) for seed in (0, 1)}
    for seed in (0, 1):
        torch.manual_seed(seed_of(seed, "weights"))
        encoder = build_mae(run.model, run.pretrain, 32).encoder.eval()
        with torch.inference_mode():
            both = encoder.pool(encoder(images)) + encoder.pool(encoder(images.flip(-1)))
        expected = both / both.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(found[seed], expected, atol=1e-6)
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_a_baseline_recognises_people_better_than_chance(experiment, orl_images):
    """Each of eight people has two photos, the second closest to the first more often than 1 in 8 times."""
    for name in FLOOR:
        vectors = BASELINES[name](orl_images[::2], experiment, 0)(orl_images)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        nearest = (unit[1::2] @ unit[::2].T).argmax(axis=1)
        assert (nearest == np.arange(8)).sum() >= 4, name


def test_dlib_is_the_recogniser_whatever_it_is_fitted_to(experiment, faces):
    vectors = BASELINES["dlib"](faces[0], experiment, 0)(faces[1][:2])
    np.testing.assert_allclose(vectors, recognisers.recogniser("dlib")(faces[1][:2]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "cure"), [("dlib", "facemae[baselines]"), ("inception", "FACEMAE_INCEPTION")]
)
def test_a_recogniser_that_is_not_there_is_told_in_one_sentence(experiment, faces, monkeypatch, name, cure):
    monkeypatch.delenv("FACEMAE_INCEPTION", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as raised:
        BASELINES[name](faces[0], experiment, 0)
    assert cure in str(raised.value)
    assert "\n" not in str(raised.value)
