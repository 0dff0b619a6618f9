import numpy as np
import pytest
import torch

from facemae.baselines import BASELINES, PCA_COMPONENTS, pca, pixels, random_weights
from facemae.models.mae import build_mae
from facemae.models.patches import to_input
from facemae.randomness import seed_of


@pytest.fixture
def faces(orl_images):
    return orl_images[:10], orl_images[10:]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_gives_each_face_a_finite_vector_of_its_own(experiment, faces, name):
    vectors = BASELINES[name](*faces, experiment, 0)
    assert vectors.ndim == 2
    assert len(vectors) == len(faces[1])
    assert np.isfinite(vectors).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.triu(unit @ unit.T, 1).max() < 1 - 1e-6
    assert np.array_equal(BASELINES[name](*faces, experiment, 0), vectors)


@pytest.mark.parametrize("name", BASELINES)
def test_a_faces_vector_does_not_depend_on_the_others_asked_for(experiment, faces, name):
    training, images = faces
    together = BASELINES[name](training, images, experiment, 0)
    alone = BASELINES[name](training, images[2:3], experiment, 0)
    np.testing.assert_allclose(alone[0], together[2], rtol=1e-4, atol=1e-5)


def test_the_cosine_of_pixels_is_the_correlation_of_grey_values(experiment, faces):
    vectors = pixels(*faces, experiment, 0)
    grey = faces[1].astype(float).mean(axis=3).reshape(len(faces[1]), -1)
    for a, b in ((0, 1), (2, 5)):
        assert cosine(vectors[a], vectors[b]) == pytest.approx(np.corrcoef(grey[a], grey[b])[0, 1])


def test_pixels_do_not_see_brightness_and_contrast(experiment, faces):
    lit = np.clip(faces[1] // 2 + 60, 0, 255).astype(np.uint8)
    for before, after in zip(
        pixels(*faces, experiment, 0), pixels(faces[0], lit, experiment, 0), strict=True
    ):
        assert cosine(before, after) > 0.999


def test_pca_whitens_the_training_faces_and_learns_from_them_alone(experiment, faces):
    training, images = faces
    known = pca(training, training, experiment, 0)
    assert known.shape == (10, min(PCA_COMPONENTS, 9))
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(known.T), np.eye(9), atol=1e-4)
    assert not np.allclose(
        pca(training[:5], images, experiment, 0)[:, :4], pca(training, images, experiment, 0)[:, :4]
    )


def test_pca_agrees_with_a_singular_value_decomposition(experiment, faces):
    known, asked = (pixels(faces[0], part, experiment, 0) for part in faces)
    mean = known.mean(axis=0)
    _, values, directions = np.linalg.svd(known - mean, full_matrices=False)
    expected = (asked - mean) @ directions[:9].T / (values[:9] / np.sqrt(9))
    found = pca(*faces, experiment, 0)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-4)


def test_random_weights_are_those_that_every_run_of_the_seed_starts_from(experiment, faces):
    run = experiment.run("random")
    images = to_input(torch.from_numpy(faces[1]))
    for seed in (0, 1):
        torch.manual_seed(seed_of(seed, "weights"))
        encoder = build_mae(run.model, run.pretrain, 32).encoder.eval()
        with torch.inference_mode():
            both = encoder.pool(encoder(images)) + encoder.pool(encoder(images.flip(-1)))
        expected = both / both.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(random_weights(*faces, experiment, seed), expected, atol=1e-6)
    assert not np.allclose(*(random_weights(*faces, experiment, seed) for seed in (0, 1)), atol=1e-3)


def test_a_baseline_recognises_people_better_than_chance(experiment, orl_images):
    """Each of eight people has two photos, the second closest to the first more often than 1 in 8 times."""
    for name in BASELINES:
        vectors = BASELINES[name](orl_images[::2], orl_images, experiment, 0)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        nearest = (unit[1::2] @ unit[::2].T).argmax(axis=1)
        assert (nearest == np.arange(8)).sum() >= 4, name
