import copy

import numpy as np
import pandas as pd
import pytest
import torch

from facemae.compute.device import choose
from facemae.models.build import build_embedder
from facemae.models.embedder import with_mirror
from facemae.models.patches import to_input
from facemae.training.whitening import LEAST_SPHERE, whiten

SIZE, PEOPLE, PHOTOS = 32, 12, 5


@pytest.fixture
def embedder(experiment):
    torch.manual_seed(0)
    built = build_embedder(experiment.defaults.model, SIZE)
    built.train()(torch.randn(64, 3, SIZE, SIZE))  # running statistics other than 0 and 1
    torch.nn.init.normal_(built.head[-1].bias)
    torch.nn.init.uniform_(built.head[-1].weight, 0.2, 3.0)
    return built.eval()


@pytest.fixture
def compute():
    return choose("cpu", "float32", 1, "off")


@pytest.fixture
def faces():
    """People who differ, and whose own photos differ less."""
    drawn = np.random.default_rng(0)
    people = drawn.integers(40, 216, (PEOPLE, 1, SIZE, SIZE, 3))
    photos = people + drawn.integers(-40, 40, (PEOPLE, PHOTOS, SIZE, SIZE, 3))
    return photos.reshape(-1, SIZE, SIZE, 3).astype(np.uint8)


@pytest.fixture
def names():
    return pd.Series(np.repeat([f"p{number}" for number in range(PEOPLE)], PHOTOS))


def vectors(embedder, faces):
    return with_mirror(embedder, to_input(torch.from_numpy(faces))).numpy().astype(np.float64)


def within(found, names):
    apart = found - pd.DataFrame(found).groupby(names).transform("mean").to_numpy()
    return apart.T @ apart


def test_the_photos_of_a_person_vary_more_alike_in_all_directions(embedder, compute, faces, names):
    before = vectors(embedder, faces)
    whiten(embedder, faces, names, compute, "whitening")
    after = vectors(embedder, faces)
    linear_map, *_ = np.linalg.lstsq(before, after, rcond=None)
    np.testing.assert_allclose(before @ linear_map, after, atol=1e-4)  # nothing but a linear map
    varied, size = within(before, names), within(before, names).trace() / before.shape[1]
    shrunk = (1 - LEAST_SPHERE) * varied + LEAST_SPHERE * size * np.eye(len(varied))
    np.testing.assert_allclose(linear_map.T @ shrunk @ linear_map / size, np.eye(len(varied)), atol=1e-3)
    spread = [np.linalg.eigvalsh(within(each, names)) for each in (before, after)]
    assert spread[1][-1] / spread[1].mean() < 0.8 * spread[0][-1] / spread[0].mean()


def test_few_photos_change_little(embedder, compute, faces, names):
    """Two people's second photos tell of two directions, which one would be wrong to flatten."""
    few = [0, 1, PHOTOS, PHOTOS + 1]
    before = vectors(embedder, faces)
    whiten(embedder, faces[few], names[few], compute, "whitening")
    linear_map, *_ = np.linalg.lstsq(before, vectors(embedder, faces), rcond=None)
    dimensions = len(linear_map)
    sphere = dimensions / (dimensions + 2)
    least = np.linalg.svd(linear_map, compute_uv=False)[-1]
    assert least >= 1 / np.sqrt(sphere + (1 - sphere) * dimensions) - 1e-3
    assert least > 0.55


@pytest.mark.parametrize("case", ["nobody", "no differences"])
def test_what_cannot_be_whitened_stays(embedder, compute, faces, names, case):
    if case == "nobody":
        faces, names = faces[:0], names[:0]
    else:
        faces = np.repeat(faces[::PHOTOS], PHOTOS, axis=0)
    before = copy.deepcopy(embedder.state_dict())
    whiten(embedder, faces, names, compute, "whitening")
    for name, value in embedder.state_dict().items():
        assert torch.equal(value, before[name]), name
