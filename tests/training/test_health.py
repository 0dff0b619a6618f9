import numpy as np
import pytest

from facemae.masking.regions import region_map
from facemae.training import health

PEOPLE = np.repeat(np.arange(6), 2)


@pytest.mark.parametrize("directions", [1, 2, 5, 16])
def test_the_effective_dimension_counts_directions_of_equal_variance(directions):
    vectors = np.zeros((2 * directions, 16))
    vectors[np.arange(directions), np.arange(directions)] = 1
    vectors[directions + np.arange(directions), np.arange(directions)] = -1
    assert health.effective_dimension(vectors + 3) == pytest.approx(directions)


def test_two_faces_of_each_person_at_right_angles_to_all_others():
    vectors = np.eye(6)[PEOPLE] * np.linspace(1, 5, 12)[:, None]  # lengths do not count
    found = health.measure(vectors, PEOPLE)
    assert (found.genuine_mean, found.impostor_mean, found.rank1, found.people) == pytest.approx((1, 0, 1, 6))
    assert found.effective_dimension == pytest.approx(5)  # six corners of a simplex span five dimensions


def test_a_collapsed_embedding_has_not_learnt():
    draw = np.random.default_rng(0)
    vectors = np.ones(8) + 1e-3 * draw.standard_normal(8) * draw.standard_normal((40, 1))
    collapsed = health.measure(vectors, np.repeat(np.arange(20), 2))
    judged = health.entry(collapsed, 0.1, None)
    assert not judged["learnt"]
    assert "collapsed to 1.0 effective dimensions" in judged["reason"]


def test_a_loss_near_chance_has_not_learnt():
    found = health.measure(np.eye(6)[PEOPLE], PEOPLE)
    assert not health.entry(found, 0.9, None)["learnt"]
    assert health.entry(found, 0.5, None)["learnt"]
    assert not health.entry(None, 0.9, None)["learnt"]


def faces(size=56):
    """Two faces each of six people, who differ both in the frame and inside."""
    draw = np.random.default_rng(1)
    one = draw.integers(0, 256, (6, size, size, 3), dtype=np.uint8)
    return np.repeat(one, 2, axis=0)


@pytest.mark.parametrize(("looks_at", "share"), [("frame", 1.0), ("face", 0.0)])
def test_the_frame_share_tells_where_a_network_looks(looks_at, share):
    images = faces()
    inside = (region_map(56) > 0).numpy().reshape(1, 56, 56, 1)
    seen = ~inside if looks_at == "frame" else inside

    def embed(batch):
        flat = (batch * seen).reshape(len(batch), -1).astype(float)
        flat -= flat.mean(axis=0)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)

    assert health.frame_share(embed, images, PEOPLE) == pytest.approx(share, abs=0.02)
