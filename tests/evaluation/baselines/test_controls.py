import importlib.util

import numpy as np
import pandas as pd
import pytest
import torch

from facemae import config
from facemae.core.errors import DataError, UsageError
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import Faces
from facemae.data.faces.subsets import labelled_subset
from facemae.evaluation.baselines import off_the_shelf
from facemae.evaluation.baselines.closed_form import fit
from facemae.evaluation.baselines.controls import (
    BASELINES,
    LEARNERS,
    baseline,
    gradients,
    grey,
    learnt_from,
)
from facemae.evaluation.metrics import roc_auc_score
from facemae.evaluation.pairs import all_pairs
from facemae.models.build import build_mae
from facemae.models.patches import to_input

OURS = ("pixels", "pca", "fisherfaces", "hog_lda", "random_weights")


def known(images):
    """Faces of people with two photos each, as `orl_images` shows them."""
    people = [f"p{number // 2}" for number in range(len(images))]
    return Faces(images, [f"{person}/{number}" for number, person in enumerate(people)], list(people))


@pytest.fixture
def faces(orl_images):
    return known(orl_images[:10]), orl_images[10:]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", OURS)
def test_a_baseline_gives_each_face_a_finite_vector_of_its_own(experiment, faces, name):
    training, images = faces
    vectors = baseline(name, training, experiment, 0)(images)
    assert vectors.ndim == 2
    assert len(vectors) == len(images)
    assert np.isfinite(vectors).all()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.triu(unit @ unit.T, 1).max() < 1 - 1e-6
    assert np.array_equal(baseline(name, training, experiment, 0)(images), vectors)


@pytest.mark.parametrize("name", OURS)
def test_a_faces_vector_does_not_depend_on_what_else_is_embedded(experiment, faces, name):
    training, images = faces
    embed = baseline(name, training, experiment, 0)
    together = embed(images)
    np.testing.assert_allclose(embed(images[2:3])[0], together[2], rtol=1e-4, atol=1e-5)
    assert np.array_equal(embed(images), together)


def test_the_cosine_of_pixels_is_the_correlation_of_grey_values(experiment, faces):
    vectors = baseline("pixels", faces[0], experiment, 0)(faces[1])
    values = faces[1].astype(float).mean(axis=3).reshape(len(faces[1]), -1)
    for a, b in ((0, 1), (2, 5)):
        assert cosine(vectors[a], vectors[b]) == pytest.approx(np.corrcoef(values[a], values[b])[0, 1])


def test_pixels_do_not_see_brightness_and_contrast(experiment, faces):
    lit = np.clip(faces[1] // 2 + 60, 0, 255).astype(np.uint8)
    embed = baseline("pixels", faces[0], experiment, 0)
    for before, after in zip(embed(faces[1]), embed(lit), strict=True):
        assert cosine(before, after) > 0.999


def test_pca_whitens_the_training_faces_and_learns_from_all_of_them(experiment, faces):
    training, images = faces
    embed = baseline("pca", training, experiment, 0)
    found = embed(training.images)
    assert found.shape == (10, 3)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(found.T), np.eye(3), atol=1e-3)
    single = Faces(training.images, training.sample_ids, [*training.people[:-1], "alone"])
    np.testing.assert_allclose(baseline("pca", single, experiment, 0)(images), embed(images), atol=1e-4)


def test_fisherfaces_are_a_closed_form_head_on_grey_pixels(experiment, faces):
    training, images = faces
    head = fit(grey(training.images), training.people, 300, "fisherfaces")
    assert np.array_equal(baseline("fisherfaces", training, experiment, 0)(images), head(grey(images)))


@pytest.mark.parametrize("name", ["fisherfaces", "hog_lda"])
def test_a_control_that_learns_from_labels_depends_on_them(experiment, faces, name):
    training, images = faces
    mixed = Faces(training.images, training.sample_ids, training.people[::2] * 2)
    one, other = (baseline(name, each, experiment, 0)(images) for each in (training, mixed))
    assert one.shape != other.shape or not np.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("name", config.BASELINES_FROM_LABELS)
def test_people_with_one_photo_only_are_told(experiment, faces, name):
    alone = Faces(faces[0].images, faces[0].sample_ids, faces[0].sample_ids)
    with pytest.raises(DataError, match=f"{name} learns from people with two photos or more"):
        baseline(name, alone, experiment, 0)


def test_gradients_are_blocks_of_normalised_histograms(orl_images):
    found = gradients(orl_images[:2])
    assert found.shape == (2, 7 * 7 * 2 * 2 * 8)
    lengths = np.linalg.norm(found.reshape(2, 49, 32), axis=2)
    np.testing.assert_allclose(lengths, 1, atol=1e-2)


def test_a_learner_gets_the_labels_of_a_run_and_others_get_no_face(experiment):
    rows = pd.DataFrame({"person": [f"p{n // 3}" for n in range(60)] + ["alone"], "sample_id": range(61)})
    labels = experiment.defaults.finetune.labels.model_copy(update={"fraction": 0.5, "min_per_person": 2})
    for name in BASELINES:
        found = learnt_from(name, rows, labels)
        if name not in LEARNERS:
            assert found.empty
        elif name == "pca":
            assert found.equals(rows)
        else:
            assert found.equals(labelled_subset(rows, labels))


def test_random_weights_are_those_that_every_run_of_the_seed_starts_from(experiment, faces):
    run = experiment.run("random")
    images = to_input(torch.from_numpy(faces[1]))
    found = {seed: baseline("random_weights", faces[0], experiment, seed)(faces[1]) for seed in (0, 1)}
    for seed in (0, 1):
        torch.manual_seed(seed_of(seed, "weights"))
        encoder = build_mae(run.model, run.pretrain, 32).encoder.eval()
        with torch.inference_mode():
            both = encoder.pool(encoder(images)) + encoder.pool(encoder(images.flip(-1)))
        expected = both / both.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(found[seed], expected, atol=1e-6)
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_a_baseline_recognises_people_better_than_chance(experiment, faces):
    for name in OURS:
        vectors = baseline(name, faces[0], experiment, 0)(faces[1])
        auc = roc_auc_score(all_pairs(vectors, np.array([0, 0, 1, 1, 2, 2])))[0]
        assert auc > 0.7, name


def test_dlib_is_the_recogniser_whatever_it_is_fitted_to(experiment, faces):
    vectors = baseline("dlib", faces[0], experiment, 0)(faces[1][:2])
    np.testing.assert_allclose(vectors, off_the_shelf.recogniser("dlib")(faces[1][:2]), atol=1e-6)


@pytest.mark.parametrize(("name", "cure"), [("dlib", "make install"), ("inception", "FACEMAE_INCEPTION")])
def test_a_recogniser_that_is_not_there_is_told_in_one_sentence(experiment, faces, monkeypatch, name, cure):
    monkeypatch.delenv("FACEMAE_INCEPTION", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError) as raised:
        baseline(name, faces[0], experiment, 0)
    assert cure in str(raised.value)
    assert "\n" not in str(raised.value)
