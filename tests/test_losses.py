import math

import pytest
import torch
import torch.nn.functional as F

from facemae.losses import full_margin, identity_loss, set_margin

PEOPLE, DIMENSIONS = 5, 8


@pytest.fixture
def settings(experiment):
    def make(loss, margin=0.35, scale=16.0):
        return experiment.defaults.finetune.model_copy(
            update={"loss": loss, "margin": margin, "scale": scale}
        )

    return make


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return 3 * torch.randn(12, DIMENSIONS), torch.arange(12) % PEOPLE


def cosines(loss, embeddings):
    return F.normalize(embeddings, dim=1) @ F.normalize(loss.W.detach(), dim=0)


def margin_softmax(cosine, labels, scale, change):
    """Return the cross entropy when `change` is made to the cosine with one's own person, one by one."""
    total = 0.0
    for row, label in zip(cosine.double().tolist(), labels.tolist(), strict=True):
        logits = [scale * (change(value) if k == label else value) for k, value in enumerate(row)]
        total += math.log(sum(math.exp(value) for value in logits)) - logits[label]
    return total / len(labels)


def made(settings):
    torch.manual_seed(1)
    return identity_loss(settings, PEOPLE, DIMENSIONS)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.35, 1.0])
def test_cosface_takes_the_margin_from_the_cosine(settings, batch, margin):
    loss = made(settings("cosface", margin))
    expected = margin_softmax(cosines(loss, batch[0]), batch[1], 16.0, lambda cosine: cosine - margin)
    assert float(loss(*batch).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 0.8])
def test_arcface_adds_the_margin_to_the_angle(settings, batch, margin):
    loss = made(settings("arcface", margin))
    cosine = cosines(loss, batch[0])
    assert (torch.acos(cosine) + margin).max() < math.pi  # beyond pi it is continued by a line
    expected = margin_softmax(cosine, batch[1], 16.0, lambda value: math.cos(math.acos(value) + margin))
    assert float(loss(*batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_softmax_has_no_margin(settings, batch):
    loss = made(settings("softmax", 0.35, scale=7.0))
    assert full_margin(settings("softmax")) == 0.0
    expected = F.cross_entropy(7.0 * cosines(loss, batch[0]), batch[1])
    assert float(loss(*batch).detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", ["cosface", "arcface"])
def test_a_margin_that_is_set_is_the_margin_that_was_asked_for(settings, batch, kind):
    """Ramped up to its full value, a loss is the one that was made with it: no unit is mixed up."""
    ramped, whole = made(settings(kind, 0.3)), made(settings(kind, 0.3))
    values = []
    for share in (0.0, 0.5, 1.0):
        set_margin(ramped, share * full_margin(settings(kind, 0.3)))
        values.append(float(ramped(*batch).detach()))
    assert values[0] == pytest.approx(float(made(settings("softmax"))(*batch).detach()), rel=1e-6)
    assert values[2] == pytest.approx(float(whole(*batch).detach()), rel=1e-6)
    assert values[0] < values[1] < values[2]


def test_the_length_of_an_embedding_does_not_matter(settings, batch):
    embeddings, labels = batch
    for kind in ("cosface", "arcface", "softmax"):
        loss = made(settings(kind))
        assert float(loss(embeddings * 100, labels).detach()) == pytest.approx(
            float(loss(embeddings, labels).detach()), rel=1e-5
        )


def test_a_loss_holds_one_vector_per_person(settings):
    parameters = dict(made(settings("cosface")).named_parameters())
    assert {name: tuple(value.shape) for name, value in parameters.items()} == {"W": (DIMENSIONS, PEOPLE)}
