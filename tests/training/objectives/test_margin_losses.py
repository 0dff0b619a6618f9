import math

import pytest
import torch
import torch.nn.functional as F

from facemae.compute.seeding import generator
from facemae.training.objectives.margin_losses import (
    AdaFace,
    chance,
    full_margin,
    identity_loss,
    loss_over,
    scale_of,
    set_margin,
    some_people,
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


# --- some people ---

KINDS = ["cosface", "arcface", "softmax", "adaface", "subcenter"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_over_all_people_is_the_whole_loss(settings, batch, kind):
    loss, other = made(settings(kind)), made(settings(kind))
    whole, part = loss(*batch), loss_over(other, *batch, torch.arange(PEOPLE))
    assert float(part.detach()) == pytest.approx(float(whole.detach()), rel=1e-6)
    whole.backward()
    part.backward()
    torch.testing.assert_close(loss.W.grad, other.W.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_over_some_people_is_that_of_a_smaller_task(settings, batch, kind):
    """People 1 and 4 of five, of whom the batch shows only those."""
    loss = made(settings(kind))
    chosen = torch.tensor([1, 4])
    shown = torch.isin(batch[1], chosen)
    embeddings, labels = batch[0][shown], batch[1][shown]
    torch.manual_seed(1)
    small = identity_loss(settings(kind), 2, DIMENSIONS)
    each = loss.W.shape[1] // PEOPLE
    with torch.no_grad():
        columns = torch.cat([torch.arange(person * each, (person + 1) * each) for person in (1, 4)])
        small.W.copy_(loss.W[:, columns])
    value = loss_over(loss, embeddings, labels, chosen)
    assert float(value.detach()) == pytest.approx(float(small(embeddings, (labels == 4).long()).detach()))
    value.backward()
    assert loss.W.grad[:, columns].any()
    assert loss.W.grad.count_nonzero() == loss.W.grad[:, columns].count_nonzero()  # nobody else learns
    assert loss.num_classes == PEOPLE


def test_some_people_are_those_in_the_batch_and_others_at_random():
    labels = torch.tensor([7, 3, 3, 90])
    met = torch.zeros(100)
    for step in range(200):
        chosen = some_people(labels, 100, 0.1, generator(0, step))
        assert len(chosen) == 10
        assert torch.equal(chosen, chosen.unique())
        assert torch.isin(labels, chosen).all()
        met[chosen] += 1
    others = met[~torch.isin(torch.arange(100), labels)]
    assert met[[3, 7, 90]].tolist() == [200] * 3
    assert others.min() > 2  # of 14 on average
    assert others.max() < 35
    again = some_people(labels, 100, 0.1, generator(0, 199))
    assert torch.equal(again, chosen)


def test_a_batch_with_more_people_than_the_share_has_them_all():
    assert some_people(torch.arange(8), 20, 0.1, generator(0)).tolist() == list(range(8))


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


@pytest.mark.parametrize("share", [0.1, 0.002])
def test_chance_is_that_of_the_people_whom_a_step_compares(settings, share):
    """Of a loss over a tenth of the people, chance over all of them would call a start at random learnt."""
    changes = {"people_per_step": share, "batch_size": 16, "grad_accumulation": 2}
    finetune, people = settings("cosface").model_copy(update=changes), 1000
    loss, labels = identity_loss(finetune, people, DIMENSIONS), torch.arange(8)
    with torch.no_grad():
        loss.W.zero_()
        loss.W[0] = 1
    across = torch.eye(DIMENSIONS)[1].expand(8, -1)
    found = loss_over(loss, across, labels, some_people(labels, people, share, generator(0)))
    assert float(found.detach()) == pytest.approx(chance(finetune, people), abs=1e-4)


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
