import math

import pytest
import torch
import torch.nn.functional as F

from facemae.training.objectives.margin_losses import (
    AdaFace,
    chance,
    full_margin,
    identity_loss,
    scale_of,
    set_margin,
)

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


@pytest.mark.parametrize("kind", ["cosface", "arcface", "subcenter", "adaface"])
def test_a_margin_that_is_set_is_the_margin_that_was_asked_for(settings, batch, kind):
    """Ramped up to its full value, a loss is the one that was made with it: no unit is mixed up."""
    ramped, whole = made(settings(kind, 0.3)), made(settings(kind, 0.3))
    values = []
    for share in (0.0, 0.5, 1.0):
        set_margin(ramped, share * full_margin(settings(kind, 0.3)))
        values.append(float(ramped(*batch).detach()))
    if kind != "subcenter":  # which has other vectors
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


def test_subcenter_takes_the_nearest_of_a_persons_vectors(settings, batch):
    loss = made(settings("subcenter", 0.3))
    assert loss.W.shape == (DIMENSIONS, 3 * PEOPLE)
    cosine = cosines(loss, batch[0]).view(-1, PEOPLE, 3).amax(dim=2)
    expected = margin_softmax(cosine, batch[1], 16.0, lambda value: math.cos(math.acos(value) + 0.3))
    assert float(loss(*batch).detach()) == pytest.approx(expected, rel=1e-5)


# --- AdaFace ---


def test_adaface_is_its_equation_by_hand():
    """Lengths 1 and 3: mean 2, deviation 2 ** 0.5, so that k is -/+ h / 2 ** 0.5 (Kim et al., 3.3)."""
    loss = AdaFace(2, 2, scale=4.0, margin=0.4)
    with torch.no_grad():
        loss.W.copy_(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    embeddings = torch.tensor([[0.6, 0.8], [0.0, 3.0]])
    labels = torch.tensor([0, 1])
    k = 0.333 / math.sqrt(2)
    first = 4 * (math.cos(math.acos(0.6) + 0.4 * k) - (0.4 - 0.4 * k)), 4 * 0.8
    angle = max(1e-3, 0.0 - 0.4 * k)  # an angle does not fall below zero
    second = 4 * (math.cos(angle) - (0.4 + 0.4 * k)), 4 * 0.0
    expected = (
        math.log(1 + math.exp(first[1] - first[0])) + math.log(1 + math.exp(second[1] - second[0]))
    ) / 2
    assert float(loss(embeddings, labels).detach()) == pytest.approx(expected, rel=2e-3)


def test_a_long_embedding_has_the_greater_cosine_margin_and_a_short_one_the_angles():
    """At k = 1 it is CosFace's with twice the margin on an eased angle, at -1 ArcFace's: the paper, 3.3."""
    for length, change in ((100.0, lambda angle: math.cos(angle - 0.3) - 0.6),
                           (0.001, lambda angle: math.cos(angle + 0.3))):  # fmt: skip
        loss = AdaFace(2, 2, scale=1.0, margin=0.3).eval()
        loss.mean.fill_(10.0)
        with torch.no_grad():
            loss.W.copy_(torch.eye(2))
        unit = torch.tensor([[math.cos(1.0), math.sin(1.0)]])
        own = change(1.0)
        expected = math.log(1 + math.exp(math.sin(1.0) - own))
        assert float(loss(length * unit, torch.tensor([0])).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_quality_has_no_gradient():
    """The length of an embedding sets the margin; else a network could ask for an easy one."""
    loss = AdaFace(PEOPLE, DIMENSIONS, 8.0, 0.4)
    embeddings = torch.randn(6, DIMENSIONS, generator=torch.manual_seed(0), requires_grad=True)
    loss(embeddings, torch.arange(6) % PEOPLE).backward()
    along = (embeddings.grad * embeddings.detach()).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros(6), rtol=0, atol=1e-6)


def test_running_lengths_start_as_the_first_batches_and_are_part_of_the_state():
    loss = AdaFace(PEOPLE, DIMENSIONS, 8.0, 0.4)
    lengths = [torch.tensor([1.0, 3.0]), torch.tensor([5.0, 5.0])]
    loss.quality(lengths[0])
    assert float(loss.mean) == pytest.approx(2.0)
    assert float(loss.deviation) == pytest.approx(math.sqrt(2))
    loss.quality(lengths[1])
    assert float(loss.mean) == pytest.approx(3.5)  # the mean of both
    for _ in range(200):
        loss.quality(lengths[1])
    before = float(loss.mean)
    loss.quality(lengths[0])
    assert float(loss.mean) == pytest.approx(0.99 * before + 0.01 * 2.0)
    again = AdaFace(PEOPLE, DIMENSIONS, 8.0, 0.4)
    again.load_state_dict(loss.state_dict())
    again.eval()
    loss.eval()
    assert torch.equal(again.quality(lengths[0]), loss.quality(lengths[0]))
    assert float(loss.mean) == float(again.mean)  # in evaluation nothing moves


# --- scale ---


@pytest.mark.parametrize(("people", "expected"), [(20, 14.3), (10_572, 27.7), (1_000_000, 36.8)])
def test_the_automatic_scale_is_twice_cosfaces_bound(settings, people, expected):
    scale = scale_of(settings("cosface", scale="auto"), people)
    assert scale == pytest.approx(expected, abs=0.05)
    # The bound is where people's vectors, spread evenly, give p to one's own: half the scale does that.
    own, other = scale / 2, scale / 2 * (-1 / (people - 1))
    share = 1 / (1 + (people - 1) * math.exp(other - own))
    assert share == pytest.approx(0.99, abs=1e-6)
    assert scale_of(settings("cosface", scale=30.0), people) == 30.0


@pytest.mark.parametrize("name", ["cosface", "arcface", "adaface", "subcenter", "softmax"])
def test_chance_is_the_loss_of_embeddings_at_right_angles_to_all_class_vectors(settings, name):
    finetune = settings(name)
    loss = identity_loss(finetune, PEOPLE, DIMENSIONS)
    with torch.no_grad():
        loss.W.zero_()
        loss.W[: DIMENSIONS // 2] = torch.randn(DIMENSIONS // 2, loss.W.shape[1])
    across = torch.zeros(12, DIMENSIONS)
    across[:, DIMENSIONS // 2 :] = 1  # of one length, so that adaface finds all of one quality
    found = loss.eval()(across, torch.arange(12) % PEOPLE)
    tolerance = 1.0 if name == "adaface" else 1e-3  # whose margin follows the lengths
    assert float(found.detach()) == pytest.approx(chance(finetune, PEOPLE), abs=tolerance)


@pytest.mark.parametrize("name", ["cosface", "arcface", "adaface", "subcenter", "softmax"])
def test_class_vectors_are_short_enough_to_turn(settings, batch, name):
    """Forty steps of the size of AdamW's turn them well away from where they were drawn."""
    loss = identity_loss(settings(name), PEOPLE, 128)
    before = F.normalize(loss.W.detach().clone(), dim=0)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
    embeddings, labels = torch.randn(12, 128), batch[1]
    for _ in range(40):
        optimizer.zero_grad()
        loss(embeddings, labels).backward()
        optimizer.step()
    turned = (before * F.normalize(loss.W.detach(), dim=0)).sum(dim=0)
    assert turned.min() < 0.9  # of subcenter only the nearest vector learns
