import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from facemae.models import embedder
from facemae.models.base import Encoder, Encoding
from facemae.models.build import build_encoder
from facemae.training.objectives.probe import probe


class Planted(Encoder):
    """An encoder whose vector of an image is planted: the number in its first pixel says which one."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = torch.as_tensor(np.asarray(vectors), dtype=torch.float32)

    def forward(self, images, mask=None):
        # A mirrored image has the number in its last column.
        numbers = torch.maximum(images[:, 0, 0, 0], images[:, 0, 0, -1])
        ids = ((numbers + 1) * 127.5).round().long()
        return Encoding(self.vectors[ids][:, None], self.vectors[ids][:, None])

    def pool(self, encoding):
        return encoding.prefix[:, 0]


def faces_of(count):
    faces = torch.zeros(count, 4, 4, 3, dtype=torch.uint8)
    faces[:, 0, 0] = torch.arange(count, dtype=torch.uint8)[:, None]
    return faces


def probed(vectors, people, compute):
    return probe(Planted(vectors), faces_of(len(people)), people, compute)


def test_people_who_are_far_apart_are_told_apart(compute):
    vectors = np.repeat(np.eye(4), 3, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(12, 4))
    people = [f"p{n // 3}" for n in range(12)]
    assert probed(vectors, people, compute) == {"probe_knn": 1.0, "probe_auc": 1.0}


def test_vectors_by_chance_say_nothing(compute):
    vectors = np.random.default_rng(0).normal(size=(200, 16))
    found = probed(vectors, [f"p{n % 10}" for n in range(200)], compute)
    assert found["probe_knn"] == pytest.approx(0.1, abs=0.06)
    assert found["probe_auc"] == pytest.approx(0.5, abs=0.02)


def test_the_numbers_are_those_of_a_plain_count(compute):
    draw = np.random.default_rng(1)
    people = [f"p{n}" for n in draw.integers(0, 6, 30)] + ["once"]
    vectors = draw.normal(size=(31, 5)) + 3
    found = probed(vectors, people, compute)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # as `embed` gives them
    unit = unit - unit.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    hits, asked = 0, 0
    for face, person in enumerate(people):
        if people.count(person) < 2:
            continue
        others = [other for other in range(31) if other != face]
        hits += people[max(others, key=lambda other: cosine[face, other])] == person
        asked += 1
    pairs = [(a, b) for a in range(31) for b in range(a + 1, 31)]
    area = roc_auc_score([people[a] == people[b] for a, b in pairs], [cosine[a, b] for a, b in pairs])
    assert found["probe_knn"] == pytest.approx(hits / asked)
    assert found["probe_auc"] == pytest.approx(area, abs=1e-6)


def test_a_large_mean_does_not_hide_what_differs(compute):
    draw = np.random.default_rng(2)
    people = [f"p{n // 4}" for n in range(40)]
    centres = draw.normal(size=(10, 8))
    vectors = np.repeat(centres, 4, axis=0) + 0.1 * draw.normal(size=(40, 8)) + 1000
    found = probed(vectors, people, compute)
    assert found["probe_knn"] > 0.95
    assert found["probe_auc"] > 0.95


@pytest.mark.parametrize("people", [["a", "b", "c"], ["a", "a", "a"], ["a"]])
def test_where_there_is_nothing_to_compare_nothing_is_said(compute, people):
    assert probed(np.random.default_rng(0).normal(size=(len(people), 4)), people, compute) == {}


def test_batches_and_order_do_not_matter(compute, monkeypatch):
    draw = np.random.default_rng(3)
    people = [f"p{n}" for n in draw.integers(0, 5, 20)]
    vectors = draw.normal(size=(20, 6))
    before = probed(vectors, people, compute)
    monkeypatch.setattr(embedder, "BATCH", 7)
    after = probed(vectors, people, compute)
    order = draw.permutation(20)
    turned = probed(vectors[order], [people[place] for place in order], compute)
    for other in (after, turned):
        assert other == pytest.approx(before, abs=1e-6)


def test_a_real_encoder_is_left_as_it_is(experiment, compute, orl_images):
    torch.manual_seed(0)
    encoder = build_encoder(experiment.defaults.model, 32).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    people = [f"p{n // 2}" for n in range(len(orl_images))]
    found = probe(encoder, torch.from_numpy(orl_images), people, compute)
    assert found["probe_auc"] > 0.6  # two photos of one person, a session apart, look alike even so
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not encoder.training
    assert all(weight.grad is None for weight in encoder.parameters())
