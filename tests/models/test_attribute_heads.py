import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from facemae.models.attribute_heads import (
    AGES,
    AttributeHeads,
    attribute_losses,
    expected_age,
    inverse_frequency,
)


def test_each_task_has_its_own_head():
    heads = AttributeHeads(6, {"gender": 2, "age": AGES})
    pooled = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    found = heads(pooled)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "gender": (3, 2),
        "age": (3, AGES),
    }
    found["gender"].sum().backward()
    assert all(weight.grad is None for weight in heads.heads["age"].parameters())
    shifted = heads(5.0 * pooled + 2.0)  # which the norm takes out, up to its epsilon
    torch.testing.assert_close(shifted, found, rtol=0, atol=1e-3)


def test_an_age_is_the_mean_of_the_bins_by_their_probabilities():
    probabilities = torch.zeros(3, AGES)
    probabilities[0, 30] = 1.0
    probabilities[1, 20], probabilities[1, 40] = 0.75, 0.25
    probabilities[2] = 1 / AGES
    torch.testing.assert_close(expected_age(probabilities), torch.tensor([30.0, 25.0, 58.0]))


def test_weights_make_every_class_count_alike():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] + [-1] * 4)
    weights = inverse_frequency(labels, 3)
    known = labels[labels >= 0]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=known.numpy())
    torch.testing.assert_close(weights.double(), torch.from_numpy(expected), rtol=1e-6, atol=0)
    assert weights[known].mean() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="class 3 of 4"):
        inverse_frequency(labels, 4)


def test_a_loss_by_hand():
    even, sure = [0.0, 0.0], [0.0, 100.0]
    logits = {"gender": torch.tensor([even, sure, sure]), "race": torch.tensor([even, even, even])}
    labels = {"gender": torch.tensor([0, 1, -1]), "race": torch.tensor([1, 0, 0])}
    losses = attribute_losses(logits, labels, {"race": torch.tensor([0.5, 2.0])})
    assert losses["gender"].item() == pytest.approx(0.693147 / 2)  # the third is unknown
    assert losses["race"].item() == pytest.approx(0.693147 * (2.0 + 0.5 + 0.5) / 3)


def test_what_is_not_known_teaches_nothing():
    logits = {"race": torch.randn(4, 5, requires_grad=True)}
    loss = attribute_losses(logits, {"race": torch.tensor([2, -1, -1, 0])}, {})["race"]
    loss.backward()
    touched = logits["race"].grad.abs().sum(dim=1) > 0
    assert touched.tolist() == [True, False, False, True]


def test_a_batch_without_any_label_costs_nothing():
    logits = {"race": torch.randn(2, 5, requires_grad=True)}
    loss = attribute_losses(logits, {"race": torch.tensor([-1, -1])}, {})["race"]
    loss.backward()
    assert loss.item() == 0.0
    assert not logits["race"].grad.any()


def test_a_head_starts_with_what_is_frequent():
    heads = AttributeHeads(6, {"race": 3})
    heads.start_at("race", torch.tensor([0] * 5 + [1] * 2 + [-1] * 3))
    probabilities = heads(torch.randn(4, 6))["race"].softmax(dim=1)
    torch.testing.assert_close(probabilities, torch.tensor([[0.6, 0.3, 0.1]]).expand(4, -1))
